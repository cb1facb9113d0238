"""What the folder of a corpus holds, for messages."""

from __future__ import annotations

from pathlib import Path

from kikimimi.errors import RequestError, listing, nearest

_SHOWN = 12


def is_missing(folder: Path, wanted: str, what: str, hint: str = "") -> RequestError:
    """Return the error that a corpus does not hold what its layout needs: what was looked for, what is there.

    Args:
        folder: Where it was looked for.
        wanted: The name of the file or folder.
        what: What it would hold.
        hint: Another sentence, such as which option chooses differently.
    """
    if not folder.is_dir():
        return RequestError(f"{folder}: no such folder; looked for {wanted} in it ({what})")
    names = sorted(path.name for path in folder.iterdir())
    there = listing(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    guess = nearest(wanted, names)
    return RequestError(
        f"{folder}: there is no {wanted} ({what}).{guess} There is: {there}.{' ' if hint else ''}{hint}"
    )

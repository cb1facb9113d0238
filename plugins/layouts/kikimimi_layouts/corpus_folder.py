"""What corpora share: the folder of transcripts, the name of a licence, and what is missing."""

import re
from collections.abc import Iterator
from pathlib import Path

from kikimimi import DataError, RequestError, listing, nearest

_SHOWN = 12
_CREATIVE_COMMONS = re.compile(r"https?://creativecommons\.org/(?:licenses|publicdomain)/([a-z+-]+)/([\d.]+)")


def is_missing(folder: Path, wanted: str, what: str) -> RequestError:
    """Return the error that a corpus does not hold what its layout needs: what was looked for, what is there.

    Args:
        folder: Where it was looked for.
        wanted: The name of the file or folder.
        what: What it would hold.
    """
    if not folder.is_dir():
        return RequestError(f"{folder}: no such folder; looked for {wanted} in it ({what})")
    names = sorted(path.name for path in folder.iterdir())
    there = listing(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    guess = nearest(wanted, names)
    return RequestError(f"{folder}: there is no {wanted} ({what}).{guess} There is: {there}.")


def find_file(path: Path, what: str) -> Path:
    """Return the path of a file of a corpus, or raise a RequestError that says what it would hold."""
    if not path.is_file():
        raise is_missing(path.parent, path.name, what)
    return path


def find_folder(path: Path, what: str) -> Path:
    """Return the path of a folder of a corpus, or raise a RequestError that says what it would hold."""
    if not path.is_dir():
        raise is_missing(path.parent, path.name, what)
    return path


def lines_of(transcript: Path) -> Iterator[tuple[str, str]]:
    """Yield the place (``trans.txt:7``) and the text of each line that is not blank.

    Raises:
        DataError: The file is not UTF-8.
    """
    try:
        lines = transcript.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{transcript}: not UTF-8: {error}") from error
    yield from ((f"{transcript}:{number}", line) for number, line in enumerate(lines, 1) if line.strip())


def licence_name(address: str) -> str:
    """Return the SPDX name of a Creative Commons licence; what is none is returned as it is.

    SPDX has no name for the retired Sampling+ licence, only the form for such cases: ``LicenseRef-...``.
    """
    found = _CREATIVE_COMMONS.match(address.strip())
    if found is None:
        return address.strip()
    kind, version = found[1], found[2].rstrip(".")
    if kind == "zero":
        return f"CC0-{version}"
    if "sampling" in kind:
        return f"LicenseRef-CC-{kind.replace('+', '-Plus').title()}-{version}"
    return f"CC-{kind.upper()}-{version}"

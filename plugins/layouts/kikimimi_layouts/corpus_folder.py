"""What corpora share: the folder of transcripts, the name of a licence, and what is missing."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from kikimimi import BadRow, DataError, RequestError, listing, nearest

_SHOWN = 12
_Read = TypeVar("_Read")
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
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
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


def read_lines(transcript: Path, read: Callable[[str], _Read]) -> Iterator[_Read | BadRow]:
    """Yield what is read from each line of a transcript that is not blank, or why it cannot be.

    Args:
        transcript: The file, UTF-8. Lines end at line feeds, and nowhere else.
        read: Called with a line; raises a ValueError where it is wrong.
    """
    for number, line in enumerate(transcript.read_bytes().split(b"\n"), 1):
        where = f"{transcript}:{number}"
        if not line.strip():
            continue
        try:
            found: _Read | BadRow = read(
                line.decode("utf-8-sig" if number == 1 else "utf-8").removesuffix("\r")
            )
        except UnicodeDecodeError as error:
            found = BadRow(where, f"{where}: not UTF-8: {error}")
        except ValueError as error:
            found = BadRow(where, f"{where}: {error}")
        yield found


def any_good(rows: list[_Read | BadRow]) -> list[_Read | BadRow]:
    """Return rows of which one at least can be read.

    Raises:
        DataError: None can; the message is that of the first.
    """
    if rows and isinstance(rows[0], BadRow) and all(isinstance(row, BadRow) for row in rows):
        raise DataError(rows[0].reason)
    return rows


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

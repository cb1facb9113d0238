"""Where the files of a row are: as the disk spells them, or why they are not there and what lies near."""

import errno
import os
import stat
from dataclasses import replace
from pathlib import Path

from kikimimi.contracts.layout import Clip, Segment, as_on_disk


class MissingClipError(Exception):
    """No file can be read at the path of a clip; the message says why, and what lies near."""


def located(clip: Clip) -> Clip:
    """Return a clip whose file is there, spelt as on the disk.

    Raises:
        MissingClipError: There is no file at its path, or the system does not let it be looked up.
    """
    if isinstance(clip, Segment):
        return replace(clip, source=_located(clip.source))
    return _located(clip)


def _located(source: Path | bytes) -> Path | bytes:
    if isinstance(source, bytes):
        return source
    path = as_on_disk(source)
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # a NUL in a name is a ValueError
        raise MissingClipError(f"no such file: {source}{_near(source)}") from None
    except OSError as error:
        raise MissingClipError(f"no file can be read at {source}: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "no plain file"
        raise MissingClipError(f"no such file: {source} is {what}")
    if not os.access(path, os.R_OK):
        raise MissingClipError(f"no file can be read at {source}: {os.strerror(errno.EACCES)}")
    return path


def of_the_file(error: OSError) -> bool:
    """Tell whether an error is one file's, and not that of a system that is full, or has too many open."""
    return error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT)


def _near(path: Path) -> str:
    """Name a file that is there and differs in what people do not see: blanks, strokes or capitals."""
    name = str(path)
    others = [
        Path(name.replace("\\", "/")),
        *(path.parent / other for other in (path.name.strip(), path.stem + path.suffix.lower())),
        path.parent / (path.stem + path.suffix.upper()),
    ]
    found = next((other for other in others if other != path and os.path.isfile(other)), None)
    return "" if found is None else f". There is '{found}': write it so"

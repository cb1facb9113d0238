"""How the files are called that hold a set of tensors: one file, or one for each rank of a sharded run."""

from __future__ import annotations

import re
from pathlib import Path

_PIECE = re.compile(r"(?P<stem>.+)\.rank(?P<rank>\d+)-of-(?P<ranks>\d+)\.safetensors")


def whole_name(stem: str) -> str:
    """Return the name of the file of a set that is whole."""
    return f"{stem}.safetensors"


def piece_name(stem: str, rank: int, ranks: int) -> str:
    """Return the name of one rank's file of a set."""
    return f"{stem}.rank{rank}-of-{ranks}.safetensors"


def find_set(folder: Path, stem: str) -> Path:
    """Return the file of a set, or the first of its pieces; of a set that is not there, its file if whole."""
    pieces = sorted(folder.glob(f"{stem}.rank0-of-*.safetensors"))
    return pieces[0] if pieces else folder / whole_name(stem)


def pieces_of(path: Path) -> list[Path]:
    """Return the files of a set: the path itself, or of a piece, all pieces that belong together."""
    found = _PIECE.fullmatch(path.name)
    if found is None:
        return [path]
    ranks = int(found["ranks"])
    return [path.with_name(piece_name(found["stem"], rank, ranks)) for rank in range(ranks)]

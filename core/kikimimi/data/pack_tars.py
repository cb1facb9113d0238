"""Shards that were made elsewhere, as WebDataset tars: nothing is packed, they only get their indexes."""

from __future__ import annotations

from pathlib import Path

from kikimimi.data.pack_source import matching
from kikimimi.data.shards import expand


def find_tars(source: str) -> list[str]:
    """Return the shards that a source names, or none where it is a corpus that a layout reads.

    Args:
        source: A ``.tar``, a pattern of them with wildcards or braces, or a folder that holds them.

    Raises:
        RequestError: A pattern matches nothing, or names what is missing.
    """
    path = Path(source).expanduser()
    if path.exists() and matching(path)[0]:
        return []
    if path.is_dir():
        return [str(tar) for tar in sorted(path.glob("*.tar"))]
    return list(expand(source)) if source.endswith(".tar") else []

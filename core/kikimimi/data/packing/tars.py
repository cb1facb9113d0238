"""Shards that were made elsewhere, as WebDataset tars: nothing is packed, they only get their indexes."""

from __future__ import annotations

from pathlib import Path

from kikimimi.data.packing.source import matching
from kikimimi.data.shards.shards import expand


def find_tars(source: str) -> list[str]:
    """Return the shards that a source names, or none where it is a corpus that a layout reads.

    Args:
        source: A ``.tar``, a pattern of them with wildcards or braces, or a folder that holds them.

    Raises:
        RequestError: A pattern matches nothing, or names what is missing.
    """
    if source.endswith(".tar"):
        return expand(source)
    # Archives of a corpus may lie beside what a layout reads: they are no shards.
    folder = Path(source).expanduser()
    tars = sorted(folder.glob("*.tar")) if folder.is_dir() else []
    return [str(tar) for tar in tars] if tars and not matching(folder)[0] else []

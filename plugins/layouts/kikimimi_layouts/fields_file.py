"""Reads a file of fields, or one that is shipped."""

from __future__ import annotations

from pathlib import Path

from kikimimi import RequestError, listing, nearest, read_options
from kikimimi_layouts.fields_schema import Fields

FIELDS_FOLDER = Path(__file__).parent / "fields"
"""Holds the shipped files."""


def shipped_fields() -> list[str]:
    """Return the names of the shipped files."""
    return sorted(path.stem for path in FIELDS_FOLDER.glob("*.yaml"))


def load_fields(source: str) -> Fields:
    """Read which columns are what.

    Args:
        source: Path of a YAML file, or the name of one that is shipped (``spoken-magpie-ja``).

    Raises:
        RequestError: There is no such file, or it is wrong; then the message holds every problem found.
    """
    shipped = shipped_fields()
    path = FIELDS_FOLDER / f"{source}.yaml" if source in shipped else Path(source)
    if not path.is_file():
        raise RequestError(
            f"fields: there is no file {source}, and none of this name is shipped.{nearest(source, shipped)} "
            f"Shipped: {listing(shipped)}"
        )
    return read_options(path, Fields, what="a file of fields")

"""Two columns of a table."""

from pathlib import Path

from kikimimi.evaluation.columns import read_texts


def read_pairs(
    path: Path, reference: str, prediction: str, *, left_out: list[str] | None = None
) -> tuple[list[str], list[str]]:
    """Return references and predictions."""
    found = read_texts(path, [reference, prediction], left_out=left_out)
    return found[reference], found[prediction]

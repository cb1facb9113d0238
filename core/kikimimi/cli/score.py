"""``kikimimi score``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def score(
    file: Annotated[
        Path, typer.Argument(help="Table in UTF-8: .csv, .tsv (no quoting) or .jsonl.", metavar="FILE")
    ],
    reference: Annotated[str, typer.Option(help="Column that holds what was said.")],
    prediction: Annotated[str, typer.Option(help="Column that holds what a system wrote.")],
    normaliser: Annotated[
        str, typer.Option(help="What both sides go through first; 'kikimimi plugins' lists the normalisers.")
    ],
    metric: Annotated[str, typer.Option(help="cer (characters) or wer (words).")] = "cer",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Score the predictions in a table against its references.

    The rate is that of the corpus: all edits over the length of all references. Rows whose reference is empty
    after normalisation cannot be scored; they are left out and counted.
    """
    from kikimimi.evaluation.pairs import read_pairs
    from kikimimi.evaluation.score import UNITS, parse_metric, score as compute

    wanted = parse_metric(metric)
    result = compute(*read_pairs(file, reference, prediction), metric=wanted, normaliser=normaliser)
    if as_json:
        typer.echo(json.dumps(result.to_json(), ensure_ascii=False))
        return
    rows = [
        (wanted.upper(), f"{result.value:.4f} %"),
        ("normaliser", result.normaliser),
        ("pairs", f"{result.count}"),
        ("skipped", f"{result.skipped} (reference empty after normalisation)"),
        (UNITS[wanted], f"{result.reference_length}"),
        ("substitutions", f"{result.substitutions}"),
        ("deletions", f"{result.deletions}"),
        ("insertions", f"{result.insertions}"),
    ]
    for label, value in rows:
        typer.echo(f"{label:<14} {value}")

"""``kikimimi evaluate`` and ``kikimimi score``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kikimimi.console.terminal import say, say_json

if TYPE_CHECKING:
    from kikimimi.contracts.metric import Score
    from kikimimi.run.folder import RunFolder

_COUNTED = {
    "truncated": "ended because no more tokens were allowed",
    "looped": "a piece of text over and over",
    "thoughts": "not scored",
}


def evaluate(
    run: Path = typer.Argument(..., help="A run folder."),
    overrides: list[str] = typer.Argument(
        None,
        help="Evaluations to add or change: evaluate.NAME.metric=wer, evaluate.NEW={shards: ..., task: asr}. "
        "What was predicted is not predicted again.",
    ),
    source: Path | None = typer.Option(
        None, "--from", metavar="RECIPE_OR_RUN", help="Take the evaluations of another recipe, or of a run."
    ),
    only: list[str] = typer.Option(
        [],
        "--only",
        help="Name of an evaluation; again for more. Default: those that are added or changed, else all.",
    ),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object instead of a table."),
) -> None:
    """Evaluate a run and its baselines, and write the report."""
    from kikimimi.data.shards.pattern import patterns_of
    from kikimimi.evaluation.evaluate import evaluate as evaluate_run
    from kikimimi.evaluation.record import open_changed
    from kikimimi.evaluation.score import print_scores
    from kikimimi.files.writing import check_target
    from kikimimi.inference.ranks import is_spread
    from kikimimi.report.run_report import write_run_report
    from kikimimi.run.folder import RunFolder

    folder, named = open_changed(run, overrides or [], source)
    check_target(folder.report)
    with patterns_of(source):
        if is_spread(folder.recipe.trainer):
            scores = _evaluate_in_pieces(folder, only or named)
        else:
            scores = evaluate_run(folder, only or named)
    if scores is None:
        return
    write_run_report(RunFolder.open(run))
    if as_json:
        listed = {name: {s: v.to_json() for s, v in systems.items()} for name, systems in scores.items()}
        say_json(listed)
        return
    print_scores(scores)
    say(f"report: {folder.report}", error=True)


def _evaluate_in_pieces(run: RunFolder, names: Sequence[str]) -> dict[str, dict[str, Score]] | None:
    """Evaluate on the ranks that a recipe spreads its model over; None on every rank but the first."""
    from kikimimi.evaluation.evaluate import evaluate as evaluate_run
    from kikimimi.inference.ranks import Ranks
    from kikimimi.training.launcher import check_launcher
    from kikimimi.training.parallel.lost_rank import lost_ranks_told

    check_launcher(run.recipe.trainer)
    with lost_ranks_told():
        ranks = Ranks(run)
        if not ranks.leads:
            ranks.follow()
            return None
        try:
            return evaluate_run(run, names, ranks)
        finally:
            ranks.end()


def score(
    file: Annotated[
        Path, typer.Argument(help="Table in UTF-8: .csv, .tsv (no quoting) or .jsonl.", metavar="FILE")
    ],
    reference: Annotated[str, typer.Option(help="Column that holds what was said.")],
    prediction: Annotated[str, typer.Option(help="Column that holds what a system wrote.")],
    normaliser: Annotated[
        str, typer.Option(help="What both sides go through first; 'kikimimi plugins' lists the normalisers.")
    ],
    metric: Annotated[str, typer.Option(help="How they are compared: cer, wer or another metric.")] = "cer",
    bad_rows: Annotated[
        Literal["fail", "drop"],
        typer.Option(help="fail: a malformed row is an error. drop: leave such rows out, and count them."),
    ] = "fail",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Score the predictions in a table against its references.

    An error rate is that of the corpus: all edits over the length of all references. Rows whose reference is
    empty after normalisation cannot be scored; they are left out and counted.
    """
    from kikimimi.contracts.registry import load
    from kikimimi.evaluation.pairs import read_pairs
    from kikimimi.evaluation.score import score as compute

    left_out: list[str] = []
    pairs = read_pairs(file, reference, prediction, left_out=left_out if bad_rows == "drop" else None)
    result = compute(*pairs, metric=metric, normaliser=normaliser)
    if left_out:
        say(f"the first malformed row: {left_out[0]}", error=True)
    counted = {"malformed": len(left_out)} if bad_rows == "drop" else {}
    if as_json:
        say_json({**result.to_json(), **counted})
        return
    labels = load("metric", metric).labels
    rows = [
        (result.label, result.shown(form=".4f")),
        ("normaliser", result.normaliser),
        ("pairs", f"{result.count}"),
        ("skipped", f"{result.skipped} (reference empty after normalisation)"),
        *((name, f"{number} ({_COUNTED[name]})") for name, number in result.counts.items()),
        *((name, f"{count} (left out)") for name, count in counted.items()),
        *((labels.get(name, name), f"{value}") for name, value in result.details.items()),
    ]
    for label, value in rows:
        say(f"{label:<14} {value}")

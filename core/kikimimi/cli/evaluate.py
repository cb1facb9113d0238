"""``kikimimi evaluate``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from kikimimi.console.terminal import say, say_json

if TYPE_CHECKING:
    from kikimimi.contracts.metric import Score
    from kikimimi.guards.verdict import Verdict
    from kikimimi.run.folder import RunFolder


def evaluate(
    run: Path = typer.Argument(..., help="A run folder."),
    overrides: list[str] = typer.Argument(
        None,
        help="Evaluations to add or change: evaluate.NAME.metric=wer, evaluate.NEW={shards: ..., task: asr}. "
        "What was predicted is not predicted again.",
    ),
    source: Path | None = typer.Option(
        None,
        "--from",
        metavar="RECIPE_OR_RUN",
        help="Take the evaluations of another recipe, of a file that holds nothing else, of a shipped one by "
        "its name (japanese-asr; docs/benchmarks.md), or of a run.",
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
    from kikimimi.evaluation.print_scores import print_comparisons, print_scores
    from kikimimi.evaluation.record import open_changed
    from kikimimi.evaluation.scoring import own_comparisons
    from kikimimi.files.writing import check_target
    from kikimimi.guards.guard import guard_run
    from kikimimi.guards.table import print_verdict
    from kikimimi.inference.ranks import are_several
    from kikimimi.report.run_report import write_run_report
    from kikimimi.run.folder import RunFolder

    folder, named = open_changed(run, overrides or [], source)
    check_target(folder.report)
    with patterns_of(source):
        if are_several(folder.recipe.trainer):
            scores, verdict = _evaluate_on_ranks(folder, only or named)
        else:
            scores, verdict = evaluate_run(folder, only or named), guard_run(folder)
    if scores is None:
        return
    write_run_report(RunFolder.open(run))
    if as_json:
        listed = {name: {s: v.to_json() for s, v in systems.items()} for name, systems in scores.items()}
        say_json(listed)
        return
    print_scores(scores)
    for unit, pairs in own_comparisons(folder, scores).items():
        print_comparisons(pairs, unit)
    if verdict is not None:
        print_verdict(verdict)
    say(f"report: {folder.report}", error=True)


def _evaluate_on_ranks(
    run: RunFolder, names: Sequence[str]
) -> tuple[dict[str, dict[str, Score]] | None, Verdict | None]:
    """Evaluate on the ranks that a recipe runs on; no scores on every rank but the first."""
    from kikimimi.evaluation.evaluate import evaluate as evaluate_run
    from kikimimi.guards.guard import guard_run
    from kikimimi.inference.ranks import Ranks
    from kikimimi.training.launcher import check_launcher
    from kikimimi.training.parallel.lost_rank import lost_ranks_told

    check_launcher(run.recipe.trainer)
    with lost_ranks_told():
        ranks = Ranks(run)
        if not ranks.leads:
            ranks.follow()
            return None, None
        try:
            return evaluate_run(run, names, ranks), guard_run(run, ranks)
        finally:
            ranks.end()

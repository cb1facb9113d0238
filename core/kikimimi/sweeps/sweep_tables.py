"""A sweep's results as tables: one row per run as CSV, one per setting for papers."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from io import StringIO
from typing import Any

from kikimimi.console.terminal import csv_cell, visible
from kikimimi.console.words import duration
from kikimimi.report.paper_table import latex_bold, latex_text, markdown_text
from kikimimi.sweeps.run_result import RunResult
from kikimimi.sweeps.summary import EvaluationSummary, SettingSummary, SweepSummary

_OWN = (
    "run",
    "seed",
    "state",
    "cause",
    "validation_loss",
    "trainable_parameters",
    "seconds",
    "audio_seconds_per_second",
    "memory_bytes",
)
"""Columns of ``results.csv`` that are no factors."""


def results_csv(summary: SweepSummary, results: Sequence[RunResult]) -> str:
    """Return one row for each run: its levels, what became of it, its scores and its costs."""
    trainable = {one.name: one.trainable for one in summary.settings}
    rows = [_row(summary, result, trainable) for result in results]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    file = StringIO()
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writerow({name: csv_cell(name) for name in columns})
    writer.writerows({name: csv_cell(value) for name, value in row.items()} for row in rows)
    return file.getvalue()


def _row(summary: SweepSummary, result: RunResult, trainable: dict[str, int | None]) -> dict[str, Any]:
    run, state = result.run, result.state
    levels = {f"factor {name}" if name in _OWN else name: label for name, label in run.levels.items()}
    row: dict[str, Any] = {"run": run.name, **levels}
    if summary.seeds:
        row["seed"] = run.seed
    row |= {"state": state.state, "cause": state.cause}
    for evaluation in summary.evaluations:
        name = f"{evaluation.name} {evaluation.label}"
        score = result.scores.get(evaluation.name)
        low, high = (score and score.score.interval) or (None, None)
        row |= {name: score and score.score.value, f"{name} low": low, f"{name} high": high}
        row[f"{evaluation.name} clips"] = score and score.score.count
    return row | {
        "validation_loss": result.curve[-1][1] if result.curve else None,
        "trainable_parameters": trainable.get(run.setting or summary.name),
        "seconds": result.seconds,
        "audio_seconds_per_second": result.speed,
        "memory_bytes": result.memory,
    }


def settings_markdown(summary: SweepSummary) -> str:
    """Return settings x evaluations with intervals and costs, as Markdown."""
    factors = [*summary.factors]
    heads = [*map(markdown_text, [*factors, *_heads(summary)]), "Seeds", "Trained", "Time"]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(factors)}{'---:|' * (len(heads) - len(factors))}"]
    for one in summary.settings:
        levels = [markdown_text(one.levels[name]) for name in factors]
        lines.append(f"| {' | '.join([*levels, *_cells(summary, one, '**{}**'.format), *_costs(one)])} |")
    return "\n".join([*lines, "", *map(markdown_text, table_notes(summary))]) + "\n"


def settings_latex(summary: SweepSummary) -> str:
    """Return the same as LaTeX (package booktabs)."""
    factors = [*summary.factors]
    heads = [*map(latex_text, [*factors, *_heads(summary)]), "Seeds", "Trained", "Time"]
    lines = [
        rf"\begin{{tabular}}{{{'l' * len(factors)}{'r' * (len(heads) - len(factors))}}}",
        r"\toprule",
        f"{' & '.join(heads)} \\\\",
        r"\midrule",
    ]
    for one in summary.settings:
        levels = [latex_text(one.levels[name]) for name in factors]
        lines.append(f"{' & '.join([*levels, *_cells(summary, one, latex_bold), *_costs(one)])} \\\\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    return "\n".join([*lines, *(f"% {visible(note)}" for note in table_notes(summary))]) + "\n"


def _heads(summary: SweepSummary) -> Iterator[str]:
    for evaluation in summary.evaluations:
        yield f"{evaluation.name} {evaluation.label}{f' [{evaluation.unit}]' if evaluation.unit else ''}"


def _cells(summary: SweepSummary, one: SettingSummary, bold: Callable[[str], str]) -> Iterator[str]:
    for evaluation in summary.evaluations:
        score = one.scores.get(evaluation.name)
        if score is None:
            yield "-"
            continue
        value = f"{score.value:.2f}"
        ends = "" if score.low is None else f" ({score.low:.2f} to {score.high:.2f})"
        yield f"{bold(value) if score.best else value}{ends}"


def _costs(one: SettingSummary) -> Iterator[str]:
    yield f"{one.finished}/{one.runs}"
    yield "-" if one.trainable is None else f"{one.trainable:,}"
    yield "-" if one.seconds is None else duration(one.seconds)


def table_notes(summary: SweepSummary) -> Iterator[str]:
    """Yield how the tables are read, and what they do not say."""
    if not summary.evaluations:
        return
    yield (
        "Means over seeds; in brackets 95 % intervals over seeds and clips (clips by the bootstrap, seeds by "
        "Student's t, their variance pooled over settings)."
    )
    for evaluation in summary.evaluations:
        said = f"{evaluation.better} is better; {evaluation.clips:,} clips. {_best(evaluation)}"
        yield f"{evaluation.name}: {said}"
        yield from (f"{evaluation.name}: {note}." for note in evaluation.notes)


def _best(evaluation: EvaluationSummary) -> str:
    if not evaluation.pairs:
        return "No test was made."
    settled = sum(pair.settled for pair in evaluation.pairs)
    if not settled:
        return "Nothing is bold: the paired test tells no setting from the best value (Holm, 5 %)."
    return (
        "Bold: the best value, and what the paired test does not tell from it (Holm over the comparisons of "
        "every two settings, 5 %)."
    )

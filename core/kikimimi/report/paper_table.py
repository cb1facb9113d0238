"""Scores as tables for papers: Markdown and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from kikimimi.console.terminal import visible
from kikimimi.contracts.metric import Score
from kikimimi.report.report import ScoreRow, best_of, pair_of

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}
_MARKDOWN = re.compile(r"([\\|*_`<>\[\]$~&])")
_Columns = dict[tuple[str, str, str], list[ScoreRow]]


def markdown_table(rows: Sequence[ScoreRow], own: str) -> str:
    """Return systems x evaluations with intervals, as Markdown.

    Args:
        rows: The scores.
        own: The system that others are compared with.
    """
    columns = _columns(rows)
    heads = [
        f"{markdown_text(name)} {score.label}{f' [{score.unit}]' if score.unit else ''}"
        for name, score in _heads(columns)
    ]
    lines = [
        f"| System | {' | '.join(heads)} |",
        f"|---|{'---:|' * len(heads)}",
        *(
            f"| {markdown_text(system)} | {' | '.join(_cells(columns, system, own, '**{}**'.format))} |"
            for system in _systems(rows)
        ),
        "",
        _note(columns, own),
    ]
    return "\n".join(lines) + "\n"


def latex_table(rows: Sequence[ScoreRow], own: str) -> str:
    """Return systems x evaluations with intervals, as LaTeX (package booktabs).

    Args:
        rows: The scores.
        own: The system that others are compared with.
    """
    columns = _columns(rows)
    heads = [
        latex_text(f"{name} {score.label}{f' [{score.unit}]' if score.unit else ''}")
        for name, score in _heads(columns)
    ]
    lines = [
        rf"\begin{{tabular}}{{l{'r' * len(heads)}}}",
        r"\toprule",
        f"System & {' & '.join(heads)} \\\\",
        r"\midrule",
        *(
            f"{latex_text(system)} & {' & '.join(_cells(columns, system, own, latex_bold))} \\\\"
            for system in _systems(rows)
        ),
        r"\bottomrule",
        r"\end{tabular}",
        f"% {_note(columns, own)}",
    ]
    return "\n".join(lines) + "\n"


def _columns(rows: Sequence[ScoreRow]) -> _Columns:
    """Return the rows of each evaluation and metric, of the settings that were scored first."""
    found: _Columns = {}
    notes: dict[str, str] = {}
    for row in rows:
        if notes.setdefault(row.evaluation, row.note) == row.note:
            found.setdefault((row.evaluation, row.score.metric, row.score.normaliser), []).append(row)
    return found


def _heads(columns: _Columns) -> list[tuple[str, Score]]:
    return [(name, rows[0].score) for (name, _, _), rows in columns.items()]


def _systems(rows: Sequence[ScoreRow]) -> list[str]:
    return list(dict.fromkeys(row.system for row in rows))


def _cells(columns: _Columns, system: str, own: str, bold: Callable[[str], str]) -> list[str]:
    cells = []
    for rows in columns.values():
        found = next((row for row in rows if row.system == system), None)
        if found is None:
            cells.append("")
            continue
        value = f"{found.score.value:.2f}"
        value = bold(value) if system in best_of(rows) else value
        pair = pair_of(rows, system, own)
        mark = "*" if pair is not None and pair.significant else ""
        ends = f" ({found.score.ends})" if found.score.ends else ""
        cells.append(f"{value}{mark}{ends}{' (not valid)' if found.score.invalid else ''}")
    return cells


def _note(columns: _Columns, own: str) -> str:
    normalisers = dict.fromkeys(
        f"{rows[0].score.normaliser} {rows[0].score.normaliser_hash or ''}".rstrip()
        for rows in columns.values()
    )
    counts = ", ".join(
        f"{name}: {score.count:,}{score.drawn and f' (drawn{score.drawn})'}"
        for name, score in _heads(columns)
    )
    return (
        "In brackets: 95 % intervals by the bootstrap (1,000 draws). Bold: the best, and what a paired "
        f"bootstrap cannot tell from it. *: differs from {own}, by the same test. "
        f"Normaliser: {', '.join(normalisers)}. Utterances: {counts}."
    )


def markdown_text(text: str) -> str:
    """Return a text as Markdown shows it, on one line."""
    return _MARKDOWN.sub(r"\\\1", visible(text))


def latex_text(text: str) -> str:
    """Return a text as LaTeX shows it, on one line; it may begin a row, too."""
    # The end of the row before would take a bracket or a star for its own.
    begin = "{}" if text.startswith(("[", "*")) else ""
    return begin + "".join(_LATEX.get(character, character) for character in visible(text))


def latex_bold(text: str) -> str:
    """Return LaTeX in bold."""
    return rf"\textbf{{{text}}}"

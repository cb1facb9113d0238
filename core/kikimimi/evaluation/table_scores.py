"""Scores of tables of predictions from anywhere, and how the systems in them differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from kikimimi.console.words import counted
from kikimimi.contracts.metric import Details, MetricConfig, MetricItem, Score, open_metric
from kikimimi.errors import RequestError
from kikimimi.evaluation.bootstrap import Comparison, compare
from kikimimi.evaluation.breakdown import break_down, groups_in
from kikimimi.evaluation.columns import read_texts
from kikimimi.evaluation.score import score_items


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What of tables is scored, and how.

    Attributes:
        reference: The column that holds what was said.
        predictions: Columns that hold what systems wrote.
        question: The column that holds what was asked, for metrics that go by it; None where there is none.
        key: The column that tells rows apart; None goes by their order.
        interval_by: The column whose groups the interval draws whole; None draws rows.
        by: Columns by which scores are broken down.
        metric: Registered name of the metric.
        config: Its options; None for the defaults.
        normalisers: Registered names; scores are given for each.
        drop: Leave malformed rows out, and count them; otherwise they are errors.
    """

    reference: str
    predictions: Sequence[str]
    question: str | None = None
    key: str | None = None
    interval_by: str | None = None
    by: Sequence[str] = ()
    metric: str = "cer"
    config: MetricConfig | None = None
    normalisers: Sequence[str] = ("none",)
    drop: bool = False


@dataclass(frozen=True, kw_only=True)
class SystemTable:
    """What a system wrote, row by row.

    Attributes:
        name: The system's.
        keys: What tells rows apart: a key, or their number.
        references: What was said.
        predictions: What it wrote.
        questions: What was asked; empty texts where that is not known.
        groups: What each row belongs to, by column.
        malformed: Why rows were left out.
    """

    name: str
    keys: Sequence[str | int]
    references: Sequence[str]
    predictions: Sequence[str]
    questions: Sequence[str]
    groups: Mapping[str, Sequence[str]]
    malformed: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class TableScore:
    """A score of a system, with one normaliser.

    Attributes:
        system: The system's name.
        score: The score.
        parts: Values by column and by group: ``value``, ``count``, ``low``, ``high``.
    """

    system: str
    score: Score
    parts: Mapping[str, Mapping[str, Mapping[str, float]]]


@dataclass(frozen=True, kw_only=True)
class PairScore:
    """How two systems differ on the rows that both have.

    Attributes:
        one: The one.
        other: The other; the difference is the one's value less this one's.
        normaliser: What both went through.
        comparison: The difference.
    """

    one: str
    other: str
    normaliser: str
    comparison: Comparison


@dataclass(frozen=True, kw_only=True)
class TableScores:
    """All scores of some tables.

    Attributes:
        tables: What was read.
        scores: Scores of every system, normaliser by normaliser.
        pairs: Differences of every two systems, normaliser by normaliser.
        missing: What is said of rows that only some systems have.
    """

    tables: Sequence[SystemTable]
    scores: Sequence[TableScore]
    pairs: Sequence[PairScore]
    missing: Sequence[str] = field(default=())


def score_tables(paths: Sequence[Path], wanted: Wanted) -> TableScores:
    """Score every prediction column of every table, and compare each two systems on the rows they share.

    Args:
        paths: Tables. One names systems by their columns, several by their names.
        wanted: What is scored, and how.

    Raises:
        RequestError: A table cannot be read, keys repeat, references of a row differ between tables, or the
            metric does not take the rows.
        PluginError: No such metric or normaliser.
    """
    for normaliser in wanted.normalisers:
        open_metric(wanted.metric, normaliser, wanted.config)  # an error comes before the work
    tables = [table for path in paths for table in _read(path, wanted, alone=len(paths) == 1)]
    missing = [said for pair in combinations(tables, 2) for said in _check_pair(*pair, wanted)]
    scores, pairs = [], []
    for normaliser in wanted.normalisers:
        found = [_score(table, normaliser, wanted) for table in tables]
        scores += found
        of = list(zip(tables, [one.score for one in found], strict=True))
        for (one, own), (other, others) in combinations(of, 2):
            comparison = _compare(one, own, other, others, wanted)
            if comparison is not None:
                pairs.append(
                    PairScore(one=one.name, other=other.name, normaliser=normaliser, comparison=comparison)
                )
    return TableScores(tables=tables, scores=scores, pairs=pairs, missing=missing)


def _read(path: Path, wanted: Wanted, *, alone: bool) -> list[SystemTable]:
    left_out: list[str] | None = [] if wanted.drop else None
    if wanted.reference in wanted.predictions:
        raise RequestError(f"reference and prediction are both column '{wanted.reference}': name two columns")
    groups = [*wanted.by, *([] if wanted.interval_by is None else [wanted.interval_by])]
    values = [*groups, *([] if wanted.key is None else [wanted.key])]
    asked = [] if wanted.question is None else [wanted.question]
    columns = read_texts(path, [wanted.reference, *wanted.predictions, *asked], values, left_out=left_out)
    references = columns[wanted.reference]
    keys: Sequence[str | int] = range(len(references)) if wanted.key is None else columns[wanted.key]
    if wanted.key is not None and len(set(keys)) < len(keys):
        seen: set[str | int] = set()
        twice = next(key for key in keys if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise RequestError(f"{path}: column '{wanted.key}' holds '{twice}' more than once")
    several = len(wanted.predictions) > 1
    return [
        SystemTable(
            name=name if alone else f"{path}: {name}" if several else str(path),
            keys=keys,
            references=references,
            predictions=columns[name],
            questions=columns[asked[0]] if asked else [""] * len(references),
            groups={
                group: groups_in([{group: value} for value in columns[group]], group) or []
                for group in groups
            },
            malformed=left_out or [],
        )
        for name in wanted.predictions
    ]


def _check_pair(one: SystemTable, other: SystemTable, wanted: Wanted) -> list[str]:
    """Check that rows of two tables are the same; return what is said of those that only one has."""
    there = dict(zip(other.keys, other.references, strict=True))
    by_order = "" if wanted.key is not None else ". Rows go by their order: --key COLUMN tells them apart"
    for key, reference in zip(one.keys, one.references, strict=True):
        if key in there and there[key] != reference:
            row = f"row {key + 1}" if isinstance(key, int) else f"row '{key}'"
            raise RequestError(f"{one.name} and {other.name}: {row} has different references{by_order}")
    said = []
    for a, b in ((one, other), (other, one)):
        if lacking := set(a.keys) - set(b.keys):
            said.append(f"{counted(len(lacking), 'row')} of {a.name} missing in {b.name}: not compared")
    return said


def _score(table: SystemTable, normaliser: str, wanted: Wanted) -> TableScore:
    drawn = None if wanted.interval_by is None else table.groups[wanted.interval_by]
    rows = zip(table.references, table.predictions, table.questions, strict=True)
    found = score_items(
        [MetricItem(reference=said, prediction=wrote, question=asked) for said, wrote, asked in rows],
        metric=wanted.metric,
        normaliser=normaliser,
        config=wanted.config,
        groups=drawn,
        interval_by=wanted.interval_by,
    )
    metric, _ = open_metric(wanted.metric, normaliser, wanted.config)
    parts = {name: break_down(metric, found.utterances, table.groups[name], drawn) for name in wanted.by}
    return TableScore(system=table.name, score=found, parts=parts)


def _compare(
    one: SystemTable, own: Score, other: SystemTable, others: Score, wanted: Wanted
) -> Comparison | None:
    metric, _ = open_metric(wanted.metric, own.normaliser, wanted.config)
    theirs: dict[str | int, Details | None] = dict(zip(other.keys, others.utterances, strict=True))
    rows = [row for row, key in enumerate(one.keys) if key in theirs]
    groups = None
    if wanted.interval_by is not None:
        groups = [one.groups[wanted.interval_by][row] for row in rows]
    return compare(
        metric, [own.utterances[row] for row in rows], [theirs[one.keys[row]] for row in rows], groups
    )

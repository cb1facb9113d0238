"""The report of a run: one HTML file that needs no network, no other file and no script."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from markupsafe import Markup

from kikimimi.console.words import duration
from kikimimi.contracts.answer import answer_text
from kikimimi.contracts.metric import Score
from kikimimi.contracts.normaliser import Normaliser
from kikimimi.contracts.registry import load
from kikimimi.evaluation.bootstrap import Comparison
from kikimimi.evaluation.error_rate import Edit, edits, error_rate
from kikimimi.evaluation.score import EDITS
from kikimimi.inspect.describe import Description
from kikimimi.report.charts import Chart, bar
from kikimimi.report.guard_rows import GuardPart
from kikimimi.report.page import fill_page


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """What a system scored on an evaluation."""

    evaluation: str
    """The evaluation's name; rows of one evaluation, metric and normaliser are compared with each other."""
    system: str
    """The system's name."""
    score: Score
    """The score with its counts."""
    seconds: float | None = None
    """Compute the predictions took [s]; None where it is not known."""
    against: Mapping[str, Comparison] = field(default_factory=dict)
    """How the system differs from others, by their names, on the same clips."""
    parts: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    """Values of parts, by field and group: ``value``, ``count``, and where known ``low``, ``high``."""
    note: str = ""
    """How the evaluation's settings differ from the recipe's; rows that differ in it are not compared."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """A clip with what each system made of it."""

    evaluation: str
    """Name of the evaluation it is from."""
    key: str
    """Its key there."""
    reference: str
    """What was said, as the data has it."""
    predictions: Mapping[str, str]
    """What each system wrote, as it came, thoughts included."""
    normaliser: str
    """Registered name of the normaliser that both go through before they are compared."""
    remarks: Mapping[str, str] = field(default_factory=dict)
    """What the metric says of what a system wrote, such as a judge's reasons."""
    audio: bytes | None = None
    """The clip as a FLAC file; None leaves the player out."""
    language: str | None = None
    """ISO 639-1 code; without it a browser may draw Japanese text with Chinese letter forms."""

    def __post_init__(self) -> None:
        if self.audio is not None and not self.audio.startswith(b"fLaC"):
            raise ValueError(f"example '{self.key}': the audio is not a FLAC file")


@dataclass(frozen=True, kw_only=True)
class ExampleGroup:
    """Examples under one heading ("Worst", "Random")."""

    title: str
    """The heading."""
    note: str
    """How they were chosen."""
    examples: Sequence[Example]
    """The examples in the order in which they are shown."""


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One of the few figures that matter."""

    label: str
    """What it is of."""
    value: str
    """What it came to."""
    note: str = ""
    """How sure it is, and what it is compared with."""
    failed: bool = False
    """Whether it is shown in red."""


@dataclass(frozen=True, kw_only=True)
class StageRow:
    """What a stage did."""

    stage: str
    """Its name."""
    objective: str
    """What it brought down, with its options."""
    steps: int
    """Optimiser steps."""
    loss: float
    """The last loss that was logged."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """How fast it went, and how much was padded, cut, left out or failed."""

    label: str
    """What was counted or measured, with its unit."""
    value: float
    """The count, the share or the figure."""
    note: str = ""
    """What it means, or of how many it is."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything a report shows; a section without content is left out."""

    title: str
    """Heading of the page."""
    created: datetime
    """When it was made; shown with its time zone where it has one."""
    facts: Sequence[Fact] = ()
    """The summary at the top."""
    stages: Sequence[StageRow] = ()
    """What was trained, stage by stage."""
    scores: Sequence[ScoreRow] = ()
    """One row for each evaluation and system."""
    own: str = ""
    """The system of which the report is: others are compared with it."""
    parts: Sequence[Chart] = ()
    """Values of parts: by length, by speaker."""
    tables: Mapping[str, str] = field(default_factory=dict)
    """The scores as a table for a paper, by format."""
    guards: GuardPart | None = None
    """What training may have cost the LLM; None of a run without guards."""
    charts: Sequence[Chart] = ()
    """Losses and learning rates, stage by stage."""
    examples: Sequence[ExampleGroup] = ()
    """Examples, group by group."""
    similarities: Sequence[Chart] = ()
    """How similar audio tokens are to the tokens of what is said [cosine]."""
    counts: Sequence[Figure] = ()
    """Padding, drops and failures; zeros are worth showing."""
    components: Sequence[Description] = ()
    """The parts of the model."""
    recipe: str = ""
    """The resolved recipe, YAML."""
    commands: Sequence[str] = ()
    """Command lines that make the same run again."""


@dataclass(frozen=True)
class _ScoreGroup:
    rows: Sequence[ScoreRow]
    totals: Sequence[str]
    best: frozenset[str]  # systems
    longest: float  # of the scores, as a part of its references
    own: str

    def compared(self, row: ScoreRow) -> Comparison | None:
        """Return how a system differs from the report's own."""
        return pair_of(self.rows, row.system, self.own)

    @property
    def score(self) -> Score:
        return self.rows[0].score

    def errors(self, score: Score) -> Markup:
        parts = {kind: score.details.get(kind, 0) for kind in EDITS}
        return bar(parts, self.longest * score.details.get("reference_length", 0))


def render_report(report: Report) -> str:
    """Return the report as one HTML page.

    Raises:
        PluginError: An example names a normaliser that is not registered.
    """
    return fill_page(
        "report.html.j2",
        report.created,
        report=report,
        score_groups=_score_groups(report.scores, report.own),
        with_interval=any(row.score.interval for row in report.scores),
        with_against=any(row.against for row in report.scores),
        with_compute=any(row.seconds is not None for row in report.scores),
        answer_counts=[
            count
            for count in ("truncated", "looped")
            if any(count in row.score.counts for row in report.scores)
        ],
        thoughts=any(row.score.thoughts for row in report.scores),
        example_groups=[group for group in report.examples if group.examples],
        compared=_compared,
        duration=duration,
        data_uri=_data_uri,
    )


def difference(runs: Sequence[Edit]) -> Markup:
    """Mark edits up: ``del`` for what is missing, ``ins`` for what was added, both for what is wrong."""
    marked = Markup("")
    for run in runs:
        match run.op:
            case "equal":
                marked += run.reference
            case "delete":
                marked += Markup("<del>{}</del>").format(run.reference)
            case "insert":
                marked += Markup("<ins>{}</ins>").format(run.prediction)
            case "substitute":
                marked += Markup('<span class="sub"><del>{}</del><ins>{}</ins></span>').format(
                    run.reference, run.prediction
                )
    return marked


def pair_of(rows: Sequence[ScoreRow], one: str, other: str) -> Comparison | None:
    """Return how a system differs from another, from their rows; None where they do not say."""
    known = {row.system: row.against for row in rows}
    if (found := known.get(one, {}).get(other)) is not None:
        return found
    found = known.get(other, {}).get(one)
    return None if found is None else found.reversed()


def best_of(rows: Sequence[ScoreRow]) -> frozenset[str]:
    """Return the systems that no other is better than, as far as the paired test can tell.

    They are that with the best value, and those of which it is not shown that they are worse. Of one alone
    nothing is said.
    """
    if len(rows) < 2:
        return frozenset()
    first = (min if rows[0].score.better == "lower" else max)(rows, key=lambda row: row.score.value)
    found = set()
    for row in rows:
        pair = pair_of(rows, row.system, first.system)
        same = f"{row.score.value:.2f}" == f"{first.score.value:.2f}"
        if same if pair is None else not pair.significant:
            found.add(row.system)
    return frozenset(found)


def _score_groups(rows: Sequence[ScoreRow], own: str) -> list[_ScoreGroup]:
    # Only rates of the same references in the same form can be compared.
    groups: dict[tuple[object, ...], list[ScoreRow]] = {}
    for row in rows:
        score, length = row.score, row.score.details.get("reference_length")
        same = (row.evaluation, score.metric, score.normaliser, score.count, length, row.note)
        groups.setdefault(same, []).append(row)
    return [_score_group(group, own) for group in groups.values()]


def _score_group(rows: list[ScoreRow], own: str) -> _ScoreGroup:
    score = rows[0].score
    labels: Mapping[str, str] = load("metric", score.metric).labels
    return _ScoreGroup(
        rows,
        [f"{score.details[name]:,} {label}" for name, label in labels.items()],
        best_of(rows),
        max(row.score.value for row in rows) / 100,
        own,
    )


def _compared(example: Example) -> Iterator[tuple[str, Markup, str, str]]:
    """Yield of each system its name, how it differs from the reference, its error rate, and what it wrote."""
    normalise: Normaliser = load("normaliser", example.normaliser)()
    reference = normalise(answer_text(example.reference))
    for system, prediction in example.predictions.items():
        runs = edits(reference, normalise(answer_text(prediction)))
        rate = error_rate(runs)
        yield system, difference(runs), "n/a" if rate is None else f"{rate:.1f} %", prediction


def _data_uri(audio: bytes) -> str:
    return "data:audio/flac;base64," + base64.b64encode(audio).decode("ascii")

"""The report of a run: one HTML file that needs no network, no other file and no script."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from markupsafe import Markup

from kikimimi.console.words import duration
from kikimimi.contracts.answer import answer_text
from kikimimi.contracts.metric import Score
from kikimimi.contracts.normaliser import Normaliser
from kikimimi.contracts.registry import load
from kikimimi.evaluation.error_rate import Edit, edits, error_rate
from kikimimi.evaluation.score import EDITS
from kikimimi.inspect.describe import Description
from kikimimi.report.charts import Chart, bar
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
    facts: Sequence[tuple[str, str]] = ()
    """The summary at the top: what each line is ("Best CER"), and what it came to ("3.1 %")."""
    scores: Sequence[ScoreRow] = ()
    """One row for each evaluation and system."""
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
    best: str
    longest: float  # of the scores, as a part of its references

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
        score_groups=_score_groups(report.scores),
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


def _score_groups(rows: Sequence[ScoreRow]) -> list[_ScoreGroup]:
    # Only rates of the same references in the same form can be compared.
    groups: dict[tuple[object, ...], list[ScoreRow]] = {}
    for row in rows:
        score, length = row.score, row.score.details.get("reference_length")
        same = (row.evaluation, score.metric, score.normaliser, score.count, length, row.note)
        groups.setdefault(same, []).append(row)
    return [_score_group(group) for group in groups.values()]


def _score_group(rows: list[ScoreRow]) -> _ScoreGroup:
    score = rows[0].score
    best = (min if score.better == "lower" else max)(row.score.value for row in rows)
    labels: Mapping[str, str] = load("metric", score.metric).labels
    return _ScoreGroup(
        rows,
        [f"{score.details[name]:,} {label}" for name, label in labels.items()],
        f"{best:.2f}" if len(rows) > 1 else "",
        max(row.score.value for row in rows) / 100,
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

"""Error rates of a corpus. Imports no torch, so that ``kikimimi score`` answers at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, cast, get_args

import jiwer

from kikimimi.console.words import listing, nearest
from kikimimi.contracts.normaliser import Normaliser
from kikimimi.contracts.registry import load
from kikimimi.errors import RequestError

Metric = Literal["cer", "wer"]
UNITS: dict[Metric, str] = {"cer": "characters", "wer": "words"}
DECIMALS = 4


@dataclass(frozen=True, kw_only=True)
class Score:
    """An error rate of a corpus with what it was computed from."""

    metric: Metric
    """``cer`` counts characters (Unicode code points), ``wer`` words (between white space)."""
    normaliser: str
    """Registered name of the normaliser that both sides went through."""
    count: int
    """Pairs scored."""
    skipped: int
    """Pairs left out of everything else here, because their reference is empty after normalisation: no rate
    is defined for them, and what a system says on them is not counted as insertions."""
    substitutions: int
    """Units of a reference that the prediction has wrong."""
    deletions: int
    """Units of a reference that the prediction lacks."""
    insertions: int
    """Units that only the prediction has."""
    reference_length: int
    """Units of all scored references together: at least 1."""

    def __post_init__(self) -> None:
        if self.reference_length < 1:
            raise ValueError(f"reference_length must be at least 1, not {self.reference_length}")

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions together."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def value(self) -> float:
        """The rate [percent] of the corpus: all edits over all reference units; above 100 is possible."""
        return 100 * self.errors / self.reference_length

    def to_json(self) -> dict[str, str | int | float]:
        """Return the score as JSON holds it: the rate [percent], to 4 decimals, under the metric's name."""
        return {
            "metric": self.metric,
            self.metric: round(self.value, DECIMALS),
            "normaliser": self.normaliser,
            "count": self.count,
            "skipped": self.skipped,
            "substitutions": self.substitutions,
            "deletions": self.deletions,
            "insertions": self.insertions,
            "reference_length": self.reference_length,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Score:
        """Read what `to_json` returned; more may stand there."""
        return cls(**{item.name: values[item.name] for item in fields(cls)})


def score(references: Sequence[str], predictions: Sequence[str], *, metric: Metric, normaliser: str) -> Score:
    """Score predictions against references: the sum of all edits over the sum of all reference lengths.

    Args:
        references: What was said.
        predictions: What a system wrote, in the same order.
        metric: ``cer`` or ``wer``.
        normaliser: Registered name of the normaliser that both sides go through first.

    Returns:
        The score; pairs whose reference is empty after normalisation are in `skipped` only.

    Raises:
        RequestError: The metric is unknown, the numbers of references and predictions differ, no reference is
            left to score, or words are asked of a normaliser that joins them.
        PluginError: No such normaliser.
    """
    parse_metric(metric)
    if len(references) != len(predictions):
        raise RequestError(
            f"{len(references)} references but {len(predictions)} predictions: "
            "each prediction needs its reference"
        )
    normalise: Normaliser = load("normaliser", normaliser)()
    if metric == "wer" and len(normalise("a b").split()) < 2:
        raise RequestError(
            f"metric 'wer' compares words, but normaliser '{normaliser}' removes the white space between "
            "them. Use metric 'cer' or another normaliser."
        )
    kept: list[tuple[str, str]] = []
    for reference, prediction in zip(references, predictions, strict=True):
        normalised = normalise(reference), normalise(prediction)
        if _units(normalised[0], metric):
            kept.append(normalised)
    if not kept:
        raise RequestError(
            f"nothing to score: all {len(references)} references are empty after normaliser '{normaliser}'"
        )
    edits = align([reference for reference, _ in kept], [prediction for _, prediction in kept], metric)
    return Score(
        metric=metric,
        normaliser=normaliser,
        count=len(kept),
        skipped=len(references) - len(kept),
        substitutions=edits.substitutions,
        deletions=edits.deletions,
        insertions=edits.insertions,
        reference_length=edits.hits + edits.substitutions + edits.deletions,
    )


def parse_metric(name: str) -> Metric:
    """Return `name` as a metric.

    Raises:
        RequestError: No such metric.
    """
    for metric in get_args(Metric):
        if name == metric:
            return cast(Metric, metric)
    raise RequestError(f"no metric is called '{name}'.{nearest(name, UNITS)} Metrics: {listing(UNITS)}")


def align(references: list[str], predictions: list[str], metric: Metric) -> Any:
    """Return jiwer's output (alignments and counts) for texts that are normalised already."""
    # jiwer's default transforms strip the ends of a text, which would not be the named normaliser's doing.
    if metric == "cer":
        units = jiwer.ReduceToListOfListOfChars()
        return jiwer.process_characters(references, predictions, units, units)
    units = jiwer.Compose([_SingleSpaces(), jiwer.ReduceToListOfListOfWords()])
    return jiwer.process_words(references, predictions, units, units)


def _units(text: str, metric: Metric) -> Sequence[str]:
    return text if metric == "cer" else text.split()


class _SingleSpaces(jiwer.AbstractTransform):  # type: ignore[misc]  # jiwer has no types
    """Makes any white space one space, since jiwer splits words at U+0020 only."""

    def process_string(self, s: str) -> str:
        return " ".join(s.split())

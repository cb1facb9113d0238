"""Error rates, and the edits that they count."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple, cast

import jiwer

from kikimimi.contracts.metric import Better, Details, Metric

Operation = Literal["equal", "substitute", "delete", "insert"]


class Edit(NamedTuple):
    """A run of characters that are the same, or wrong in the same way.

    Attributes:
        op: ``equal``; ``substitute`` (both pieces have the same length); ``delete`` (the prediction lacks the
            piece); ``insert`` (only the prediction has it).
        reference: The piece of the reference; empty for ``insert``.
        prediction: The piece of the prediction; empty for ``delete``.
    """

    op: Operation
    reference: str
    prediction: str

    @property
    def errors(self) -> int:
        """How many errors the run counts in a character error rate."""
        return 0 if self.op == "equal" else max(len(self.reference), len(self.prediction))


class ErrorRate(Metric):
    """An error rate [percent]: substituted, deleted and inserted units over all units of the references.

    Above 100 is possible. A reference without units has no rate: its utterance is left out.
    """

    unit = "%"
    better: ClassVar[Better] = "lower"

    @abstractmethod
    def units(self, text: str) -> Sequence[str]:
        """Return what is compared: characters, words."""

    def measure(self, references: Sequence[str], predictions: Sequence[str]) -> Sequence[Details | None]:
        """Return the edits of each utterance and the length of its reference [units]."""
        pairs = [(self.units(r), self.units(p)) for r, p in zip(references, predictions, strict=True)]
        return [_count(*pair) if pair[0] else None for pair in pairs]

    def value(self, details: Details) -> float:
        """Return the rate [percent]: all edits over all units of the references."""
        errors = details["substitutions"] + details["deletions"] + details["insertions"]
        return 100 * errors / details["reference_length"]


def edits(reference: str, prediction: str) -> list[Edit]:
    """Align two texts with the fewest edits: the alignment that a character error rate counts.

    Returns:
        The runs in order; the pieces of each side, joined, are the text of that side.
    """
    return [
        Edit(
            cast(Operation, chunk.type),
            reference[chunk.ref_start_idx : chunk.ref_end_idx],
            prediction[chunk.hyp_start_idx : chunk.hyp_end_idx],
        )
        for chunk in _align(reference, prediction).alignments[0]
    ]


def error_rate(runs: Sequence[Edit]) -> float | None:
    """Return the character error rate [percent] of one pair, or None where its reference is empty."""
    length = sum(len(run.reference) for run in runs)
    return 100 * sum(run.errors for run in runs) / length if length else None


def _count(reference: Sequence[str], prediction: Sequence[str]) -> Details:
    found = _align(reference, prediction)
    return {
        "reference_length": len(reference),
        "substitutions": found.substitutions,
        "deletions": found.deletions,
        "insertions": found.insertions,
    }


class _AsTheyAre(jiwer.AbstractTransform):  # type: ignore[misc]  # jiwer has no types
    """Hands units to jiwer, whose own transforms strip, which would not be the normaliser's doing."""

    def __init__(self, units: Sequence[str]) -> None:
        self.units = units

    def __call__(self, sentences: object) -> list[list[str]]:
        return [list(self.units)]


def _align(reference: Sequence[str], prediction: Sequence[str]) -> jiwer.WordOutput:
    return jiwer.process_words("", "", _AsTheyAre(reference), _AsTheyAre(prediction))

"""The edits between a reference and a prediction, character by character."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from kikimimi.evaluation.score import align

Op = Literal["equal", "substitute", "delete", "insert"]


class Edit(NamedTuple):
    """A run of characters that are the same, or wrong in the same way.

    Attributes:
        op: ``equal``; ``substitute`` (both pieces have the same length); ``delete`` (the prediction lacks the
            piece); ``insert`` (only the prediction has it).
        reference: The piece of the reference; empty for ``insert``.
        prediction: The piece of the prediction; empty for ``delete``.
    """

    op: Op
    reference: str
    prediction: str

    @property
    def errors(self) -> int:
        """How many errors the run counts in a character error rate."""
        return 0 if self.op == "equal" else max(len(self.reference), len(self.prediction))


def edits(reference: str, prediction: str) -> list[Edit]:
    """Align two texts with the fewest edits: the alignment that `score` counts.

    Args:
        reference: What was said, normalised already.
        prediction: What a system wrote, normalised already.

    Returns:
        The runs in order; the pieces of each side, joined, are the text of that side.
    """
    return [
        Edit(
            chunk.type,
            reference[chunk.ref_start_idx : chunk.ref_end_idx],
            prediction[chunk.hyp_start_idx : chunk.hyp_end_idx],
        )
        for chunk in align([reference], [prediction], "cer").alignments[0]
    ]


def error_rate(runs: Sequence[Edit]) -> float | None:
    """Return the character error rate [percent] of one pair, or None where its reference is empty."""
    length = sum(len(run.reference) for run in runs)
    return 100 * sum(run.errors for run in runs) / length if length else None

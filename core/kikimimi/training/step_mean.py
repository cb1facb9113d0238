"""The loss of an optimiser step as the mean over all of its units, however they lie in its micro-batches."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from kikimimi.contracts.objective import Loss, Objective
from kikimimi.model.step import ModelStep

Values = list[tuple[Tensor, int]]
"""Means, and over how many units each is one."""
_ADAPTER = "adapter/"  # its losses share their units


class Counts:
    """How many units each term of a micro-batch's loss is the mean over."""

    def __init__(self, objective: Objective, step: ModelStep) -> None:
        self.notes = step.notes
        self.numbers: dict[str, int] = {}
        if step.batch.names:
            self.numbers = {name: units.number for name, units in objective.units(step).items()}
            clips = step.model.adapter.units(step.num_frames, step.batch.transcripts)
            self.numbers[_ADAPTER] = clips.number

    def terms(self, made: Loss, losses: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, int]]:
        """Return what adds up to the loss, as it is weighted, and how many units each is the mean over."""
        own, numbers = self._found(made)
        values = {own[0]: made.value}
        if len(own) > 1:
            values = {name: made.weights.get(name, 1.0) * made.parts[name] for name in own}
        return {
            **{name: (value, numbers[name]) for name, value in values.items()},
            **{_ADAPTER + name: (loss, numbers[_ADAPTER]) for name, loss in losses.items()},
        }

    def number(self, name: str, made: Loss) -> int:
        """Return how many units a part of the loss, or a measure, is the mean over."""
        own, numbers = self._found(made)
        if name in numbers:
            return numbers[name]
        if name in made.parts or name in made.measures:
            return numbers[own[0]] if len(own) == 1 else 1
        return numbers[_ADAPTER]

    def _found(self, made: Loss) -> tuple[list[str], dict[str, int]]:
        """Return the objective's terms, and all numbers as the loss has turned out."""
        return [name for name in self.numbers if name != _ADAPTER], {**self.numbers, **made.numbers}


class StepMean:
    """Weights the micro-batches of an optimiser step so that their mean is that over all its units.

    A trainer takes the mean of the micro-batches' gradients, and of the ranks'. A term over n of the step's N
    units counts n / (N / micro-batches) times for that.

    Attributes:
        counts: Counts of each micro-batch of this rank that is still to come in the step.
    """

    def __init__(self) -> None:
        self.counts: list[Counts] = []
        self._scales: dict[str, float] = {}

    def begin(self, counts: Sequence[Counts], of_every_rank: Sequence[Sequence[Mapping[str, int]]]) -> None:
        """Begin a step.

        Args:
            counts: Counts of this rank's micro-batches, in order.
            of_every_rank: The numbers of all micro-batches of each rank.
        """
        self.counts = list(counts)
        totals: dict[str, int] = {}
        for numbers in (numbers for rank in of_every_rank for numbers in rank):
            for name, number in numbers.items():
                totals[name] = totals.get(name, 0) + number
        micro_batches = sum(map(len, of_every_rank))
        self._scales = {name: micro_batches / total for name, total in totals.items() if total}

    def weighted(self, terms: Mapping[str, tuple[Tensor, int]]) -> Tensor:
        """Return the loss of a micro-batch as it counts in the step."""
        scaled = []
        for name, (value, number) in terms.items():
            key = _ADAPTER if name.startswith(_ADAPTER) else name
            scaled.append(value * (number * self._scales.get(key, 0.0)))
        total = scaled[0]
        for other in scaled[1:]:
            total = total + other
        return total

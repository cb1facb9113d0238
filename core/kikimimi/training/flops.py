"""Counts the operations of training, from the lengths that each part is given."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kikimimi.contracts.component import Padded
from kikimimi.costs.matrix_rate import matrix_rate
from kikimimi.costs.operations import Cost, measure_costs
from kikimimi.model.speech_lm import SpeechLM
from kikimimi.training.log_interval import LogInterval


class FlopMeter:
    """Counts what model and objective need; what is computed again to save memory is not counted.

    It listens to the three parts of a model, so that every pass counts, whatever the objective makes of it,
    and reads lengths alone. Build it before the model is spread over ranks.
    """

    def __init__(self, model: SpeechLM, precision: str) -> None:
        self._costs = measure_costs(model, precision)
        self._precision = precision
        self._flops = 0.0
        self._counting = False
        self._causal = model.llm.causal
        self._encoder = model.encoder
        for part, listener in (
            (model.encoder, self._heard),
            (model.adapter, self._adapted),
            (model.llm, self._answered),
        ):
            part.register_forward_hook(listener)

    @contextmanager
    def counting(self, interval: LogInterval) -> Iterator[None]:
        """Add the passes inside, forward and backward, to a interval; others (validation) do not count."""
        self._flops, self._counting = 0.0, True
        try:
            yield
        finally:
            self._counting = False
        interval.flops += self._flops

    def matrix_rate(self, device: torch.device) -> float:
        """Return what a device can do in the trainer's precision [FLOP/s], measured."""
        return matrix_rate(device, self._precision)

    def _heard(self, module: nn.Module, arguments: Any, output: Any) -> None:
        if self._counting:
            (audio,) = arguments
            frames = [self._encoder.num_frames(length) for length in audio.lengths.tolist()]
            self._add(self._costs.encoder, [(length, 0) for length in frames], None)

    def _adapted(self, module: nn.Module, arguments: Any, output: Any) -> None:
        if self._counting:
            features: Padded = arguments[0]
            lengths = [(length, 0) for length in features.lengths.tolist()]
            self._add(self._costs.adapter, lengths, features.values)

    def _answered(self, module: nn.Module, arguments: Any, output: Any) -> None:
        if self._counting:
            embeddings, lengths, select = arguments
            self._add(self._costs.llm, _sequences(lengths, select, self._causal), embeddings)

    def _add(self, cost: Cost, lengths: list[tuple[int, int]], given: Tensor | None) -> None:
        learns = torch.is_grad_enabled() and (cost.trains or (given is not None and given.requires_grad))
        count = cost.flops if learns else cost.forward
        self._flops += sum(count(x, y) for x, y in lengths)


def _sequences(lengths: Tensor, select: Tensor, causal: bool) -> list[tuple[int, int]]:
    """Return the lengths that a sequence's cost depends on, see `Costs.llm`, for each sequence of a pack."""
    positions: list[int] = lengths.tolist()
    if causal:
        # Which sequence a target belongs to makes no difference.
        return [(length, 0) for length in positions[:-1]] + [(positions[-1], len(select))]
    ends = lengths.to(select.device).cumsum(0)
    owner = torch.searchsorted(ends, select, right=True)
    found = []
    for number in sorted(set(owner.tolist())):
        own = select[owner == number]
        first, last = int(own[0]), int(own[-1])
        start = int(ends[number]) - positions[number]
        found.append((first + 1 - start, last - first + 1))
    return found

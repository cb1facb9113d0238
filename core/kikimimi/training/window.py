"""What happened since the last log line."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Gather = Callable[[Any], list[Any]]
"""Returns what every rank gave, in order of ranks."""


class LogWindow:
    """Gathers losses and counts of one rank between two log lines.

    Attributes:
        counts: Named counts, written as ``count/NAME``.
        audio_seconds: Length of the clips [s].
        positions: Of the LLM, audio and text.
        padding: Padded and computed positions in what the encoder (or the cache in its place) delivered for.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self._losses: list[Tensor] = []
        self._parts: dict[str, list[Tensor]] = {}
        self._measures: dict[str, list[Tensor]] = {}
        self.counts: Counter[str] = Counter()
        self.audio_seconds, self.positions = 0.0, 0
        self.padding = [0, 0]
        self.restart_clock()

    def restart_clock(self) -> None:
        """Leave the time until now out of all rates."""
        self._clock = time.monotonic()

    def add(
        self, loss: Tensor, parts: Mapping[str, Tensor], measures: Mapping[str, Tensor] | None = None
    ) -> None:
        """Add the loss of a micro-batch, what it is the sum of where that is more than one, and measures."""
        self._losses.append(loss.detach())
        for name, measure in (measures or {}).items():
            self._measures.setdefault(name, []).append(measure.detach())
        for name, part in parts.items():
            self._parts.setdefault(name, []).append(part.detach())

    def metrics(self, gather: Gather) -> dict[str, float]:
        """Return means of losses and parts, sums of counts, and rates, over all ranks."""
        seconds = max(time.monotonic() - self._clock, 1e-9)
        # By objects, not tensors: a rank whose micro-batches held no audio has no parts.
        states = gather({**self.state(), "audio_seconds": self.audio_seconds, "positions": self.positions})
        losses = [loss for state in states for loss in state["losses"]]
        parts: dict[str, list[float]] = {}
        measures: dict[str, list[float]] = {}
        counts: Counter[str] = Counter()
        for state in states:
            counts.update(state["counts"])
            for into, held in ((parts, state["parts"]), (measures, state["measures"])):
                for name, values in held.items():
                    into.setdefault(name, []).extend(values)
        padded, computed = (sum(state["padding"][i] for state in states) for i in (0, 1))
        return {
            "loss": _mean(losses),
            **{f"loss/{name}": _mean(values) for name, values in parts.items()},
            **{name: _mean(values) for name, values in measures.items()},
            **{f"count/{name}": float(number) for name, number in counts.items()},
            "audio_seconds_per_second": sum(state["audio_seconds"] for state in states) / seconds,
            "positions_per_second": sum(state["positions"] for state in states) / seconds,
            "padding": padded / computed if computed else 0.0,
        }

    def state(self) -> dict[str, Any]:
        """Return what a run that goes on from here has to know; rates begin anew there."""
        return {
            "losses": _floats(self._losses),
            "parts": {name: _floats(values) for name, values in self._parts.items()},
            "measures": {name: _floats(values) for name, values in self._measures.items()},
            "counts": dict(self.counts),
            "padding": list(self.padding),
        }

    def restore(self, states: list[dict[str, Any]], rank: int, world_size: int) -> None:
        """Take up saved states: this rank's own, or where there were other ranks, all on the first."""
        self.clear()
        mine = [states[rank]] if len(states) == world_size else states if rank == 0 else []
        for state in mine:
            self._losses.extend(map(torch.tensor, state["losses"]))
            for into, held in ((self._parts, state["parts"]), (self._measures, state["measures"])):
                for name, values in held.items():
                    into.setdefault(name, []).extend(map(torch.tensor, values))
            self.counts.update(state["counts"])
            self.padding = [a + b for a, b in zip(self.padding, state["padding"], strict=True)]


def _floats(values: list[Tensor]) -> list[float]:
    # One transfer from the device, however many there are.
    return torch.stack([value.float().cpu() for value in values]).tolist() if values else []


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0

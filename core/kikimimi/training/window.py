"""What happened since the last log line."""

from __future__ import annotations

import resource
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Gather = Callable[[Any], list[Any]]
"""Returns what every rank gave, in order of ranks."""
MEASURED = ("audio_seconds_per_second", "positions_per_second", "data_wait", "memory_gb", "flop_utilisation")
"""Values that depend on the machine and on the time; all others are the same whenever a run is repeated."""


class LogWindow:
    """Gathers losses and counts of one rank between two log lines.

    Attributes:
        counts: Named counts, written as ``count/NAME``.
        audio_seconds: Length of the clips [s].
        positions: Of the LLM, audio and text.
        padding: Padded and computed positions in what the encoder (or the cache in its place) delivered for.
        flops: Operations of forward and backward passes, as a `FlopMeter` counts them.
        matrix_rate: What `flops` are compared with [FLOP/s]; 0 means that nothing counts them.
    """

    def __init__(self) -> None:
        self.matrix_rate = 0.0
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self._losses: list[Tensor] = []
        self._parts: dict[str, list[Tensor]] = {}
        self._measures: dict[str, list[Tensor]] = {}
        self.counts: Counter[str] = Counter()
        self.audio_seconds, self.positions = 0.0, 0
        self.padding = [0, 0]
        self.flops = 0.0
        self._counted = self.audio_seconds, self.positions
        self._seconds = self._waited = 0.0
        self.start_clock()

    def start_clock(self) -> None:
        """Count the time from now on, and wait for data."""
        self._clock = self._idle_since = time.monotonic()

    def stop_clock(self) -> None:
        """Leave out what comes until the clock is started again: a validation."""
        self._seconds += time.monotonic() - self._clock
        self._counted = self.audio_seconds, self.positions

    def resume_clock(self) -> None:
        """Go on after `stop_clock`."""
        self.audio_seconds, self.positions = self._counted
        self.start_clock()

    def arrived(self) -> None:
        """Take note that a micro-batch has arrived: what went by since the last one's end was waiting."""
        self._waited += time.monotonic() - self._idle_since

    def done(self) -> None:
        """Take note that all is done with a micro-batch."""
        self._idle_since = time.monotonic()

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
        seconds = max(self._seconds + time.monotonic() - self._clock, 1e-9)
        measured = {
            "audio_seconds": self.audio_seconds,
            "positions": self.positions,
            "waited": self._waited / seconds,
            "memory_gb": peak_memory() / 1e9,
            "flops": self.flops,
            "matrix_rate": self.matrix_rate,
        }
        # By objects, not tensors: a rank whose micro-batches held no audio has no parts.
        states = gather({**self.state(), **measured})
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
        flops, rate = (sum(state[key] for state in states) for key in ("flops", "matrix_rate"))
        return {
            "loss": _mean(losses),
            **{f"loss/{name}": _mean(values) for name, values in parts.items()},
            **{name: _mean(values) for name, values in measures.items()},
            **{f"count/{name}": float(number) for name, number in counts.items()},
            "audio_seconds_per_second": sum(state["audio_seconds"] for state in states) / seconds,
            "positions_per_second": sum(state["positions"] for state in states) / seconds,
            "padding": padded / computed if computed else 0.0,
            "data_wait": _mean([state["waited"] for state in states]),
            "memory_gb": max(state["memory_gb"] for state in states),
            **({"flop_utilisation": flops / seconds / rate} if rate else {}),
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


def peak_memory() -> int:
    """Return the most memory that this process has held: of its GPU if it uses one, else its own [bytes]."""
    if torch.cuda.is_available() and (held := torch.cuda.max_memory_allocated()):
        return held
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def _floats(values: list[Tensor]) -> list[float]:
    # One transfer from the device, however many there are.
    return torch.stack([value.float().cpu() for value in values]).tolist() if values else []


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0

"""What happened since the last log line."""

import resource
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from kikimimi.training.step_mean import Values

Numbered = Mapping[str, tuple[Tensor, int]]
"""Means by name, and over how many units each is one."""
WHOLE = "loss"
"""The only term of a loss that is the mean over its micro-batches."""
Gather = Callable[[Any], list[Any]]
"""Returns what every rank gave, in order of ranks."""
MEASURED = ("audio_seconds_per_second", "positions_per_second", "data_wait", "memory_gb", "flop_utilisation")
"""Values that depend on the machine and on the time; all others are the same whenever a run is repeated."""


class LogInterval:
    """Gathers losses and counts of one rank between two log lines.

    Attributes:
        counts: Named counts, written as ``count/NAME``.
        audio_seconds: Length of the clips [s].
        positions: The LLM's, audio and text.
        padding: Padded and computed positions in what the encoder (or the cache in its place) delivered for.
        flops: Operations of forward and backward passes, as a `FlopMeter` counts them.
        matrix_rate: What `flops` are compared with [FLOP/s]; 0 means that nothing counts them.
    """

    def __init__(self) -> None:
        self.matrix_rate = 0.0
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self._terms: dict[str, Values] = {}
        self._parts: dict[str, Values] = {}
        self._measures: dict[str, Values] = {}
        self.counts: Counter[str] = Counter()
        self.audio_seconds, self.positions = 0.0, 0
        self.padding = [0, 0]
        self.flops = 0.0
        self._seconds = self._waited = 0.0
        self.start_clock()

    def start_clock(self) -> None:
        """Count the time from now on, and wait for data."""
        self._clock = self._idle_since = time.monotonic()

    def stop_clock(self) -> None:
        """Leave out what comes until the clock is started again: a validation."""
        self._seconds += time.monotonic() - self._clock

    def arrived(self) -> None:
        """Take note that a micro-batch has arrived: what went by since the last one's end was waiting."""
        self._waited += time.monotonic() - self._idle_since

    def done(self) -> None:
        """Take note that all is done with a micro-batch."""
        self._idle_since = time.monotonic()

    def add(self, terms: Numbered, parts: Numbered | None = None, measures: Numbered | None = None) -> None:
        """Add a micro-batch.

        Args:
            terms: What adds up to its loss, and over how many units each is the mean.
            parts: What the loss is the sum of in the metrics, where that is more than one.
            measures: What else is to be looked at.
        """
        for into, held in ((self._terms, terms), (self._parts, parts), (self._measures, measures)):
            for name, (value, number) in (held or {}).items():
                into.setdefault(name, []).append((value.detach(), number))

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
        together = LogInterval()
        together.restore(states, 0, 0)
        padded, computed = together.padding
        flops, rate = (sum(state[key] for state in states) for key in ("flops", "matrix_rate"))
        return {
            "loss": sum(map(_mean, together._terms.values()), 0.0),
            **{f"loss/{name}": _mean(values) for name, values in together._parts.items()},
            **{name: _mean(values) for name, values in together._measures.items()},
            **{f"count/{name}": float(number) for name, number in together.counts.items()},
            "audio_seconds_per_second": sum(state["audio_seconds"] for state in states) / seconds,
            "positions_per_second": sum(state["positions"] for state in states) / seconds,
            "padding": padded / computed if computed else 0.0,
            "data_wait": sum(state["waited"] for state in states) / len(states),
            "memory_gb": max(state["memory_gb"] for state in states),
            **({"flop_utilisation": flops / seconds / rate} if rate else {}),
        }

    def state(self) -> dict[str, Any]:
        """Return what a run that goes on from here has to know; rates begin anew there."""
        terms = {name: _plain(values) for name, values in self._terms.items()}
        return {
            "losses": terms.pop(WHOLE, []),
            **({"terms": terms} if terms else {}),
            "parts": {name: _plain(values) for name, values in self._parts.items()},
            "measures": {name: _plain(values) for name, values in self._measures.items()},
            "counts": dict(self.counts),
            "padding": list(self.padding),
        }

    def restore(self, states: list[dict[str, Any]], rank: int, world_size: int) -> None:
        """Take up saved states: this rank's own, or where there were other ranks, all on the first."""
        self.clear()
        mine = [states[rank]] if len(states) == world_size else states if rank == 0 else []
        for state in mine:
            whole = {WHOLE: state["losses"]} if state["losses"] else {}
            for into, held in (
                (self._terms, {**whole, **state.get("terms", {})}),
                (self._parts, state["parts"]),
                (self._measures, state["measures"]),
            ):
                for name, values in held.items():
                    into.setdefault(name, []).extend(map(_numbered, values))
            self.counts.update(state["counts"])
            self.padding = [a + b for a, b in zip(self.padding, state["padding"], strict=True)]


def peak_memory() -> int:
    """Return the most memory that this process has held: of its GPU if it uses one, else its own [bytes]."""
    if torch.cuda.is_available() and (held := torch.cuda.max_memory_allocated()):
        return held
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def _plain(values: Values) -> list[Any]:
    """Return numbers in place of tensors; with over how many units each is the mean, where that is not 1."""
    if not values:
        return []
    # One transfer from the device, however many there are.
    floats = torch.stack([value.float().cpu() for value, _ in values]).tolist()
    return [one if number == 1 else [one, number] for one, (_, number) in zip(floats, values, strict=True)]


def _numbered(value: Any) -> tuple[Tensor, int]:
    mean, number = value if isinstance(value, list) else (value, 1)
    return torch.tensor(mean, dtype=torch.float64), number


def _mean(values: Values) -> float:
    number = sum(number for _, number in values)
    return sum(float(value) * number for value, number in values) / number if number else 0.0

"""Which runs of a sweep are trained next."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Protocol

from kikimimi.sweeps.sweep_folder import SweepRun


class RunSource(Protocol):
    """Gives runs, and is told what became of them."""

    def next_run(self) -> SweepRun | None:
        """Return the run that is trained next; None where there is none, or none before another has ended."""
        ...

    def is_hopeless(self, run: SweepRun) -> str:
        """Return why a run that trains is to be stopped, by what it has reached; empty where it goes on."""
        ...

    def ended(self, run: SweepRun) -> None:
        """Take note that a run has ended, however it did."""
        ...

    @property
    def left(self) -> int:
        """How many runs it still gives, at most."""
        ...


class Listed(RunSource):
    """Runs that are known before the first one starts.

    Args:
        runs: The runs, each once.
    """

    def __init__(self, runs: Iterable[SweepRun]) -> None:
        self._runs = deque(runs)

    def next_run(self) -> SweepRun | None:
        """Return the next run."""
        return self._runs.popleft() if self._runs else None

    def is_hopeless(self, run: SweepRun) -> str:
        """Return nothing: every combination is trained to its end."""
        return ""

    def ended(self, run: SweepRun) -> None:
        """Take no note: the next one is known already."""

    @property
    def left(self) -> int:
        """How many runs it still gives."""
        return len(self._runs)

"""Records that cannot be used: what was wrong with each, and when there are too many of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from kikimimi.console.terminal import json_text, say
from kikimimi.console.words import counted
from kikimimi.contracts.batch import Fault
from kikimimi.errors import DataError, StorageError
from kikimimi.files.reading import read_json_lines
from kikimimi.files.writing import add_lines

if TYPE_CHECKING:
    from kikimimi.recipe import Faults


HOW_TO_SKIP = "To go on without such records, give the stage: faults: {policy: skip}"


class FaultLog:
    """The account of a stage's faults, one JSON line for each record, and the policy about them.

    Each process keeps its own: what is read depends on its rank.
    """

    def __init__(self, path: Path, policy: Faults) -> None:
        self.path, self.policy = path, policy
        self.tried, self.skipped, self.in_a_row = 0, 0, 0
        self._listed = {(fault.dataset, fault.where) for fault in read_faults(path)}

    def add(self, faults: Sequence[Fault]) -> None:
        """List faults, without judging them."""
        new = []
        for fault in faults:
            if (place := (fault.dataset, fault.where)) not in self._listed:
                self._listed.add(place)
                new.append(fault)
        if new:
            add_lines(self.path, [json_text(asdict(fault)) for fault in new])

    def judge(self, outcomes: Sequence[Fault | None]) -> None:
        """Take note of what became of the records of a micro-batch, in order; None is a record that was read.

        Raises:
            StorageError: A record could not be had at all.
            DataError: The policy is to fail, or too many records cannot be read.
        """
        faults = [outcome for outcome in outcomes if outcome is not None]
        for fault in faults:
            if fault.transient:
                raise StorageError(fault.message)
        self.add(faults)
        if faults and self.policy.policy == "fail":
            raise DataError(f"{faults[0].message}. {HOW_TO_SKIP}")
        for outcome in outcomes:
            self.in_a_row = self.in_a_row + 1 if outcome is not None else 0
            if self.in_a_row >= self.policy.in_a_row:
                raise DataError(
                    f"{self.in_a_row} records one after another cannot be read, as many as faults.in_a_row "
                    f"allows; {self.path} lists them. The last one: {faults[-1].message}"
                )
        self.tried += len(outcomes)
        self.skipped += len(faults)
        # Judged once one more would not be a matter of chance: the first bad one of ten says nothing yet.
        if faults and self.tried * self.policy.share >= 1 and self.skipped > self.tried * self.policy.share:
            raise DataError(
                f"{self.skipped} of {self.tried} records cannot be read, more than faults.share "
                f"({self.policy.share:g}) allows; {self.path} lists them. The last one: {faults[-1].message}"
            )

    def state(self) -> list[int]:
        """Return the counts, for a run that goes on from here."""
        return [self.tried, self.skipped, self.in_a_row]

    def restore(self, states: Sequence[Sequence[int]], rank: int, world_size: int) -> None:
        """Take up saved counts: this rank's own, or where there were other ranks, a share of all."""
        if len(states) == world_size:
            self.tried, self.skipped, self.in_a_row = states[rank]
        else:
            self.tried, self.skipped = (sum(state[i] for state in states) // world_size for i in (0, 1))


def read_faults(path: Path) -> list[Fault]:
    """Return the faults of a file; a last line cut short by a kill is left out, as is, with a word, any other
    damaged line: what it told of is listed again when it is met again.
    """
    damaged: list[str] = []
    faults = read_json_lines(path, Fault, remedy="Delete it: it is made again", damaged_lines=damaged)
    if damaged:
        say(f"{path}: {counted(len(damaged), 'damaged line')} left out: {damaged[0]}", error=True)
    return faults

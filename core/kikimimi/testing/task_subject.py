"""A task under test, and a record that it takes."""

from __future__ import annotations

from copy import deepcopy
from functools import cached_property
from random import Random
from typing import Any

from kikimimi.contracts.conversation import Conversation
from kikimimi.contracts.task import Task, TaskConfig
from kikimimi.testing.contract import ContractError, expect
from kikimimi.testing.records import CLIP, conversation, labelled_clip
from kikimimi.testing.subject import Tested

DRAWS = 20
"""How many seeds a check tries besides none."""


class TaskSubject(Tested):
    """A task under test. Its config is checked as it is given, as there is nothing to make tiny."""

    config_base = TaskConfig
    reserved = ("name",)

    @cached_property
    def config(self) -> Any:
        """The config that was given, or the component's defaults."""
        return self.component.Config() if self.given is None else self.given

    def build(self) -> Task:
        """Build the task."""
        task: Task = self.component(self.config)
        return task

    @cached_property
    def record(self) -> tuple[dict[str, Any], list[str]]:
        """A record that the task takes, and the names of its clips: its own example, or one of the kit's."""
        task = self.build()
        example = task.example()
        if example is not None:
            return example
        refusals: list[str] = []
        for record in (labelled_clip(Random(0)), conversation(Random(0), said=True)):
            try:
                task.conversation(deepcopy(record), [CLIP], None)
            except ValueError as error:
                refusals.append(str(error))
                continue
            return record, [CLIP]
        raise ContractError(
            f"{self.component.__name__}: expected it to take a record, found that it refuses a labelled clip "
            f"({refusals[0]}) and a conversation ({refusals[1]}). Return one that it takes from `example`"
        )

    def converse(self, seed: int | None = None, task: Task | None = None) -> Conversation:
        """Make the conversation of the record with the random numbers of a seed; None gives none to draw."""
        record, clips = deepcopy(self.record)
        rng = None if seed is None else Random(seed)
        found = (task or self.build()).conversation(record, clips, rng)
        expect(
            isinstance(found, Conversation),
            f"conversation: expected a kikimimi.Conversation, found {type(found).__name__}",
        )
        return found

    def converse_often(self) -> list[Conversation]:
        """Return the conversation without random numbers, and those of several seeds."""
        return [self.converse(seed) for seed in (None, *range(DRAWS))]

"""Which fixed questions a run's model was taught to answer about a clip."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from kikimimi.run.folder import RunFolder

if TYPE_CHECKING:
    from kikimimi.contracts.task import Task
    from kikimimi.recipe import Dataset, Evaluation


def fixed_tasks(run: RunFolder) -> Iterator[Task]:
    """Yield the tasks of a run that ask a fixed question of a clip; the one that is asked comes first.

    Those of evaluations and of the last stage come before those of stages before it, and of equals those
    that transcribe.
    """
    evaluations = list(run.recipe.evaluate.values())
    # A stage of preferences may hold conversations alone: the stage before it asks what the model was taught.
    for number, stage in enumerate(reversed(run.recipe.stages.values())):
        sources: list[Evaluation | Dataset] = [*(evaluations if number == 0 else ()), *stage.data.values()]
        tasks: list[Task] = [source.task.component(source.task.config) for source in sources]
        for task in sorted(tasks, key=lambda task: not task.transcribes):  # of equals, the first
            try:
                task.question(None)
            except ValueError:
                continue
            yield task

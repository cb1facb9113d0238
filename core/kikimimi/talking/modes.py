"""What may be asked of a recording without words of one's own."""

from __future__ import annotations

from kikimimi.contracts import registry
from kikimimi.contracts.generation import Generation
from kikimimi.contracts.task import Task
from kikimimi.errors import RequestError
from kikimimi.inference.fixed_tasks import fixed_tasks
from kikimimi.run.folder import RunFolder
from kikimimi.talking.dialogue import Request

TALKING = Generation(max_new_tokens=512)
"""How answers are made where nothing else is asked for."""


def fixed_request(run: RunFolder, language: str | None = None) -> Request:
    """Return what a run's model was taught to be asked of a clip; nothing where no task of it asks.

    Args:
        run: A run.
        language: ISO 639-1 code of the clip, or None for the task's own choice.

    Raises:
        RequestError: The task does not ask in this language.
    """
    for task in fixed_tasks(run):
        try:
            return Request.of(task.question(language))
        except ValueError as error:
            raise RequestError(str(error)) from error
    return Request()


def request_of(run: RunFolder, name: str, language: str) -> Request:
    """Return what a task asks of a clip, as the run has taught it, or as it comes.

    Args:
        run: A run.
        name: The task; ``asr`` stands for any that transcribes.
        language: ISO 639-1 code of the wanted request; the task's own choice where it has none in it.
    """
    task = next((task for task in fixed_tasks(run) if _is(task, name)), None)
    if task is None:
        kind = registry.load("task", name)
        task = kind(kind.Config())
    try:
        return Request.of(task.question(language))
    except ValueError:
        return Request.of(task.question(None))


def _is(task: Task, name: str) -> bool:
    return task.transcribes if name == "asr" else getattr(task, "name", None) == name

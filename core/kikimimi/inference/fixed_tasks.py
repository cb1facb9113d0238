"""Which fixed questions a run's model was taught to answer about a clip."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from kikimimi.errors import RequestError
from kikimimi.run.folder import RunFolder

if TYPE_CHECKING:
    from kikimimi.contracts.conversation import Conversation
    from kikimimi.contracts.task import Task
    from kikimimi.recipe import Dataset, Evaluation

HEARS_LANGUAGE = "this model hears the language by itself, and cannot be told: leave it out"
"""Why a language is refused where `hears_language`."""
_UNHEARD = "zz"  # no language has this code


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


def fixed_task(run: RunFolder) -> Task:
    """Return the task that is asked of a clip.

    Raises:
        RequestError: None of the run's tasks asks a fixed question.
    """
    for task in fixed_tasks(run):
        return task
    raise RequestError(
        f"{run.path}: none of its tasks asks a fixed question of a clip, as transcription does"
    )


def hears_language(task: Task) -> bool:
    """Return whether a task asks the same whatever the language, so that naming one has no effect."""
    try:
        task.question(_UNHEARD)
    except ValueError:
        return False
    return True


def fixed_question(task: Task, language: str | None, context: str | None = None) -> Conversation:
    """Return what is asked of the clip ``0``.

    Args:
        task: A task with a fixed question.
        language: ISO 639-1 code of the clip, or None for the task's own choice.
        context: Words that help to hear it; None and blank ones are none.

    Raises:
        RequestError: The task is not asked in this language, or in none, or takes no words.
    """
    if language is not None and hears_language(task):
        raise RequestError(f"language: {HEARS_LANGUAGE}")
    try:
        question = task.question(language)
    except ValueError as error:
        raise RequestError(str(error)) from error
    if context is None or not context.strip():  # many clients send one without words
        return question
    try:
        return task.question_in_context(language, context)
    except ValueError as error:
        raise RequestError(f"prompt: {error}: leave it out") from error

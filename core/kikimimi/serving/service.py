"""What is served: one run's model, and what may be asked of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cached_property

import torch

from kikimimi.contracts.conversation import Conversation
from kikimimi.contracts.task import Task
from kikimimi.inference.alignment import times_words, word_times
from kikimimi.inference.cutting import CutPiece
from kikimimi.inference.engine import Prompt
from kikimimi.inference.fixed_tasks import HEARS_LANGUAGE, fixed_tasks, hears_language
from kikimimi.inference.live import LiveEngine
from kikimimi.inference.load import open_engine
from kikimimi.inference.recording import SUBTITLE_PAUSE, Cut, cut_recording
from kikimimi.inference.transcript import TextSegment, TimedWord
from kikimimi.run.folder import RunFolder
from kikimimi.serving.asking import Asker
from kikimimi.serving.decoding import Samples, UploadDecoder
from kikimimi.serving.limits import Limits, Load
from kikimimi.serving.metrics import Metrics
from kikimimi.serving.refusal import RefusalError

ENGLISH = "en"
_WARM_SECONDS = 1.0


class Service:
    """A run's model, ready to answer.

    Args:
        run: A trained run.
        name: The model's name; None is the recipe's.
        limits: What is taken on.
        device: Where it runs; None is a GPU if there is one.
        cut: Where audio is cut that is longer than the encoder's window.
        pause: Shortest silence [s] that ends a segment, where it is cut at silence; None is `SUBTITLE_PAUSE`
            for subtitles, and segments as long as they may be for all else.

    Attributes:
        name: The model's name.
        created: When it was loaded [s since 1970].
        generation: How it answers where nothing else is asked for.

    Raises:
        RunError: Nothing was trained yet.
    """

    def __init__(
        self,
        run: RunFolder,
        name: str | None = None,
        limits: Limits | None = None,
        device: torch.device | None = None,
        cut: Cut = "silence",
        pause: float | None = None,
    ) -> None:
        self.name, self.limits = name or run.recipe.name, limits or Limits()
        self.created = int(time.time())
        self._cut: Cut = cut
        self._pause = pause
        self._tasks = list(fixed_tasks(run))
        engine, self.generation = open_engine(run, device)
        self.max_seconds = engine.max_seconds
        self.engine = LiveEngine(engine, max_rows=self.limits.max_rows, max_waiting=self.limits.places)
        self.asker = Asker(self.engine, self.limits.places)
        self.decoder = UploadDecoder(engine.sample_rate, self.limits)
        self.load = Load(self.limits)
        self.metrics = Metrics(self.load, self.engine)

    def warm_up(self) -> None:
        """Answer a second of silence, so that nobody waits for what is done once.

        Raises:
            KikimimiError: The model cannot answer.
        """
        if not self._tasks:
            return
        silence = torch.zeros(int(_WARM_SECONDS * self.decoder.sample_rate))
        prompt = Prompt("", self._tasks[0].question(None), [silence])
        self.engine.submit(prompt, replace(self.generation, max_new_tokens=2)).answer()

    def close(self) -> None:
        """Answer nothing any more."""
        self.engine.close()

    def check_model(self, name: str) -> None:
        """Check the name of the model that is asked for.

        Raises:
            RefusalError: It is another.
        """
        if name != self.name:
            raise RefusalError(
                404,
                f"model: this server has one model, '{self.name}', and no other",
                param="model",
                code="model_not_found",
            )

    def transcription(self, language: str | None, prompt: str | None = None) -> Conversation:
        """Return the question that asks for a transcript.

        Args:
            language: Language of the clip, where it was given.
            prompt: Words that help to hear it, where they were given.

        Raises:
            RefusalError: The run was not trained on that, is asked in no such language, or takes no words.
        """
        task = self._task(
            "transcription", lambda task: task.transcribes, lambda task: task.translates_into is None
        )
        if language is None:
            return _question(task, None, prompt)
        if hears_language(task):
            raise RefusalError(
                400,
                f"language: {HEARS_LANGUAGE}",
                param="language",
                code="unsupported_parameter",
            )
        try:
            task.question(language)
        except ValueError as error:
            raise RefusalError(400, str(error), param="language") from error
        return _question(task, language, prompt)

    def translation(self, prompt: str | None = None) -> Conversation:
        """Return the question that asks for an English translation.

        Args:
            prompt: Words that help to hear the clip, where they were given.

        Raises:
            RefusalError: The run was not trained on that, or takes no words.
        """
        return _question(self._translator, None, prompt)

    def translated(self, answer: str) -> str:
        """Return the translation that an answer to `translation` holds."""
        return self._translator.translated(answer)

    @property
    def _translator(self) -> Task:
        return self._task("translation into English", lambda task: task.translates_into == ENGLISH)

    def cut(self, blocks: Iterable[Samples], *, subtitles: bool = False) -> Iterator[CutPiece]:
        """Cut (S,) blocks that follow one another into pieces that the model can take.

        Args:
            blocks: The blocks.
            subtitles: Whether people are to read the pieces beside a picture.
        """
        pause = self._pause
        if subtitles and pause is None and self._cut == "silence":
            pause = SUBTITLE_PAUSE
        return cut_recording(
            blocks,
            sample_rate=self.decoder.sample_rate,
            max_seconds=self.max_seconds,
            cut=self._cut,
            pause=pause,
        )

    async def times_words(self) -> bool:
        """Return whether this model can tell when words were said."""
        return await self.decoder.in_thread(lambda: self._times_words)

    @cached_property
    def _times_words(self) -> bool:
        return times_words(self.engine.engine)

    async def words(self, piece: TextSegment, clip: torch.Tensor) -> tuple[TimedWord, ...]:
        """Return when each word of a piece was said, from the recording's beginning.

        Args:
            piece: What was heard.
            clip: Its (S,) samples.
        """
        found = await self.decoder.in_thread(lambda: word_times(self.engine.engine, clip.numpy(), piece.text))
        return tuple(word.after(piece.start) for word in found)

    def _task(self, what: str, *wanted: Callable[[Task], bool]) -> Task:
        """Return the first task that fits the first of the wishes that any fits."""
        for wish in wanted:
            for task in filter(wish, self._tasks):
                return task
        raise RefusalError(
            404,
            f"this model was not trained on {what}; ask it by POST /v1/chat/completions with a clip "
            "(input_audio) and words of your own",
            code="not_trained",
        )


def _question(task: Task, language: str | None, prompt: str | None) -> Conversation:
    if prompt is None or not prompt.strip():  # many clients send one without words
        return task.question(language)
    try:
        return task.question_in_context(language, prompt)
    except ValueError as error:
        raise RefusalError(
            400,
            f"prompt: {error}: leave it out, or put your words beside the clip in POST /v1/chat/completions",
            param="prompt",
            code="unsupported_parameter",
        ) from error

"""`POST /v1/audio/transcriptions` and `POST /v1/audio/translations`."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from fastapi import Request, Response

from kikimimi.console.terminal import json_text
from kikimimi.contracts.answer import Answer
from kikimimi.contracts.conversation import Conversation
from kikimimi.contracts.generation import Generation
from kikimimi.data.audio import is_silent
from kikimimi.inference.alignment import NO_HEAD
from kikimimi.inference.cutting import CutPiece
from kikimimi.inference.engine import Prompt
from kikimimi.inference.subtitles import srt, verbose_json, vtt
from kikimimi.inference.transcript import TextSegment, Transcript
from kikimimi.serving.asking import Question
from kikimimi.serving.events import Events, streamed
from kikimimi.serving.parameters import TranscriptionRequest, TranslationRequest, adjusted
from kikimimi.serving.refusal import RefusalError, not_supported
from kikimimi.serving.service import Service
from kikimimi.serving.uploads import Form, read_form

_LISTS = ("timestamp_granularities[]",)


@dataclass
class _Heard:
    """What was heard so far.

    Attributes:
        segments: Pieces that were answered.
        rate: The samples' rate [Hz].
        samples: How many of the file were decoded.
        cut: Number of answers that ended at the most tokens allowed.
    """

    rate: int
    segments: list[TextSegment] = field(default_factory=list)
    samples: int = 0
    cut: int = 0

    def count(self, samples: int) -> None:
        self.samples += samples

    @property
    def seconds(self) -> float:
        return self.samples / self.rate

    @property
    def transcript(self) -> Transcript:
        return Transcript(tuple(self.segments), self.seconds)

    @property
    def extras(self) -> dict[str, Any]:
        """What is told beside a text: how much was heard, and whether any of it is not whole."""
        cut = {"cut_segments": self.cut} if self.cut else {}
        return {"usage": {"type": "duration", "seconds": round(self.seconds, 3)}, **cut}


class _Asked(NamedTuple):
    """A piece that the engine was asked about: where it lies in the file [s]."""

    start: float
    end: float
    question: Question


class _Recording:
    """A file that is asked about piece by piece.

    Args:
        service: Who answers.
        request: The request that it came with.
        content: The file.
        question: What is asked of each piece.
        generation: How it is answered.
        subtitles: Whether people are to read the pieces beside a picture.
        words: Whether it is told when each word was said.
        kept: Returns what is told of an answer.
    """

    def __init__(
        self,
        service: Service,
        request: Request,
        content: bytes,
        question: Conversation,
        generation: Generation,
        *,
        subtitles: bool,
        words: bool,
        kept: Callable[[str], str],
    ) -> None:
        self.service, self._state, self.words = service, request.state, words
        self._kept = kept
        self._content, self._question, self._generation = content, question, generation
        self._cut = partial(service.cut, subtitles=subtitles)
        self.heard = _Heard(service.decoder.sample_rate)
        self._begun = False

    async def texts(self) -> AsyncGenerator[str, None]:
        """Yield the text as it comes; `heard` is whole afterwards, with what is kept of each answer."""
        async with AsyncExitStack() as stack:
            pieces = await stack.enter_async_context(
                aclosing(self.service.decoder.cut(self._content, "file", self._cut, self.heard.count))
            )
            asked: deque[_Asked] = deque()
            said = ""
            while asked or await self._ask(pieces, asked, stack):
                now = asked.popleft()
                begun = False
                async for piece in now.question.pieces():
                    if not begun:
                        if said and said[-1].isascii() and piece[:1].isascii():
                            yield " "
                        begun = True
                    said = piece or said
                    yield piece
                    # The next piece of the file is decoded meanwhile, where that takes nobody's place.
                    if not asked and self.service.asker.has_room:
                        await self._ask(pieces, asked, stack)
                await self._note(now, await now.question.answer())
                now.question.close()

    async def _ask(
        self, pieces: AsyncIterator[CutPiece], asked: deque[_Asked], stack: AsyncExitStack
    ) -> bool:
        """Ask about the next piece that is not silent; tell whether there was one."""
        question = self.service.asker.question(self._state.deadline)
        # Who has a place decodes the first piece. Who was answered needs none to find that nothing follows.
        if not self._begun:
            self._begun = True
            await stack.enter_async_context(question)
        piece = await anext(pieces, None)
        while piece is not None and is_silent(piece.samples):
            piece = await anext(pieces, None)
        if piece is None:
            question.close()
            return False
        if not question.has_place:
            await stack.enter_async_context(question)
        question.ask(Prompt("", self._question, [torch.from_numpy(piece.samples)]), self._generation)
        start, seconds = piece.start / self.heard.rate, len(piece.samples) / self.heard.rate
        self.service.metrics.heard(seconds)
        asked.append(_Asked(start, start + seconds, question))
        return True

    async def _note(self, asked: _Asked, answer: Answer) -> None:
        reply = asked.question.reply
        assert reply is not None
        heard = TextSegment(asked.start, asked.end, self._kept(answer))
        if self.words:
            heard = heard._replace(words=await self.service.words(heard, reply.prompt.clips[0]))
        self.heard.segments.append(heard)
        self.heard.cut += bool(answer.cut)
        self.service.metrics.answered(reply, cut=bool(answer.cut))


async def transcribe_upload(service: Service, request: Request) -> Response:
    """Answer `POST /v1/audio/transcriptions`.

    Raises:
        RefusalError: What is asked for is not supported.
        ValidationError: A parameter is wrong.
        KikimimiError: The file cannot be heard.
    """
    form = await read_form(request, request.state.deadline)
    asked = TranscriptionRequest.model_validate(_given(form, TranscriptionRequest))
    question = service.transcription(asked.language, asked.prompt)
    recording = _recording(service, request, form, asked, question)
    if recording.words and not await service.times_words():
        raise RefusalError(
            400,
            f"timestamp_granularities[]: {NO_HEAD}; allowed: segment",
            param="timestamp_granularities[]",
            code="unsupported_parameter",
        )
    if asked.stream:
        return await streamed(_events(recording))
    return await _whole(recording, asked, asked.language, "transcribe")


async def translate_upload(service: Service, request: Request) -> Response:
    """Answer `POST /v1/audio/translations`.

    Raises:
        RefusalError: The run was not trained on it, or what is asked for is not supported.
        ValidationError: A parameter is wrong.
        KikimimiError: The file cannot be heard.
    """
    service.translation()  # before anything of it is read
    form = await read_form(request, request.state.deadline)
    asked = TranslationRequest.model_validate(_given(form, TranslationRequest))
    question = service.translation(asked.prompt)
    recording = _recording(service, request, form, asked, question, service.translated)
    return await _whole(recording, asked, "en", "translate")


def _given(form: Form, model: type[TranslationRequest]) -> dict[str, Any]:
    """Return the fields of a form as parameters."""
    allowed = [field.alias or name for name, field in model.model_fields.items()]
    for name, texts in form.fields.items():
        if name not in allowed:
            raise not_supported(name, ["file", *allowed])
        if len(texts) > 1 and name not in _LISTS:
            raise RefusalError(400, f"{name}: given {len(texts)} times", param=name)
    return {name: texts if name in _LISTS else texts[0] for name, texts in form.fields.items()}


def _recording(
    service: Service,
    request: Request,
    form: Form,
    asked: TranslationRequest,
    question: Conversation,
    kept: Callable[[str], str] = str,
) -> _Recording:
    service.check_model(asked.model)
    generation = adjusted(service.generation, temperature=asked.temperature)
    subtitles = asked.response_format in ("srt", "vtt")
    words = isinstance(asked, TranscriptionRequest) and "word" in asked.timestamp_granularities
    return _Recording(
        service, request, form.file, question, generation, subtitles=subtitles, words=words, kept=kept
    )


async def _whole(
    recording: _Recording, asked: TranslationRequest, language: str | None, task: str
) -> Response:
    async with aclosing(recording.texts()) as texts:
        async for _ in texts:
            pass
    heard = recording.heard
    transcript = heard.transcript
    match asked.response_format:
        case "text":
            return Response(f"{transcript.text}\n", media_type="text/plain")
        case "srt":
            return Response(srt(transcript.segments), media_type="application/x-subrip")
        case "vtt":
            return Response(vtt(transcript.segments), media_type="text/vtt")
        case "verbose_json":
            content = verbose_json(transcript, language=language, task=task, words=recording.words)
        case _:
            content = {"text": transcript.text}
    return Response(json_text({**content, **heard.extras}), media_type="application/json")


async def _events(recording: _Recording) -> Events:
    async with aclosing(recording.texts()) as texts:
        async for text in texts:
            if text:
                yield {"type": "transcript.text.delta", "delta": text}
    heard = recording.heard
    yield {"type": "transcript.text.done", "text": heard.transcript.text, **heard.extras}

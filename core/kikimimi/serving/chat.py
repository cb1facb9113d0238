"""`POST /v1/chat/completions`."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import torch
from fastapi import Request, Response

from kikimimi.console.terminal import json_text
from kikimimi.contracts.conversation import AudioPart, Conversation, Message, Part, TextPart
from kikimimi.contracts.generation import Generation
from kikimimi.inference.engine import Prompt
from kikimimi.serving.asking import Question
from kikimimi.serving.events import Events, streamed
from kikimimi.serving.parameters import ChatRequest
from kikimimi.serving.refusal import RefusalError
from kikimimi.serving.service import Service
from kikimimi.serving.stops import StopTexts
from kikimimi.serving.uploads import decode_base64, read_body


class _Completion:
    """An answer that is being made."""

    def __init__(self, service: Service, asked: ChatRequest, generation: Generation, deadline: float) -> None:
        self.service, self.asked, self._generation = service, asked, generation
        self._deadline = deadline
        self._stop = StopTexts(asked.stop or ())
        self._made = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "object": "chat.completion.chunk" if asked.stream else "chat.completion",
            "created": int(time.time()),
            "model": service.name,
        }
        self.finish_reason = "stop"
        self.usage: dict[str, int] | None = None  # where the LLM answers whole batches, nobody counts

    async def texts(self) -> AsyncGenerator[str, None]:
        """Yield the text as it comes; `finish_reason` and `usage` hold afterwards."""
        async with self.service.asker.question(self._deadline) as question:
            question.ask(await self._prompt(), self._generation)
            async with aclosing(question.pieces()) as pieces:
                async for piece in pieces:
                    if passed := self._stop.push(piece):
                        yield passed
                    if self._stop.found:
                        break
            if held := self._stop.finish():
                yield held
            await self._end(question)

    async def _end(self, question: Question) -> None:
        reply = question.reply
        assert reply is not None
        cut = not self._stop.found and bool((await question.answer()).cut)
        self.finish_reason = "length" if cut else "stop"
        if reply.prompt_tokens is not None and reply.tokens is not None:
            self.usage = {
                "prompt_tokens": reply.prompt_tokens,
                "completion_tokens": reply.tokens,
                "total_tokens": reply.prompt_tokens + reply.tokens,
            }
        self.service.metrics.answered(reply, cut=cut)

    async def _prompt(self) -> Prompt:
        """Return the conversation with its clips decoded.

        Raises:
            RefusalError: A clip is none, or too long.
            AudioError: A clip cannot be decoded.
        """
        turns: list[Message] = []
        clips: list[torch.Tensor] = []
        seconds = 0.0
        for number, turn in enumerate(self.asked.messages):
            parts: list[Part] = []
            for place, part in enumerate(turn.content):
                if part.text is not None:
                    parts.append(TextPart(part.text))
                    continue
                given = part.input_audio
                assert given is not None
                where = f"messages[{number}].content[{place}].input_audio"
                content = decode_base64(given.data, given.format, where)
                samples = await self.service.decoder.clip(content, where)
                seconds += len(samples) / self.service.decoder.sample_rate
                self.service.limits.check_seconds(seconds, "messages")
                parts.append(AudioPart(str(len(clips))))
                clips.append(torch.from_numpy(samples))
            turns.append(Message(turn.role, tuple(parts)))
        self.service.metrics.heard(seconds)
        return Prompt("", Conversation(tuple(turns)), clips, self.asked.seed)

    async def whole(self) -> dict[str, Any]:
        """Return the answer in one piece."""
        async with aclosing(self.texts()) as texts:
            text = "".join([piece async for piece in texts])
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": self.finish_reason, "logprobs": None}
        return {**self._made, "choices": [choice], "usage": self.usage}

    async def chunks(self) -> Events:
        """Yield the answer in pieces."""
        begun = False
        async with aclosing(self.texts()) as texts:
            async for text in texts:
                if not begun:
                    yield self._chunk({"role": "assistant", "content": ""})
                    begun = True
                yield self._chunk({"content": text})
        if not begun:
            yield self._chunk({"role": "assistant", "content": ""})
        yield self._chunk({}, self.finish_reason)
        if self._tells_usage:
            yield {**self._made, "choices": [], "usage": self.usage}

    @property
    def _tells_usage(self) -> bool:
        return self.asked.stream_options is not None and self.asked.stream_options.include_usage

    def _chunk(self, delta: dict[str, str], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
        usage = {"usage": None} if self._tells_usage else {}
        return {**self._made, "choices": [choice], **usage}


async def complete(service: Service, request: Request) -> Response:
    """Answer `POST /v1/chat/completions`.

    Raises:
        RefusalError: What is asked for is not supported.
        ValidationError: A parameter is wrong.
        KikimimiError: It cannot be answered.
    """
    body = await read_body(request, request.state.deadline)
    asked = ChatRequest.model_validate_json(body, strict=True)
    del body
    service.check_model(asked.model)
    try:
        generation = asked.generation(service.generation)
    except ValueError as error:
        raise RefusalError(400, str(error)) from error
    completion = _Completion(service, asked, generation, request.state.deadline)
    if asked.stream:
        return await streamed(completion.chunks())
    return Response(json_text(await completion.whole()), media_type="application/json")

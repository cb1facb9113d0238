"""Speech recognition as a task: a labelled clip becomes a request for its transcript, and the transcript."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Literal

import yaml

from kikimimi.conversation import AudioPart, Conversation, Message, TextPart
from kikimimi.errors import listing, nearest
from kikimimi.task import Task, TaskConfig

_BANK = Path(__file__).with_name("asr_prompts.yaml")


@dataclass(kw_only=True, frozen=True)
class ASRConfig(TaskConfig):
    """Options of the task `asr`."""

    prompt: Literal["bank", "none"] = "bank"
    """bank: a request from the prompt bank stands beside the audio; none: the audio stands alone."""
    request: str | None = None
    """A request of your own beside the audio, always the same, in place of the bank's."""
    language: Literal["ja", "en", "auto"] = "auto"
    """Language of the request; auto takes the record's."""
    order: Literal["audio_first", "text_first"] = "audio_first"
    """Whether the user's turn begins with the audio or with the request."""

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("prompt", self.prompt, ("bank", "none")),
            ("language", self.language, ("auto", *_bank())),
            ("order", self.order, ("audio_first", "text_first")),
        ):
            if value not in allowed:
                raise ValueError(
                    f"{name}: {value!r} is not one of {listing(allowed)}.{nearest(str(value), allowed)}"
                )
        if self.prompt == "none" and (self.language, self.order) != ("auto", "audio_first"):
            raise ValueError("language and order say how the prompt is, but prompt is 'none': leave them out")
        if self.request is not None and (self.prompt, self.language) != ("bank", "auto"):
            raise ValueError("request: stands in place of prompt and language: leave those two out")
        if self.request is not None and not self.request.strip():
            raise ValueError("request: is empty; for audio alone set prompt to none")


class ASR(Task):
    """Asks for the transcript of a clip: ``{"text": ..., "language": ...}`` and one audio member."""

    Config = ASRConfig
    config: ASRConfig

    def conversation(self, record: dict[str, Any], clips: list[str], rng: Random | None) -> Conversation:
        """Build ``[user: audio and request, assistant: transcript]``.

        Args:
            record: ``text`` is the transcript, ``language`` its ISO 639-1 code; ``meta`` is kept.
            clips: The record's one clip.
            rng: Chooses the phrasing of the request; None takes the first of the language.

        Raises:
            ValueError: The record is no labelled clip, or the bank has no request in its language.
        """
        text, meta = record.get("text"), record.get("meta") or {}
        if "messages" in record:
            raise ValueError(
                "messages: task 'asr' makes the turns itself; the record has them: use task 'chat'"
            )
        if not isinstance(text, str) or not text.strip():
            raise ValueError("text: task 'asr' needs the transcript")
        if not isinstance(meta, dict):
            raise ValueError("meta: expected a mapping")
        if len(clips) != 1:
            raise ValueError(
                f"task 'asr' needs exactly one clip; the record has {len(clips)}: {listing(clips)}"
            )
        language = record.get("language")
        if language is None and self._asks_by_record:
            raise ValueError(
                "language: the record has none; give it there, or set task 'asr' to one language"
            )
        user = self._user(AudioPart(clips[0], text), language, rng)
        return Conversation((user, Message("assistant", (TextPart(text),))), None, meta)

    def phrasings(self) -> list[str]:
        """Return the requests that may be asked: of one language, or of all where the record decides."""
        if self.config.prompt == "none":
            return []
        if self.config.request is not None:
            return [self.config.request]
        languages = list(_bank()) if self.config.language == "auto" else [self.config.language]
        return [request for language in languages for request in _bank()[language]]

    def question(self, language: str | None) -> Conversation:
        """Return the request for the transcript of the clip ``0``, in its first phrasing.

        Args:
            language: ISO 639-1 code of the clip; None takes the first of the bank (Japanese). The option
                `language`, where it is not ``auto``, goes before either.

        Raises:
            ValueError: The bank has no request in this language.
        """
        if language is None and self._asks_by_record:
            language = next(iter(_bank()))
        return Conversation((self._user(AudioPart("0"), language, None),))

    def _user(self, audio: AudioPart, language: Any, rng: Random | None) -> Message:
        if self.config.prompt == "none":
            return Message("user", (audio,))
        if self.config.request is not None:
            return self._ordered(audio, self.config.request)
        if self.config.language != "auto":
            language = self.config.language
        if not isinstance(language, str) or language not in _bank():
            raise ValueError(
                f"language: task 'asr' has no prompts in {language!r}, only in {listing(_bank())}; "
                "set its option 'language' to one of them"
            )
        requests = _bank()[language]
        return self._ordered(audio, requests[0] if rng is None else rng.choice(requests))

    @property
    def _asks_by_record(self) -> bool:
        """Whether the request is in the record's language."""
        return (self.config.language, self.config.prompt, self.config.request) == ("auto", "bank", None)

    def _ordered(self, audio: AudioPart, request: str) -> Message:
        parts = (audio, TextPart(request))
        return Message("user", parts if self.config.order == "audio_first" else parts[::-1])


@cache
def _bank() -> dict[str, list[str]]:
    bank: dict[str, list[str]] = yaml.safe_load(_BANK.read_text(encoding="utf-8"))
    return bank

"""An engine that says what it is told to say, and notes what it is asked."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kikimimi.contracts.answer import Answer
from kikimimi.contracts.conversation import TextPart
from kikimimi.contracts.generation import Generation
from kikimimi.inference.engine import Prompt
from kikimimi.inference.reply import Reply
from kikimimi.talking.recording import Ears, Recording


class Scripted:
    """Stands in for a `LiveEngine`.

    Attributes:
        outcomes: What it says, one after the other: pieces of an answer, an error, or None for an answer that
            does not come; afterwards it says how often it was asked.
        asked: The prompts.
    """

    def __init__(self) -> None:
        self.engine = SimpleNamespace(sample_rate=16_000, max_seconds=2.0)
        self.outcomes: list[list[str] | Exception | None] = []
        self.cut = False
        self.asked: list[Prompt] = []
        self.generations: list[Generation] = []
        self.replies: list[Reply] = []

    def submit(self, prompt: Prompt, generation: Generation) -> Reply:
        self.asked.append(prompt)
        self.generations.append(generation)
        reply = Reply(prompt, generation)
        self.replies.append(reply)
        outcome = self.outcomes.pop(0) if self.outcomes else [f"answer {len(self.asked)}"]
        if isinstance(outcome, Exception):
            reply.end(error=outcome)
        elif outcome is not None:
            for piece in outcome:
                reply.give(piece)
            reply.end(Answer("".join(outcome), cut=self.cut))
        return reply

    def said(self, number: int = -1) -> list[tuple[str, str]]:
        """Return the turns of a prompt: who spoke, and what; a clip is its length in samples."""
        prompt = self.asked[number]
        clips = iter(prompt.clips)
        return [
            (
                turn.role,
                "+".join(
                    part.text if isinstance(part, TextPart) else f"{len(next(clips))}" for part in turn.parts
                ),
            )
            for turn in prompt.conversation.messages
        ]


@pytest.fixture
def live() -> Any:
    return Scripted()


@pytest.fixture
def ears() -> Ears:
    return Ears(16_000, 2.0)


@pytest.fixture
def recording(ears: Ears) -> Callable[[float], Recording]:
    def make(seconds: float) -> Recording:
        noise = np.random.default_rng(0).normal(0, 0.1, round(16_000 * seconds))
        return ears.hear(noise.astype(np.float32), "clip")

    return make

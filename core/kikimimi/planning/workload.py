"""What a micro-batch holds, as long as no data says so."""

from __future__ import annotations

from dataclasses import dataclass

from kikimimi.errors import RequestError
from kikimimi.model.speech_lm import SpeechLM
from kikimimi.recipe.schema import Batching


@dataclass(frozen=True, kw_only=True)
class Workload:
    """An average conversation: one clip, what is asked about it, and the answer.

    Attributes:
        clip_seconds: Length of the clip [s].
        prompt_tokens: Tokens of the request with all markup.
        answer_tokens: Tokens of the answer, all of them targets.
    """

    clip_seconds: float = 6.0
    prompt_tokens: int = 30
    answer_tokens: int = 25

    def __post_init__(self) -> None:
        for name in ("clip_seconds", "prompt_tokens", "answer_tokens"):
            if getattr(self, name) <= 0:
                option = name.replace("_", "-")
                raise RequestError(f"--{option} must be above 0, not {getattr(self, name)}")


@dataclass(frozen=True)
class MicroBatch:
    """A full micro-batch of equal conversations.

    Attributes:
        clips: How many, each in a conversation of its own.
        seconds: Of each clip.
        frames: Encoder frames F of each.
        tokens: Audio tokens T of each, at most.
        prompt: Positions of each conversation before the answer, audio and text.
        answer: Targets of each.
    """

    clips: int
    seconds: float
    frames: int
    tokens: int
    prompt: int
    answer: int

    @property
    def audio_seconds(self) -> float:
        """Audio in all clips together [s]."""
        return self.clips * self.seconds


def fill(batch: Batching, workload: Workload, model: SpeechLM) -> MicroBatch:
    """Return the micro-batch that a stage's budget allows."""
    limit = min(batch.seconds or workload.clip_seconds, model.encoder.max_seconds or workload.clip_seconds)
    seconds = min(workload.clip_seconds, limit)
    frames = model.encoder.num_frames(round(seconds * model.encoder.sample_rate))
    tokens = model.adapter.max_tokens(frames)
    prompt = tokens + workload.prompt_tokens
    if batch.tokens is not None:
        clips = batch.tokens // (prompt + workload.answer_tokens)
    else:
        assert batch.seconds is not None
        clips = int(batch.seconds / seconds + 1e-9)
    return MicroBatch(max(clips, 1), seconds, frames, tokens, prompt, workload.answer_tokens)

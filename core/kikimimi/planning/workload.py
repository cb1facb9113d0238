"""What a micro-batch holds as long as no data says so, and what it costs an objective."""

from __future__ import annotations

from dataclasses import dataclass

from kikimimi.contracts.options import Options, PositiveFloat, PositiveInt
from kikimimi.costs.operations import Cost, Costs
from kikimimi.model.speech_lm import SpeechLM
from kikimimi.recipe import Chosen
from kikimimi.recipe.schema import Batching


@dataclass(frozen=True, kw_only=True)
class Workload(Options):
    """An average conversation: one clip, what is asked about it, and the answer.

    Attributes:
        clip_seconds: Length of the clip [s].
        prompt_tokens: Tokens of the request with all markup.
        answer_tokens: Tokens of the answer, all of them targets.
    """

    clip_seconds: PositiveFloat = 6.0
    prompt_tokens: PositiveInt = 30
    answer_tokens: PositiveInt = 25


@dataclass(frozen=True)
class MicroBatch:
    """A full micro-batch of equal conversations.

    Attributes:
        clips: How many, each in a conversation of its own.
        seconds: The length of each clip [s].
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


def full_micro_batch(batch: Batching, workload: Workload, model: SpeechLM) -> MicroBatch:
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


@dataclass(frozen=True)
class Passes:
    """How often an objective sends each conversation through the LLM.

    Attributes:
        sequences: Sequences that are learnt from, in one pass with gradients: two where answers are compared.
        reference: Whether all of them also pass the model as it was.
        written: Whether the transcript passes in place of the audio as well, without gradients.
    """

    sequences: int = 1
    reference: bool = False
    written: bool = False

    @classmethod
    def of(cls, objective: Chosen) -> Passes:
        """Return those of an objective."""
        made = objective.component(objective.config)
        return cls(2 if "rejected" in made.views else 1, bool(made.reference), "written" in made.views)

    @staticmethod
    def lengths(model: SpeechLM, batch: MicroBatch) -> tuple[int, int]:
        """Return the two lengths that the cost of a sequence in the LLM depends on."""
        x = batch.prompt + batch.answer if model.llm.causal else batch.prompt
        return x, batch.answer


def micro_batch_flops(
    model: SpeechLM, costs: Costs, batch: MicroBatch, passes: Passes, *, recompute: bool
) -> dict[str, float]:
    """Return the operations of a micro-batch, by part."""
    x, y = passes.lengths(model, batch)

    def both(part: Cost, *lengths: int) -> float:
        again = recompute and part.backward(x, y) > 0
        return part.flops(*lengths) + (part.forward(*lengths) if again else 0)

    encoder, adapter = both(costs.encoder, batch.frames), both(costs.adapter, batch.frames)
    sequence = both(costs.llm, x, y)
    per_clip = passes.sequences * (sequence + (costs.llm.forward(x, y) if passes.reference else 0))
    if passes.written:
        per_clip += costs.llm.forward(x - batch.tokens, y)
    # The reference hears the clip through an adapter of its own.
    adapter += costs.adapter.forward(batch.frames) if passes.reference else 0
    per_part = {"encoder": encoder, "adapter": adapter, "llm": per_clip}
    return {name: batch.clips * value for name, value in per_part.items()}

"""How often an objective sends a conversation through the LLM, and what a micro-batch costs then."""

from __future__ import annotations

from dataclasses import dataclass

from kikimimi.costs.operations import Cost, Costs
from kikimimi.model.speech_lm import SpeechLM
from kikimimi.planning.workload import MicroBatch
from kikimimi.recipe import Chosen


@dataclass(frozen=True)
class Passes:
    """Of each conversation.

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
    """Return the operations of a micro-batch, by part.

    Args:
        model: Whose LLM decides what lengths are.
        costs: Of its parts.
        batch: The micro-batch.
        passes: What the objective computes.
        recompute: With one more forward pass wherever there is a backward pass (activation checkpointing).
    """
    x, y = passes.lengths(model, batch)
    again = [part.forward if recompute and part.backward(x, y) > 0 else None for part in _parts(costs)]
    clip = {
        name: part.flops(batch.frames) + (more(batch.frames) if more else 0)
        for name, part, more in zip(("encoder", "adapter"), _parts(costs), again, strict=False)
    }
    sequence = costs.llm.flops(x, y) + (again[2](x, y) if again[2] else 0)
    per_clip = passes.sequences * (sequence + (costs.llm.forward(x, y) if passes.reference else 0))
    if passes.written:
        per_clip += costs.llm.forward(x - batch.tokens, y)
    # The reference hears the clip through an adapter of its own.
    clip["adapter"] += costs.adapter.forward(batch.frames) if passes.reference else 0
    return {name: batch.clips * value for name, value in {**clip, "llm": per_clip}.items()}


def _parts(costs: Costs) -> tuple[Cost, Cost, Cost]:
    return costs.encoder, costs.adapter, costs.llm

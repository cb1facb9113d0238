"""Memory of one rank, by what it is for."""

from dataclasses import dataclass, fields

from torch import nn

from kikimimi.costs.operations import Costs
from kikimimi.model.speech_lm import SpeechLM
from kikimimi.planning.workload import MicroBatch, Passes
from kikimimi.recipe import Trainer
from kikimimi.recipe.chosen import PARTS

FULL, HALF = 4, 2
"""Bytes of a number in fp32, and in bf16 or fp16."""


@dataclass(frozen=True)
class Memory:
    """The memory of one rank, at its peak [bytes].

    Attributes:
        weights: The whole model's, or this rank's piece; buffers are whole.
        copies: Weights in half precision that autocast keeps for the backward pass.
        gathered: What FSDP has put together at a time: what is in no block, and two blocks, with the
            gradients of one.
        gradients: Gradients of what is trained; twice with DDP, which also sums them up in buckets.
        optimiser: AdamW's two means.
        reference: The model as it was, where the objective compares with it: a copy of what is trained.
        activations: What is kept for the backward pass, at the largest micro-batch.
        logits: The targets' logits, with what the loss makes of them.
        step: What the optimiser's step takes besides, on a GPU, when activations and logits are gone.
    """

    weights: float
    copies: float
    gathered: float
    gradients: float
    optimiser: float
    reference: float
    activations: float
    logits: float
    step: float

    @property
    def total(self) -> float:
        """Memory at the peak: in the backward pass, or in the optimiser's step."""
        lasting = self.weights + self.gradients + self.optimiser + self.reference
        return lasting + max(self.copies + self.gathered + self.activations + self.logits, self.step)

    def to_json(self) -> dict[str, int]:
        """Return every item and the total, in bytes."""
        items = {item.name: round(getattr(self, item.name)) for item in fields(self)}
        return items | {"total": round(self.total)}


def rank_memory(
    model: SpeechLM, trainer: Trainer, costs: Costs, batch: MicroBatch, passes: Passes, copied: int
) -> Memory:
    """Return the memory of one rank."""
    ranks = trainer.devices * trainer.nodes
    sharded = trainer.strategy == "fsdp" and ranks > 1
    share = ranks if sharded else 1
    parameters = list(model.parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    half = trainer.precision != "fp32"
    buckets = 2 if ranks > 1 and not sharded else 1
    parts = (costs.encoder, costs.adapter, costs.llm)
    sequences = batch.clips * passes.sequences
    x, y = passes.lengths(model, batch)
    kept: tuple[float, ...] = (
        batch.clips * costs.encoder.saved(batch.frames),
        batch.clips * costs.adapter.saved(batch.frames),
        sequences * costs.llm.saved(x, y),
    )
    if trainer.activation_checkpointing:
        inputs = (
            batch.clips * batch.frames * model.encoder.dim,
            batch.clips * batch.frames * model.llm.dim,
            sequences * (batch.prompt + batch.answer) * model.llm.dim,
        )
        kept = tuple(map(_checkpointed, (_count_blocks(model, part) for part in PARTS), kept, inputs))
    logits = sequences * batch.answer * model.llm.vocab_size
    return Memory(
        weights=sum(p.numel() * p.element_size() for p in parameters) / share
        + sum(b.numel() * b.element_size() for b in model.buffers()),
        copies=0 if sharded else sum(part.copies for part in parts),
        gathered=_gathered(model, HALF if half else FULL) if sharded else 0,
        gradients=trained * FULL * buckets / share,
        optimiser=trained * 2 * FULL / share,
        reference=copied * FULL / share,
        activations=sum(kept),
        # Logits, the same in fp32 where they are not, and their log-softmax.
        logits=logits * (HALF + 2 * FULL if half else 2 * FULL),
        step=trained * FULL / share,
    )


def _count_blocks(model: SpeechLM, part: str) -> int:
    own = set(getattr(model, part).modules())
    return sum(block in own for block in model.blocks())


def _checkpointed(blocks: int, kept: float, numbers: float) -> float:
    """Return what is kept of a part whose blocks keep their inputs alone, and the inside of one at a time."""
    return min(kept, kept / blocks + blocks * numbers * FULL) if blocks > 1 else kept


def _gathered(model: SpeechLM, width: int) -> float:
    sizes = [_size(block) for block in model.blocks()]
    whole, trained = _size(model)
    rest, rest_trained = whole - sum(s for s, _ in sizes), trained - sum(t for _, t in sizes)
    largest, largest_trained = max(sizes, default=(0, 0))
    return (rest + 2 * largest) * width + (rest_trained + largest_trained) * FULL


def _size(module: nn.Module) -> tuple[int, int]:
    """Return the parameters of a module, and those of them that are trained."""
    parameters = list(module.parameters())
    return sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)

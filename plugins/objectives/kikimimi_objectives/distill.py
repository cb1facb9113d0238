"""The model answers what it hears as the text LLM answers what is written."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from annotated_types import Gt
from torch import Tensor
from torch.nn import functional as F

from kikimimi import Batch, DataError, Generation, Loss, Objective, ObjectiveConfig, Scored, Step, Units, View


class Distillation(Objective):
    """Implicit alignment: what the text LLM says given the words of a clip is the target given the clip.

    The text LLM, the teacher, is the LLM as it was when the stage began; it reads the same conversation with
    what is said in each clip in its place. Where the LLM does not train there is no second copy.

    - ``kl``: KL(teacher || model) over the answers' tokens, both distributions at `temperature`, mean per
      token and not scaled by the temperature's square, as in Ultravox's training code (fixie-ai/ultravox,
      `_compute_kl_loss`).
    - ``ce`` with ``continuation: own``: cross-entropy to what the teacher itself writes: AudioChatLlama
      (Fathullah et al. 2023, arXiv 2311.06753) and BLSP (Wang et al. 2023, arXiv 2309.00916), who write it
      beforehand. Here it is written as the training goes, in place of the data's answer.

    Not here: the distance between hidden states (DiVA, Held et al. 2024, arXiv 2410.02678); a KL over the
    positions of the audio, which needs as many as the words have; a teacher that reads more than the words,
    such as who says them and how (DeSTA2, Lu et al. 2024, arXiv 2409.20007).
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(ObjectiveConfig):
        """Options of the `distill` objective."""

        loss: Literal["kl", "ce"] = "kl"
        """How the model's answer is compared with the teacher's: by its distributions, or by its tokens."""
        temperature: Annotated[float, Gt(0)] | None = None
        """What both sides' logits are divided by, in the KL; null is 2, as in Ultravox."""
        continuation: Literal["data", "own"] = "data"
        """The answer that both go along: every answer of the record; or the teacher's own last one, written
        in each step, which takes the time of generating it."""
        generate: Generation | None = None
        """How the teacher writes; null is greedily, up to 256 tokens, or sooner where the LLM's context ends.
        What does not end by itself is counted (``continuation_cut``)."""

        def __post_init__(self) -> None:
            if self.temperature is not None and self.loss != "kl":
                raise ValueError("temperature is read only where loss is kl")
            if self.generate is not None and self.continuation != "own":
                raise ValueError("generate is read only where continuation is own")
            if self.loss == "ce" and self.continuation == "data":
                raise ValueError(
                    "loss: ce over the data's answers looks at no teacher: take objective ce, or "
                    "continuation: own"
                )

    @property
    def views(self) -> frozenset[View]:
        """The conversations in writing, or spoken and written prompts."""
        return frozenset({"prompt", "written_prompt"} if self.generates else {"written"})

    @property
    def reference(self) -> tuple[str, ...]:
        """The LLM."""
        return ("llm",)

    @property
    def generates(self) -> bool:
        """Whether the teacher writes the answers."""
        own: bool = self.config.continuation == "own"
        return own

    def units(self, step: Step) -> Mapping[str, Units]:
        """The tokens of the answers, the end of each among them. Its own ones the teacher writes first."""
        number = sum(map(len, self._own_answers(step)[0])) if self.generates else step.batch.num_targets
        return {"distill": Units("tokens", number)}

    def loss(self, step: Step) -> Loss:
        """Return the mean over the answers' tokens, as part ``distill``.

        Raises:
            DataError: A prompt leaves no room for an answer, or the answers' tokens are others in writing.
        """
        batch = step.batch
        counts: dict[str, int] = {}
        if self.generates:
            answers, counts = self._own_answers(step)
            batch = batch.answered(answers)
        if self.config.loss == "ce":
            made = step.score(batch)
            value = F.cross_entropy(made.logits.float(), made.targets)
            return Loss(value, {"distill": value}, {}, counts)
        with step.frozen():  # first, so that the state that the backward pass finds is the model's own
            teacher: Scored = step.model(batch.in_writing())
        model = step.score(batch) if self.generates else step.scored
        _check_same(teacher, model, batch.names)
        value = divergence(teacher.logits, model.logits, self.config.temperature or 2.0)
        same = (teacher.logits.argmax(1) == model.logits.argmax(1)).float().mean()
        return Loss(value, {"distill": value}, {"distill/agreement": same}, counts)

    def _own_answers(self, step: Step) -> tuple[list[list[int]], dict[str, int]]:
        """Return the answers that the teacher writes, once for each micro-batch, and counts of them."""
        return step.once(self, lambda: self._write_answers(step))

    def _write_answers(self, step: Step) -> tuple[list[list[int]], dict[str, int]]:
        batch, generation = step.batch, self.config.generate or Generation()
        room = _room(step, generation.max_new_tokens)
        generation = replace(generation, max_new_tokens=room)
        model = step.model
        device = next(model.llm.parameters()).device
        # A validation draws the same each time, and nothing that the training would miss.
        aside = not model.training
        with (
            torch.random.fork_rng([device] if device.type == "cuda" else [], enabled=aside),
            step.frozen(),
        ):
            if aside:
                torch.manual_seed(0)
            written = model.generate_ids(batch.prompts_in_writing().to(device), generation)
        ends = [ids[loss][-1:].tolist() for ids, loss in _conversations(batch)]
        cut = [len(ids) == room for ids in written]
        answers = [ids + ([] if ended else end) for ids, ended, end in zip(written, cut, ends, strict=True)]
        counts = {"continuation_tokens": sum(map(len, answers)), "continuation_cut": sum(cut)}
        return answers, counts


def divergence(teacher: Tensor, model: Tensor, temperature: float) -> Tensor:
    """Return KL(teacher || model) of logits (M, V) at a temperature, mean over the M positions."""
    wanted = F.log_softmax(teacher.float() / temperature, dim=1)
    found = F.log_softmax(model.float() / temperature, dim=1)
    return F.kl_div(found, wanted, reduction="batchmean", log_target=True)


def _conversations(batch: Batch) -> list[tuple[Tensor, Tensor]]:
    """Return ids and loss mask of each conversation. The last target is the id that ends the answer."""
    lengths = batch.lengths.tolist()
    return list(zip(torch.split(batch.ids, lengths), torch.split(batch.loss, lengths), strict=True))


def _room(step: Step, wanted: int) -> int:
    """Return how many tokens the LLM's context leaves for each answer of the micro-batch."""
    context, batch = step.model.llm.context_length, step.batch
    if context is None:
        return wanted
    prompt, written = batch.views["prompt"], batch.views["written_prompt"]
    adapter, frames = step.model.adapter, step.num_frames
    spoken = prompt.lengths.clone()
    ends = spoken.cumsum(0)
    for slot, clip in zip(prompt.slots, prompt.clips.tolist(), strict=True):
        spoken[torch.searchsorted(ends, slot, right=True)] += adapter.max_tokens(frames[clip]) - 1
    longest = torch.maximum(spoken, written.lengths)
    room = context - int(longest.max())
    if room < 1:
        name = batch.names[int(longest.argmax())]
        raise DataError(
            f"{name}: a prompt of up to {int(longest.max())} positions leaves no room for an answer in the "
            f"LLM's context of {context}"
        )
    return min(room, wanted)


def _check_same(teacher: Scored, model: Scored, names: tuple[str, ...]) -> None:
    """Check that both were asked about the same tokens."""
    if torch.equal(teacher.targets, model.targets) and torch.equal(teacher.sequence, model.sequence):
        return
    for number, name in enumerate(names):
        written = teacher.targets[teacher.sequence == number].tolist()
        spoken = model.targets[model.sequence == number].tolist()
        if written != spoken:
            raise DataError(
                f"{name}: the answers are {len(spoken)} tokens after audio and {len(written)} in writing, "
                "and not the same ones: they cannot be compared token by token"
            )

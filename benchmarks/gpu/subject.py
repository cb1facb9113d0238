"""The model and the micro-batch that are measured: kikimimi's own assembly, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from kikimimi import AudioPart, Conversation, Message, TextPart
from kikimimi.contracts.batch import Batch, Sample, collate
from kikimimi.costs.shapes import shapes_only
from kikimimi.model.assembly import assemble
from kikimimi.model.speech_lm import SpeechLM
from kikimimi.planning.plan import Planner
from kikimimi.planning.workload import MicroBatch, Workload, full_micro_batch
from kikimimi.recipe import Recipe, load_recipe

from .size import Size

_MARKUP = 3
"""Tokens of the template around a request: the user's mark, the end, the assistant's mark."""


@dataclass(frozen=True)
class Subject:
    """What a section measures.

    Attributes:
        size: How large everything is.
        device: Where it runs.
        keep: Takes what a section has measured so far: all there is of it, if its time is used up.
    """

    size: Size
    device: torch.device
    keep: Callable[[dict[str, Any]], None] = lambda found: None

    @cached_property
    def _lora(self) -> Recipe:
        return self._read()

    @cached_property
    def _plain(self) -> Recipe:
        return self._read("llm.lora=null", "stages.lora=null")

    def _read(self, *overrides: str) -> Recipe:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "recipe.yaml"
            path.write_text(self.size.recipe, encoding="utf-8")
            return load_recipe(path, overrides)

    def recipe(self, stage: str) -> Recipe:
        """Return the recipe of a stage: `adapter`, whose LLM has no low-rank updates, or `lora`."""
        return self._lora if stage == "lora" else self._plain

    def model(self, stage: str) -> SpeechLM:
        """Assemble the model of a stage on the device, with random weights."""
        with shapes_only(), torch.device(self.device):
            model = assemble(self.recipe(stage), load_weights=False, measured=True)
        _fill(model)
        return model.to(self.device)

    @property
    def workload(self) -> Workload:
        """What a conversation is like, as `kikimimi plan` is told."""
        return Workload(
            clip_seconds=self.size.clip_seconds,
            prompt_tokens=self.size.prompt_tokens,
            answer_tokens=self.size.answer_tokens,
        )

    def forecast(self, stage: str) -> int:
        """Return the memory that `kikimimi plan` says a stage takes on one rank [bytes]."""
        return Planner(self.workload).plan(self.recipe(stage), stage).memory.to_json()["total"]

    def shape(self, model: SpeechLM, stage: str) -> MicroBatch:
        """Return how much a full micro-batch holds."""
        return full_micro_batch(self.recipe(stage).stages[stage].batch, self.workload, model)

    def batch(self, model: SpeechLM, stage: str) -> Batch:
        """Return a full micro-batch, on the CPU."""
        return collate([self._sample(model, number) for number in range(self.shape(model, stage).clips)])

    def prompts(self, model: SpeechLM) -> Batch:
        """Return prompts to be continued, on the device."""
        samples = [self._sample(model, number, generate=True) for number in range(self.size.prompts)]
        return collate(samples).to(self.device)

    def _sample(self, model: SpeechLM, number: int, *, generate: bool = False) -> Sample:
        asked = "a" * (self.size.prompt_tokens - _MARKUP)
        turns = [Message("user", (AudioPart("0.flac", "b"), TextPart(asked)))]
        if not generate:
            turns.append(Message("assistant", (TextPart("c" * (self.size.answer_tokens - 1)),)))
        rendered = model.llm.render(Conversation(tuple(turns)), generate=generate)
        samples = round(self.size.clip_seconds * model.encoder.sample_rate)
        noise = 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(number))
        return Sample(f"noise/{number}", rendered, [noise], ["b"])


@torch.no_grad()
def _fill(model: SpeechLM) -> None:
    """Draw what a checkpoint would hold: where known shapes stand in for weights, there are no values yet."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            continue
        if parameter.dim() > 1:
            parameter.normal_(0, 0.02)
        else:
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)

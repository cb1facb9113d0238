"""An objective under test, and a tiny model with micro-batches to try it on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from kikimimi.contracts.conversation import AudioPart, Conversation, Message, TextPart
from kikimimi.contracts.objective import Loss, Objective, ObjectiveConfig
from kikimimi.model.step import ModelStep
from kikimimi.testing.contract import expect
from kikimimi.testing.subject import Tested

if TYPE_CHECKING:
    from kikimimi.contracts.batch import Batch, Sample
    from kikimimi.model.reference import Reference
    from kikimimi.model.speech_lm import SpeechLM

NUDGE = 0.05
"""Noise added to what trains, so that the model is not what it was at the start of the stage."""
_TALKS = (
    # what is said in the clip, the question, the answer, the rejected answer, samples; None: there is no clip
    ("はい", "何と言いましたか。", "はいと言いました。", "いいえ", 9_000),
    (None, "空は何色ですか。", "青", "赤い色です。", 0),
    ("こんにちは", "返事をしてください。", "こんにちは。", "さようなら", 14_000),
)


@dataclass(frozen=True)
class TinyStage:
    """A stage in which everything trains, after some steps.

    Attributes:
        model: Encoder, adapter and the LLM's low-rank updates train.
        frozen: Makes the model what it was, where the objective asks for that.
    """

    model: SpeechLM
    frozen: Reference | None


class ObjectiveSubject(Tested):
    """An objective under test. Its config is checked as it is given, as there is nothing to make tiny."""

    config_base = ObjectiveConfig
    reserved = ("name",)

    @cached_property
    def config(self) -> Any:
        """The config that was given, or the component's defaults."""
        return self.component.Config() if self.given is None else self.given

    def build(self) -> Objective:
        """Build the objective."""
        objective: Objective = self.component(self.config)
        return objective

    def stage(self) -> TinyStage:
        """Assemble a tiny model whose adapter gives one audio token per token of what is said."""
        from kikimimi.model.reference import Reference
        from kikimimi.model.trainable import freeze_all_but
        from kikimimi.testing.tiny import tiny_model

        model = tiny_model(_recipe())
        names = [
            name
            for name, _ in model.named_parameters()
            if name not in model.fixed and (not name.startswith("llm.") or ".lora_" in name)
        ]
        freeze_all_but(model, names)
        parts = self.build().reference
        compared = [name for name in names if name.partition(".")[0] in parts]
        frozen = Reference(model, compared) if parts else None
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name in names:
                parameter = model.get_parameter(name)
                parameter.add_(NUDGE * torch.randn(parameter.shape, generator=generator))
        return TinyStage(model, frozen)

    def batch(
        self, model: SpeechLM, *, known: bool = True, text: bool = False, turned: bool = False
    ) -> Batch:
        """Return a micro-batch with the views that the objective asks for.

        Args:
            model: Renders the conversations.
            known: Whether it is known what is said in the clips.
            text: Leave out conversations with a clip.
            turned: In the opposite order.

        Raises:
            ValueError: A view cannot be made.
        """
        from kikimimi.contracts.batch import collate

        talks = [talk for talk in _TALKS if not text or talk[0] is None]
        return collate([self._sample(model, *talk, known=known) for talk in talks[:: -1 if turned else 1]])

    def run(self, stage: TinyStage, batch: Batch) -> Loss:
        """Return the loss of a micro-batch."""
        found = self.build().loss(ModelStep(stage.model, batch, stage.frozen))
        expect(isinstance(found, Loss), f"loss: expected a kikimimi.Loss, found {type(found).__name__}")
        return found

    def _sample(
        self,
        model: SpeechLM,
        said: str | None,
        question: str,
        answer: str,
        rejected: str,
        samples: int,
        *,
        known: bool,
    ) -> Sample:
        from kikimimi.contracts.batch import Sample, render_view

        clip = (AudioPart("0.flac", said if known else None),) if samples else ()
        asked = Message("user", (*clip, TextPart(question)))
        talk = Conversation((asked, Message("assistant", (TextPart(answer),))), rejected)
        views = {view: render_view(model.llm, talk, view) for view in self.build().views}
        noise = torch.randn(samples, generator=torch.Generator().manual_seed(samples))
        waveforms = [0.1 * noise] if samples else []
        return Sample(f"kit/{question}", model.llm.render(talk), waveforms, talk.transcripts(), views)


def _recipe() -> Any:
    from kikimimi.recipe import Chosen, Dataset, LoRA, Recipe, Stage, Train

    lora = LoRA(rank=2, modality="audio")
    return Recipe(
        name="kit",
        encoder=Chosen.of("encoder", "whisper"),
        adapter=Chosen.of("adapter", "cif"),
        llm=replace(Chosen.of("llm", "llama"), lora=lora),
        stages={
            "kit": Stage(
                train={"adapter": Train()},
                data={"kit": Dataset(shards="none.tar", task=Chosen.of("task", "asr"))},
                steps=1,
            )
        },
    )

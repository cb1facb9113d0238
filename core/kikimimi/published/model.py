"""A published speech LLM: its files and settings, and how it is expressed in registered parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kikimimi.weights.files import WeightsFiles
from kikimimi.weights.find import find_weights
from kikimimi.weights.speech_llms import PublishedLayout, PublishedPart, SpeechLLMPart

WINDOWS = 20
"""The most windows of 30 s that a clip is cut into, of models that cut (Audio Flamingo 3 itself takes 20)."""


@dataclass(frozen=True)
class PublishedModel:
    """The files of a published speech LLM.

    Attributes:
        source: How a recipe names it.
        files: The files.
        layout: How its parts lie in them.
        config: Its `config.json`.
    """

    source: str
    files: WeightsFiles
    layout: PublishedLayout
    config: Mapping[str, Any]

    def part(self, name: SpeechLLMPart) -> PublishedPart:
        """Return one of its parts."""
        return PublishedPart(self.files, name, self.layout)

    @property
    def has_chat_template(self) -> bool:
        """Whether the tokenizer among the files has a chat template."""
        settings = "tokenizer_config.json"
        held = self.files.read_json(settings) if settings in self.files.files else {}
        return "chat_template.jinja" in self.files.files or bool(held.get("chat_template"))

    def source_of(self, name: SpeechLLMPart) -> str:
        """Return where a part is read from: these files, or where they hold none of it, what they name."""
        part = self.part(name)
        return self.source if part.tensor_names() else (part.source_id or self.source)


def published_updates(model: PublishedModel, file: str, *, modality: str) -> dict[str, Any]:
    """Return the section `lora` for low-rank updates that lie beside a model, as peft writes them.

    Args:
        model: The model.
        file: Where their tensors lie; their settings lie beside them.
        modality: Where they act.

    Raises:
        WeightsError: A file is missing or damaged.
    """
    source, at, revision = model.source.partition("@")
    weights = f"{source}/{file}{at}{revision}"
    files = find_weights(weights)
    assert files is not None
    settings = files.read_json("adapter_config.json")
    targets = {name.split(".lora_")[0].rpartition(".")[2] for name in files.tensor_names()}
    return {
        "weights": weights,
        "rank": settings["r"],
        "alpha": settings["lora_alpha"],
        "dropout": settings.get("lora_dropout", 0.0),
        "targets": sorted(targets),
        "modality": modality,
    }


@dataclass(frozen=True)
class Expressed:
    """A published model in the words of a recipe.

    Attributes:
        encoder: Section of the encoder.
        adapter: Section of the adapter.
        llm: Section of the LLM.
        task: The task in which it transcribes, as its authors ask for it.
    """

    encoder: dict[str, Any]
    adapter: dict[str, Any]
    llm: dict[str, Any]
    task: dict[str, Any] = field(default_factory=lambda: {"name": "asr", "request": "Transcribe the audio."})

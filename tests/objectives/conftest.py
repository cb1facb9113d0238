"""Tiny models, and micro-batches of which it is known what is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kikimimi import AudioPart, Conversation, Message, Rendered, TextPart
from kikimimi.contracts.batch import Batch, Sample, View, collate, render_view
from kikimimi.model.speech_lm import SpeechLM
from kikimimi.model.trainable import freeze_all_but
from kikimimi.recipe import load_recipe
from kikimimi.testing import tiny_model

RECIPE = """
name: small
encoder: {{name: whisper, weights: random}}
adapter: {adapter}
llm: {{name: llama, lora: {lora}}}
stages:
  only:
    train: {{adapter: {{}}}}
    data: {{x: {{shards: x.tar, task: chat}}}}
    steps: 1
"""
TALKS: list[tuple[str | None, str, str]] = [
    ("はい", "何と", "はいと言う"),
    ("こんにちは", "返事は", "どうも"),
    ("あ", "それは", "い"),
]
"""What is said in the clip, if there is one, the question, and the answer."""

MakeModel = Callable[..., SpeechLM]
MakeBatch = Callable[..., Batch]


@pytest.fixture
def make_model(tmp_path: Path) -> MakeModel:
    def make(
        adapter: str = "{name: mlp, downsample: 1}", lora: str = "null", trains: str = "adapter."
    ) -> SpeechLM:
        path = tmp_path / "small.yaml"
        path.write_text(RECIPE.format(adapter=adapter, lora=lora), encoding="utf-8")
        model = tiny_model(load_recipe(path))
        freeze_all_but(model, [n for n, _ in model.named_parameters() if n.startswith(trains)])
        return model

    return make


@pytest.fixture
def make_batch() -> MakeBatch:
    def make(
        model: SpeechLM,
        *views: View,
        talks: list[tuple[str | None, str, str]] = TALKS,
        unknown: tuple[int, ...] = (),
        clips: bool = True,
    ) -> Batch:
        samples = []
        for number, (said, question, answer) in enumerate(talks):
            heard = (AudioPart("0.flac", None if number in unknown else said),) if clips and said else ()
            asked = Message("user", (*heard, TextPart(question)))
            talk = Conversation((asked, Message("assistant", (TextPart(answer),))))
            noise = torch.randn(6000 + 3000 * number, generator=torch.Generator().manual_seed(number))
            rendered: dict[View, Rendered] = {view: render_view(model.llm, talk, view) for view in views}
            samples.append(
                Sample(
                    f"x/{number}",
                    model.llm.render(talk),
                    [0.1 * noise] if heard else [],
                    talk.transcripts(),
                    rendered,
                )
            )
        return collate(samples)

    return make

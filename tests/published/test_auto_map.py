"""Runs written as custom models of transformers, opened where kikimimi cannot be imported."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoProcessor

from kikimimi import AudioPart, Conversation, Generation, Message, RequestError, TextPart
from kikimimi.inference.engine import Engine, Prompt
from kikimimi.inference.load import load_model
from kikimimi.model.assembly import assemble
from kikimimi.model.speech_lm import SpeechLM
from kikimimi.published.auto_map.encoders import LONGEST_SECONDS
from kikimimi.published.auto_map.writing import HEARING, reasons, write_auto_map
from kikimimi.recipe import Recipe, load_recipe
from kikimimi.run.folder import RunFolder
from kikimimi.testing import tiny_recipe, write_shard
from kikimimi.training.train import train

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "recipes" / "quickstart.yaml"
OPENED = Path(__file__).with_name("opened_export.py")
SHAPES = {
    "mlp": ["llm.scratch.tokenizer=bytes"],
    "mlp window": ["encoder.pad=window", "encoder.keep_silence=true", "adapter.remainder=drop"],
    "mlp windows": ["encoder.windows=2", "adapter.downsample=7", "adapter.window_frames=300"],
    "mlp ultravox": [
        "adapter={name: mlp, downsample: 8, norm: rms, second_norm: hidden, activation: swiglu, bias: true}",
        "llm.lora={rank: 2, targets: [q_proj, v_proj]}",
    ],
    "mlp mean": [
        "adapter={name: mlp, downsample: 3, pool: mean, norm: layer, second_norm: output, boundaries: true}",
        "encoder.layers=[0, 2]",
        "llm={name: causal_lm, architecture: gpt2, weights: random}",
    ],
    "mlp qwen2_audio": ["encoder={name: qwen2_audio, weights: random, pad: window, windows: 2}"],
    "mlp qwen2_audio alone": [
        "encoder={name: qwen2_audio, weights: random, layers: [1, 2], combine: weighted_sum}",
        "adapter={name: mlp, downsample: 1, num_layers: 1, bias: true}",
        "llm.audio_start=<|clip|>",
        "llm.audio_end=<|end_of_clip|>",
    ],
    "conv": ["adapter=conv"],
    "conv fill": [
        "adapter={name: conv, kernel_sizes: [8], strides: [8], padding: fill, norm: none, linear: true}",
    ],
    "conv blsp": [
        "adapter={name: conv, kernel_sizes: [5, 5, 5], strides: [2, 2, 2], activation: glu, norm: last, "
        "bottleneck_dim: 8}",
    ],
    "conv_transformer": ["adapter=conv_transformer"],
    "conv_transformer slm": [
        "adapter={name: conv_transformer, strides: [2, 2], num_layers: 2, position: sinusoidal, "
        "activation: gelu}",
    ],
    "tltr": ["adapter={name: tltr, downsample: 5}", "encoder.layers=[0, 1, 2]"],
    "tltr narrow": ["adapter={name: tltr, downsample: 5, dim: 32}", "encoder.layers=[1, 2]"],
    "qformer": ["adapter=qformer"],
    "qformer desta2": [
        "adapter={name: qformer, num_queries: 3, window_seconds: null, query_norm: false, output_norm: true}",
        "encoder.layers=[0, 1, 2]",
    ],
    "qformer granite": ["adapter={name: qformer, num_queries: 3, window_seconds: 0.3, remainder: pad}"],
    "alignformer": ["adapter=alignformer"],
    "cif": ["adapter={name: cif, vocabulary: bytes, num_layers: 2}"],
    "cif threshold": ["adapter={name: cif, vocabulary: bytes, tail_threshold: 1.0, kernel_size: 1}"],
    "ctc": ["adapter={name: ctc, num_layers: 2, hidden_dim: 24}"],
    "ctc average": ["adapter={name: ctc, mode: average, vocabulary: bytes}"],
    "hubert": ["encoder={name: hubert, weights: random}"],
    "hubert large": [
        "encoder={name: hubert, weights: random, layers: [0, 1], combine: weighted_sum, "
        "sizes: {pre_norm: true, conv_norm: layer}}"
    ],
    "wav2vec2": ["encoder={name: wav2vec2, weights: random, layers: [1, 2], normalise: false}"],
    "wav2vec2 large": [
        "encoder={name: wav2vec2, weights: random, sizes: {pre_norm: true, conv_norm: layer}}",
        "adapter=conv",
    ],
    "ctc wavlm": ["encoder={name: wavlm, weights: random}", "adapter=ctc"],
    "wav2vec2_bert": ["encoder={name: wav2vec2_bert, weights: random, layers: [0, 2]}"],
    "parakeet": ["encoder={name: parakeet, weights: random}"],
    "granite_speech": ["encoder={name: granite_speech, weights: random, layers: [1]}"],
    "granite_speech whole": ["encoder={name: granite_speech, weights: random}", "adapter=conv"],
    "phi4_multimodal": ["encoder={name: phi4_multimodal, weights: random}"],
    "qwen2_5_omni": ["encoder={name: qwen2_5_omni, weights: random, layers: [1, 2]}"],
    "qwen2_5_omni first": ["encoder={name: qwen2_5_omni, weights: random, layers: [0, 1]}"],
    "qwen3_omni": ["encoder={name: qwen3_omni, weights: random}"],
    "qwen3_omni first": ["encoder={name: qwen3_omni, weights: random, layers: [1]}"],
    "gemma3": ["llm={name: causal_lm, architecture: gemma3_text, weights: random}"],
    "gemma2": ["llm={name: causal_lm, architecture: gemma2, weights: random}"],
    "granite": ["llm={name: causal_lm, architecture: granite, weights: random}"],
    "mlp updates": [
        "llm.lora={rank: 2, alpha: 8, targets: [q_proj, down_proj], modality: audio}",
        "stages.asr.train={adapter: {lr: 1.0e-3}, llm: {lr: 0.01, part: lora}}",
    ],
    "qformer phi3": [
        "adapter=qformer",
        "llm={name: causal_lm, architecture: phi3, weights: random}",
        "llm.lora={rank: 2, alpha: 8, targets: [qkv_proj, o_proj, gate_up_proj, down_proj], modality: audio}",
        "stages.asr.train={adapter: {lr: 1.0e-3}, llm: {lr: 0.01, part: lora}}",
    ],
    "mistral": [
        "llm={name: causal_lm, architecture: mistral, weights: random}",
        "llm.lora={rank: 2, targets: [q_proj, down_proj]}",
        "encoder.lora={rank: 2, targets: [q_proj, fc1]}",
        "stages.asr.train={encoder: {lr: 1.0e-2}, adapter: {lr: 1.0e-3}, llm: {lr: 1.0e-2}}",
    ],
    "cif phi3": ["llm={name: causal_lm, architecture: phi3, weights: random}", "adapter=cif"],
    "qwen3": ["llm={name: causal_lm, architecture: qwen3, weights: random}"],
    "qformer drop": ["adapter={name: qformer, num_queries: 2, window_seconds: 0.3, remainder: drop}"],
}


Turns = Sequence[tuple[str, list[Any], str]]


def noise(seconds: float, seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 0.1, int(seconds * 16_000)).astype(np.float32)


ONE: Turns = [("user", [noise(1.23, 0)], "ab")]
TWO: Turns = [("user", [noise(0.7, 1), noise(2.51, 2)], "a")]
LATER: Turns = [("user", [noise(0.011, 3)], "b"), ("assistant", [], "a"), ("user", [noise(1.9, 4)], "")]
TEXT: Turns = [("user", [], "abab")]
LONG: Turns = [("user", [noise(7.3, 5)], "a")]
BATCHES: list[list[Turns]] = [[ONE], [TWO], [TEXT], [LATER], [ONE, TEXT, TWO, LATER]]


def prompt(turns: Turns) -> Prompt:
    messages: list[Message] = []
    clips: list[torch.Tensor] = []
    for role, own, words in turns:
        parts: list[Any] = [AudioPart(f"{len(clips) + i}.flac") for i in range(len(own))]
        clips += [torch.from_numpy(clip) for clip in own]
        messages.append(Message(role, (*parts, TextPart(words))))  # type: ignore[arg-type]
    return Prompt("asked", Conversation(tuple(messages)), clips)


def in_parts(turns: Turns) -> tuple[list[dict[str, Any]], list[Any]]:
    messages = [
        {"role": role, "content": [*({"type": "audio"} for _ in own), {"type": "text", "text": words}]}
        for role, own, words in turns
    ]
    return messages, [clip for _, own, _ in turns for clip in own]


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(write_shard(tmp_path_factory.mktemp("data"), 4))


QUICK = ["mlp", "mlp updates", "conv", "qformer", "cif", "hubert"]
SLOW = [shape for shape in SHAPES if shape not in QUICK]


@pytest.mark.parametrize("shapes", [QUICK, pytest.param(SLOW, marks=pytest.mark.slow)], ids=["quick", "slow"])
def test_a_trained_run_answers_alike_where_kikimimi_is_not(
    shapes: list[str], shard: Path, tmp_path: Path
) -> None:
    folders = [tmp_path / shape.replace(" ", "_") for shape in shapes]
    models = [exported(shape, shard, folder) for shape, folder in zip(shapes, folders, strict=True)]
    subprocess.run([sys.executable, OPENED, *folders], check=True, cwd=tmp_path)  # one process for all
    for shape, folder, model in zip(shapes, folders, models, strict=True):
        compare(shape, folder, model)


def exported(shape: str, shard: Path, folder: Path) -> SpeechLM:
    """Train a run for two steps, write it, and what it is to be asked."""
    recipe = tiny_recipe(load_recipe(QUICKSTART, SHAPES[shape]), shard)
    assert reasons(recipe) == []
    run = RunFolder.create(folder / "run", recipe)
    train(run)
    model = load_model(run)
    with torch.no_grad():  # two steps from random, an answer is the same byte again and again
        for matrix in model.llm.parameters():
            matrix.mul_(8 if matrix.dim() == 2 else 1)
    write_auto_map(model, recipe, folder / "export")
    longest = int((model.encoder.max_seconds or LONGEST_SECONDS) * 16_000)
    random = Random(0)
    lengths = [longest, 1, 160, 161, 320, 321, *(random.randint(1, longest) for _ in range(1000))]
    batches = [[in_parts(turns) for turns in batch] for batch in batches_of(model)]
    torch.save({"batches": batches, "lengths": lengths}, folder / "asked")
    return model


def batches_of(model: SpeechLM) -> list[list[Turns]]:
    """Return what a model is asked; a clip of two windows where it takes one."""
    return [*BATCHES, [LONG, ONE]] if (model.encoder.max_seconds or LONGEST_SECONDS) > 8 else BATCHES


def compare(shape: str, folder: Path, model: SpeechLM) -> None:
    asked: Any = torch.load(folder / "asked", weights_only=False)
    heard: Any = torch.load(folder / "found", weights_only=False)
    hears = shape.split()[0] in HEARING
    frames = [model.encoder.num_frames(length) for length in asked["lengths"]]
    expected = [1 if hears else model.adapter.max_tokens(count) for count in frames]
    assert heard["counts"] == expected, shape
    longest = asked["lengths"][0]
    assert [f"samples, and must have 1 to {longest}" in said for said in heard["refused"]] == [True, True]
    engine = Engine(model, torch.device("cpu"))
    generation, said = Generation(max_new_tokens=8), set()
    for batch, answer in zip(batches_of(model), heard["answers"], strict=True):
        prompts = [prompt(turns) for turns in batch]
        _, packed, _ = engine.pack(prompts)
        if model.gate is not None:
            model.gate.set(torch.tensor([bool(one.clips) for one in prompts]), packed.lengths)
        with torch.inference_mode():
            logits = model.llm(packed.embeddings, packed.lengths, torch.arange(len(packed.ids)))
        sizes = packed.lengths.tolist()
        ids = [
            [heard["audio"] if i < 0 else i for i in row.tolist()] for row in torch.split(packed.ids, sizes)
        ]
        if hears:  # there one placeholder stands for a clip
            ids = [[i for i in row if i != heard["audio"]] for row in ids]
            answer["ids"] = [[i for i in row if i != heard["audio"]] for row in answer["ids"]]
        assert answer["ids"] == ids, shape
        for ours, theirs in zip(torch.split(logits, sizes), answer["logits"], strict=True):
            # Its features are computed in fp64 there, and in fp32 here.
            assert (ours - theirs).abs().max() < (5e-4 if shape == "wav2vec2_bert" else 1e-4), shape
            assert ours.std() > 0.01, shape  # there is something to compare
        if model.gate is None:
            new = model.llm.generate(torch.split(packed.embeddings, sizes), generation)
            assert answer["new"] == new, shape
        assert answer["texts"] == engine.answer(prompts, generation), shape
        said |= {token for row in answer["new"] for token in row}
    assert len(said) > 1, shape  # there is something to compare


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["llm={name: seq2seq, weights: random}"], "llm 'seq2seq' has an encoder of its own"),
        (
            ["llm.lora={rank: 2, targets: [q_proj], modality: audio}", "adapter=cif"],
            "llm.lora.modality: updates that act only with audio have no code there beside adapter 'cif'",
        ),
        (["encoder={name: beats, weights: random}"], "encoder 'beats' has no code there"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_written(
    changes: list[str], said: str, tmp_path: Path
) -> None:
    recipe = load_recipe(QUICKSTART, changes)
    assert any(reason.startswith(said) for reason in reasons(recipe))
    model: Any = None
    with pytest.raises(RequestError, match=re.escape(said)):
        write_auto_map(model, recipe, tmp_path / "export")
    assert not (tmp_path / "export").exists()


PLAIN = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
HEADER = "{% if add_generation_prompt %}<|assistant|>{% endif %}"
AUDIO_FIRST = (
    "{% for message in messages %}<|{{ message.role }}|>{% if message.audio %}{{ message.audio }};{% endif %}"
    "{{ message.content }}<|end|>{% endfor %}" + HEADER
)
NUMBERED = (
    "{% for message in messages %}<|{{ message.role }}|>{% for clip in message.audio %}"
    "{{ loop.index }}: {{ clip }};{% endfor %}{{ message.content }}<|end|>{% endfor %}" + HEADER
)
THOUGHT = (
    "{% for m in messages %}<|{{ m.role }}|>{% if loop.last and m.role == 'assistant' %}<think>\n\n</think>"
    "\n\n{% endif %}{{ m.content }}<|end|>{% endfor %}" + HEADER
)
ASKED = [{"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": "a"}]}]


@pytest.mark.parametrize(
    ("template", "rendered"),
    [
        (PLAIN + HEADER, "<|user|><|user|><|audio|><|system|>a<|end|><|assistant|>"),
        (AUDIO_FIRST, "<|user|><|user|><|audio|><|system|>;a<|end|><|assistant|>"),
        (NUMBERED, "<|user|>1: <|user|><|audio|><|system|>;a<|end|><|assistant|>"),
    ],
)
def test_marks_and_templates_are_the_runs_own(
    template: str, rendered: str, shard: Path, tmp_path: Path
) -> None:
    marks = ["llm.audio_start=<|user|>", "llm.audio_end=<|system|>"]
    recipe = with_template(tiny_recipe(load_recipe(QUICKSTART, marks), shard), template)
    write_auto_map(assemble(recipe), recipe, tmp_path / "export")
    processor: Any = AutoProcessor.from_pretrained(tmp_path / "export", trust_remote_code=True)
    assert processor.apply_chat_template(ASKED, add_generation_prompt=True, tokenize=False) == rendered


def test_a_template_whose_answers_are_opened_is_refused(shard: Path, tmp_path: Path) -> None:
    recipe = with_template(tiny_recipe(load_recipe(QUICKSTART), shard), THOUGHT)
    with pytest.raises(RequestError, match="the chat template cannot be written for transformers"):
        write_auto_map(assemble(recipe), recipe, tmp_path / "export")
    assert not (tmp_path / "export").exists()


def with_template(recipe: Recipe, template: str) -> Recipe:
    config: Any = replace(recipe.llm.config, chat_template=template)
    return replace(recipe, llm=replace(recipe.llm, config=config))

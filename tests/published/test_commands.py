"""`kikimimi import`, and what is done with the run that it leaves, as a user would."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file
from tests.published.models import TINY
from transformers import AudioFlamingo3ForConditionalGeneration
from typer.testing import CliRunner

from kikimimi import RequestError, WeightsError
from kikimimi.cli import app
from kikimimi.errors import DamagedError
from kikimimi.evaluation.predictions import read_predictions
from kikimimi.inference.load import load_model
from kikimimi.published.importing import import_model
from kikimimi.run.folder import RunFolder
from kikimimi.testing import write_shard


def noise(seconds: float, seed: int) -> Any:
    return np.random.default_rng(seed).normal(0, 0.1, int(seconds * 16_000)).astype(np.float32)


@pytest.fixture(scope="module")
def flamingo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flamingo")
    TINY["audioflamingo3"].write(folder)
    return folder


def copied(folder: Path, to: Path, change: Any) -> Path:
    """Copy a published folder with changed tensors."""
    to.mkdir()
    for file in folder.iterdir():
        if file.name != "model.safetensors":
            (to / file.name).write_bytes(file.read_bytes())
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, to / "model.safetensors")
    return to


def ran(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_weight_without_a_place_is_named(flamingo: Path, tmp_path: Path) -> None:
    strange = copied(
        flamingo, tmp_path / "strange", lambda s: s.update({"heads.third.weight": torch.ones(1)})
    )
    with pytest.raises(WeightsError, match=r"1 tensors find no place.*'audioflamingo3'.*heads.third.weight"):
        import_model(str(strange), tmp_path / "run")
    inside = {"audio_tower.layers.9.fc1.weight": torch.ones(1)}
    strange = copied(flamingo, tmp_path / "inside", lambda s: s.update(inside))
    with pytest.raises(WeightsError, match=r"1 unexpected: layers.9.fc1.weight"):
        import_model(str(strange), tmp_path / "run")
    assert not (tmp_path / "run" / "weights").exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("audio_tower.conv1.weight", "1 missing: conv1.weight"),
        ("multi_modal_projector.linear_2.bias", "1 missing: mlp.2.bias"),
        ("language_model.model.norm.weight", "1 missing: model.norm.weight"),
        ("language_model.lm_head.weight", "1 missing: lm_head.weight"),
    ],
)
def test_a_place_without_a_weight_is_named(flamingo: Path, tmp_path: Path, name: str, said: str) -> None:
    lacking = copied(flamingo, tmp_path / "lacking", lambda state: state.pop(name))
    with pytest.raises(WeightsError, match=said):
        import_model(str(lacking), tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "audio_tower.conv1.weight",
            r"1 of whole numbers: conv1.weight \(is int32, needs floating-point numbers",
        ),
        ("multi_modal_projector.linear_2.bias", "1 of whole numbers: mlp.2.bias"),
        ("language_model.model.norm.weight", "1 of whole numbers: model.norm.weight"),
    ],
)
def test_a_weight_of_whole_numbers_is_named(flamingo: Path, tmp_path: Path, name: str, said: str) -> None:
    whole = copied(flamingo, tmp_path / "whole", lambda state: state.update({name: state[name].int()}))
    with pytest.raises(WeightsError, match=said):
        import_model(str(whole), tmp_path / "run")


@pytest.mark.parametrize(
    "name", ["model.layers.0.mlp.experts.3.up_proj.weight", "model.layers.0.input_layernorm.weight"]
)
def test_whole_numbers_among_experts_are_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "published").mkdir()
    TINY["qwen3_omni_moe"].write(tmp_path / "published")
    there = f"thinker.{name}"
    whole = copied(
        tmp_path / "published", tmp_path / "whole", lambda state: state.update({there: state[there].char()})
    )
    with pytest.raises(WeightsError, match=f"1 of whole numbers: {name}"):
        import_model(str(whole), tmp_path / "run")


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_weight_that_is_no_number_is_named(flamingo: Path, tmp_path: Path, value: float) -> None:
    name = "multi_modal_projector.linear_2.bias"
    damaged = copied(flamingo, tmp_path / "damaged", lambda state: state[name][3:].fill_(value))
    with pytest.raises(WeightsError, match=rf"1 tensors hold what is no number, .*: {name}\. The files are"):
        import_model(str(damaged), tmp_path / "run")
    assert not (tmp_path / "run" / "weights").exists()


def test_a_router_of_experts_without_a_weight_is_named(tmp_path: Path) -> None:
    (tmp_path / "published").mkdir()
    TINY["qwen3_omni_moe"].write(tmp_path / "published")
    name = "model.layers.0.mlp.gate.weight"
    lacking = copied(tmp_path / "published", tmp_path / "lacking", lambda s: s.pop(f"thinker.{name}"))
    with pytest.raises(WeightsError, match=rf"\(14 tensors\): 1 missing: {name}$"):
        import_model(str(lacking), tmp_path / "run")


def test_another_model_is_refused_with_those_that_are_known(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2_audioo"}))
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    result = ran("import", tmp_path, "--out", tmp_path / "run")
    assert result.exit_code == 1
    assert "'qwen2_audioo' model" in str(result.exception)
    assert "Did you mean 'qwen2_audio'?" in str(result.exception)


def changed(file: Path, **settings: Any) -> None:
    held = json.loads(file.read_bytes())
    file.write_text(json.dumps({**held, **settings}), encoding="utf-8")


@pytest.mark.parametrize(
    ("kind", "file", "settings", "said"),
    [
        (
            "granite_speech",
            "config.json",
            {"window_size": None},
            "'granite_speech' model: TypeError",
        ),
        (
            "granite_speech",
            "config.json",
            {"downsample_rate": 0},
            "'granite_speech' model: ZeroDiv",
        ),
        ("granite_speech", "adapter_config.json", {"r": None, "lora_alpha": []}, "llm.lora.rank: expected"),
        ("ultravox", "config.json", {"stack_factor": "eight"}, "'ultravox' model: TypeError"),
        ("qwen2_audio", "config.json", {"text_config": "x"}, "no tokenizer can be read: Strict"),
        ("voxtral", "tekken.json", {"config": 1}, "no tokenizer can be read: TypeError"),
    ],
)
def test_settings_of_another_shape_are_told(
    kind: str, file: str, settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    folder = tmp_path / "published"
    folder.mkdir()
    TINY[kind].write(folder)
    changed(folder / file, **settings)
    with pytest.raises(RequestError, match=said):
        import_model(str(folder), tmp_path / "run")
    assert not (tmp_path / "run" / "weights").exists()


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        (
            "ultravox",
            {"text_model_id": None},
            r"json: text_model_id is missing, .* of the llm\. .*: llm.weights=",
        ),
        (
            "ultravox",
            {"audio_model_id": None},
            "audio_model_id is missing, .* of the encoder.*: encoder.weights=",
        ),
        (
            "ultravox",
            {"text_model_id": "/nowhere/llm"},
            "json: text_model_id names .*: /nowhere/llm: there is no",
        ),
        (
            "llama_for_speech_lm",
            {"decoder_id": "/nowhere/llm"},
            "decoder_id names .*: llm.tokenizer=ORG/NAME",
        ),
        (
            "llama_for_speech_lm",
            {"encoder_id": "/nowhere/a"},
            "encoder_id names .*: encoder.weights=ORG/NAME",
        ),
        (
            "llama_for_speech_lm",
            {"decoder_id": None},
            "published: holds no tokenizer .*: llm.tokenizer=ORG/NAME",
        ),
    ],
)
def test_a_source_that_is_named_nowhere_or_cannot_be_had_is_told(
    kind: str, settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    (tmp_path / "published").mkdir()
    TINY[kind].write(tmp_path / "published")
    changed(tmp_path / "published" / "config.json", **settings)
    with pytest.raises(WeightsError, match=said):
        import_model(str(tmp_path / "published"), tmp_path / "run")
    if settings == {"text_model_id": None}:  # what is advised helps
        import_model(
            str(tmp_path / "published"),
            tmp_path / "run",
            [f"llm.weights={tmp_path / 'published-decoder'}"],
        )


@pytest.mark.parametrize(
    ("kind", "gone"),
    [
        ("qwen2_audio", ["tokenizer.json", "tokenizer_config.json"]),
        ("qwen2_audio", ["tokenizer.json"]),
        ("voxtral", ["tekken.json"]),
    ],
)
def test_a_tokenizer_that_is_missing_is_told(kind: str, gone: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "published"
    folder.mkdir()
    TINY[kind].write(folder)
    for name in gone:
        (folder / name).unlink()
    with pytest.raises(WeightsError, match=r"published: holds no tokenizer .*: llm.tokenizer=ORG/NAME, or"):
        import_model(str(folder), tmp_path / "run")


def test_settings_of_updates_are_told_by_what_was_given(tmp_path: Path) -> None:
    folder = tmp_path / "published"
    folder.mkdir()
    TINY["granite_speech"].write(folder)
    changed(folder / "adapter_config.json", lora_dropout="x")
    said = rf"llm.lora.dropout: expected a number .*, not 'x' \(from the settings of {folder}\)"
    with pytest.raises(RequestError, match=said):
        import_model(str(folder), tmp_path / "run")


def test_a_setting_that_is_missing_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "published"
    folder.mkdir()
    TINY["granite_speech"].write(folder)
    settings = folder / "adapter_config.json"
    held = json.loads(settings.read_bytes())
    settings.write_text(json.dumps({name: value for name, value in held.items() if name != "r"}))
    with pytest.raises(WeightsError, match="'granite_speech' model: KeyError: 'r'"):
        import_model(str(folder), tmp_path / "run")


@pytest.mark.parametrize("options", [{"max_shard_size": "20KB"}, {"save_original_format": False}])
def test_shards_and_names_of_memory_are_read(flamingo: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    model: Any = AudioFlamingo3ForConditionalGeneration.from_pretrained(flamingo)
    folder = copied(flamingo, tmp_path / "saved", lambda state: state)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, **options)
    run = import_model(str(folder), tmp_path / "run")
    assert run.newest_weights()[0] == "imported"


def test_what_an_import_left_is_made_again_by_an_import(flamingo: Path, tmp_path: Path) -> None:
    """A damaged one was said to be there already, and others told of training, which cannot make it."""
    run = import_model(str(flamingo), tmp_path / "run")
    file = run.weights("imported")
    left = file.read_bytes()
    said = r"imported\.safetensors: .*, or delete it: 'kikimimi import' into the same folder makes it again"
    for cut in (True, False):
        if cut:
            file.write_bytes(left[:-9])
        else:
            file.unlink()
            file.mkdir()
        for take in (lambda: import_model(str(flamingo), run.path), lambda: load_model(run)):
            with pytest.raises(DamagedError, match=said):
                take()
        assert re.search(said, ran("check", run.path).output.replace("\n", " "))
    file.rmdir()
    import_model(str(flamingo), run.path)
    assert file.read_bytes() == left


def test_a_run_to_transcribe_to_evaluate_and_to_train(flamingo: Path, tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "data", 4)
    data = [
        f"stages.finetune.data.speech.shards={shard}",
        f"evaluate.speech.shards={shard}",
        "evaluate.speech.generate.max_new_tokens=4",
        f"evaluate.speech.baselines.itself={{name: transformers, weights: {flamingo}, max_new_tokens: 4}}",
        "stages.finetune.steps=2",
        "stages.finetune.batch.global=1",
        "stages.finetune.checkpoint.every=2",
        "stages.finetune.schedule.warmup=1",
        "trainer.accelerator=cpu",
    ]
    run = tmp_path / "run"
    result = ran("import", flamingo, *data, "--out", run)
    assert result.exit_code == 0, result.output
    assert ran("import", flamingo, *data, "--out", run).exit_code == 0  # it is there already
    assert ran("check", run).exit_code == 0
    soundfile.write(tmp_path / "a.wav", noise(1.0, 9), 16_000)
    heard = ran("transcribe", run, tmp_path / "a.wav")
    assert heard.exit_code == 0, heard.output

    assert ran("evaluate", run).exit_code == 0
    folder = RunFolder.open(run).evaluation("speech")
    systems = [read_predictions(folder / f"{name}.jsonl").values() for name in (run_name(run), "itself")]
    ours, itself = ([line["prediction"].strip() for line in lines] for lines in systems)
    assert len(ours) == 4
    assert ours == itself

    # In place, and with an adapter of one's own.
    assert ran("train", run).exit_code == 0
    assert RunFolder.open(run).newest_weights()[0] == "finetune"
    swapped = ran("train", run / "recipe.yaml", "adapter=conv", "--out", tmp_path / "swapped")
    assert swapped.exit_code == 0, swapped.output


def run_name(run: Path) -> str:
    return RunFolder.open(run).recipe.name

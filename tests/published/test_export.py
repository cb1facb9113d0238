"""Runs, exported to the classes that people serve, against those classes of transformers."""

from __future__ import annotations

import json
import math
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import soundfile
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tests.published.models import TINY, Tiny, Turn, Ultravox, parts
from tests.published.test_import import LATER, ONE, SILENT, fitting, logits_of, prompt
from transformers import (
    AudioFlamingo3ForConditionalGeneration,
    AutoModelForCausalLM,
    AutoProcessor,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2AudioEncoder,
    Qwen2AudioEncoderConfig,
    WhisperConfig,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder
from typer.testing import CliRunner

from kikimimi import Generation, RequestError
from kikimimi.cli import app
from kikimimi.errors import WriteError
from kikimimi.inference.engine import Engine
from kikimimi.inference.load import load_model
from kikimimi.published import exporting
from kikimimi.published.exporting import export_run
from kikimimi.published.formats import FORMATS
from kikimimi.published.importing import import_model, imported_recipe
from kikimimi.run.folder import RunFolder
from kikimimi.testing import write_shard
from kikimimi.training.train import train

SHAPES = {
    "qwen2_audio": "qwen2_audio",
    "audioflamingo3": "audioflamingo3",
    "voxtral": "voxtral",
    "granite_speech": "granite_speech",
    "ultravox": "ultravox",
}
"""The tiny model that a run begins with, by the format that it is exported to."""
LORA = ("llm.lora.rank=4", "stages.finetune.train.llm={lr: 0.05, part: lora}")


def trained(kind: str, folder: Path, *changes: str) -> RunFolder:
    """Import a tiny model, and train it for two steps."""
    published = folder / "published"
    published.mkdir()
    TINY[kind].write(published)
    shard = write_shard(folder / "data", 4)
    data = [
        f"stages.finetune.data.speech.shards={shard}",
        "evaluate={}",
        "stages.finetune.steps=2",
        "stages.finetune.train.adapter.lr=0.0001",
        "stages.finetune.batch.global=1",
        "stages.finetune.checkpoint.every=2",
        "stages.finetune.schedule={name: constant}",
        "trainer.accelerator=cpu",
    ]
    run = RunFolder.create(folder / "run", imported_recipe(str(published), [*data, *changes]))
    train(run)
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunFolder]:
    return {}


@pytest.fixture(scope="module", params=sorted(SHAPES))
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Engine, Path]:
    """The format, the run's engine, and what was exported."""
    name = request.param
    if name.startswith("voxtral"):
        pytest.importorskip("mistral_common", reason="builds Voxtral's prompts")
    folder = tmp_path_factory.mktemp(name)
    run = trained(SHAPES[name], folder)
    export_run(run, name, folder / "out")
    return name, Engine(load_model(run), torch.device("cpu")), folder / "out"


class UltravoxServed(Ultravox):
    """An exported Ultravox by hand, with the folder's own processor: no class of transformers is it."""

    def __init__(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.held = load_file(folder / "model.safetensors")
        self.encoder = WhisperEncoder(WhisperConfig(**config["audio_config"]))
        self.decoder = LlamaForCausalLM(LlamaConfig(**config["text_config"]))
        for part, prefix in ((self.encoder, "audio_tower."), (self.decoder, "language_model.")):
            state = {n.removeprefix(prefix): t for n, t in self.held.items() if n.startswith(prefix)}
            part.load_state_dict(state)
        self.config = SimpleNamespace(audio_token_id=-1)


def asked_of_ultravox(folder: Path, turns: Sequence[Turn]) -> dict[str, Any]:
    """Ask through the processor that was written beside the weights."""
    processor: Any = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    text = processor.apply_chat_template(
        [{"role": turn.role, "content": parts(turn)} for turn in turns],
        add_generation_prompt=True,
        tokenize=False,
    )
    clips = [clip for turn in turns for clip in turn.clips]
    made = processor(text=text, audio=clips)
    ids = made["input_ids"].masked_fill(made["input_ids"] == processor.audio_replacement_token_id, -1)
    return {"input_ids": ids, "clips": clips}


def served(name: str) -> Tiny:
    """Return how an exported model is opened and asked."""
    tiny = TINY[SHAPES[name]]
    if name == "ultravox":
        return replace(tiny, opened=UltravoxServed, asked=asked_of_ultravox)
    return tiny


def test_logits_and_answers_are_those_of_the_run(exported: tuple[str, Engine, Path]) -> None:
    name, engine, folder = exported
    tiny = served(name)
    model = tiny.opened(folder).eval()
    llm: Any = engine.model.llm
    for turns in fitting(tiny, [ONE, SILENT, LATER]):
        (ids,), (logits,) = logits_of(engine, [turns])
        inputs = tiny.asked(folder, turns)
        audio = tiny.audio_token(model.config)
        assert [audio if number < 0 else number for number in ids] == inputs["input_ids"][0].tolist()
        tiny.prepare(model, inputs)
        with torch.inference_mode():
            expected = model(**inputs).logits[0] / tiny.scale
            new = model.generate(**inputs, max_new_tokens=8, do_sample=False, eos_token_id=llm.chat.stop_ids)[
                0, inputs["input_ids"].shape[1] :
            ]
        assert (logits - expected).abs().max() < 1e-4
        assert expected.std() > 0.1
        (answer,) = engine.answer([prompt(turns)], Generation(max_new_tokens=8))
        assert answer == llm.tokenizer.decode(new, skip_special_tokens=True).strip()


def test_the_card_s_code_opens_and_asks(
    exported: tuple[str, Engine, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name, engine, folder = exported
    card = (folder / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    if name == "ultravox":  # a class of vLLM, not of transformers
        assert "vllm serve . --trust-remote-code\n" in card
        compile(code, "card", "exec")
        return
    bare = tmp_path / "bare"  # transformers reads updates that were kept with a later peft alone
    shutil.copytree(folder, bare, ignore=shutil.ignore_patterns("adapter_*"))
    monkeypatch.chdir(bare)
    soundfile.write("clip.wav", ONE[0].clips[0], 16_000, subtype="PCM_16")
    opened: dict[str, Any] = {}
    exec(compile(code.replace("max_new_tokens=200", "max_new_tokens=8"), "card", "exec"), opened)
    request = opened["said"][0]["content"][1]["text"]
    (ids,), _ = logits_of(engine, [turns := [Turn(request, ONE[0].clips)]])
    slot = served(name).audio_token(opened["model"].config)
    assert [slot if number < 0 else number for number in ids] == opened["inputs"]["input_ids"][0].tolist()
    if not (folder / "adapter_config.json").exists():
        (answer,) = engine.answer([prompt(turns)], Generation(max_new_tokens=8))
        assert answer
        assert capsys.readouterr().out.strip().endswith(answer)


@pytest.mark.slow
def test_it_answers_alike_where_kikimimi_cannot_be_imported(
    exported: tuple[str, Engine, Path], tmp_path: Path
) -> None:
    name, engine, folder = exported
    soundfile.write(tmp_path / "a.wav", ONE[0].clips[0], 16_000, subtype="FLOAT")
    bare = tmp_path / "out"
    shutil.copytree(folder, bare, ignore=shutil.ignore_patterns("adapter_*"))
    if (folder / "adapter_config.json").exists():
        shutil.copytree(folder, tmp_path / "updates", ignore=shutil.ignore_patterns("model*"))
    script = Path(__file__).with_name("served_alone.py")
    command = [sys.executable, str(script), str(bare), str(tmp_path / "a.wav"), str(tmp_path / "made.pt")]
    subprocess.run(command, check=True, cwd=tmp_path)
    made = torch.load(tmp_path / "made.pt")
    (ids,), (logits,) = logits_of(engine, [ONE])
    slot = made["ids"].tolist()[ids.index(-1)]
    assert [slot if number < 0 else number for number in ids] == made["ids"].tolist()
    if name == "ultravox":
        return  # a class of vLLM, not of transformers
    assert (logits - made["logits"] / TINY[SHAPES[name]].scale).abs().max() < 1e-4
    llm: Any = engine.model.llm
    (answer,) = engine.answer([prompt(ONE)], Generation(max_new_tokens=8))
    assert answer == llm.tokenizer.decode(made["new"], skip_special_tokens=True).strip()


def test_an_export_is_imported_as_the_same_model(exported: tuple[str, Engine, Path], tmp_path: Path) -> None:
    name, engine, folder = exported
    again = Engine(load_model(import_model(str(folder), tmp_path / "run")), torch.device("cpu"))
    state = engine.model.state_dict()
    for tensor, value in again.model.state_dict().items():
        assert torch.equal(value, state[tensor]), tensor
    asked = fitting(TINY[SHAPES[name]], [ONE, SILENT, LATER])
    (ids, logits), (ids_again, logits_again) = logits_of(engine, asked), logits_of(again, asked)
    assert ids == ids_again
    assert all(torch.equal(*pair) for pair in zip(logits, logits_again, strict=True))


def counted(name: str, folder: Path, lengths: Sequence[int]) -> list[int]:
    """Return how many placeholders the served class's own processor writes for clips of some samples."""
    if name == "voxtral":  # every window is whole
        return [375] * len(lengths)
    processor: Any = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    mel = torch.tensor([-(-length // 160) for length in lengths])
    if name == "qwen2_audio":
        tower = Qwen2AudioEncoder(Qwen2AudioEncoderConfig(encoder_layers=1, d_model=20))
        counts: list[int] = tower._get_feat_extract_output_lengths(mel)[1].tolist()
    elif name == "audioflamingo3":
        counts = processor._get_audio_token_length(mel).tolist()
    elif name == "granite_speech":
        counts = list(processor.audio_processor._get_num_audio_features(lengths))
    else:
        counts = [sum(processor.num_tokens(length)) for length in lengths]
    return counts


def test_placeholders_are_as_many_as_the_served_class_counts(exported: tuple[str, Engine, Path]) -> None:
    name, engine, folder = exported
    drawn = random.Random(0)
    edges = [400, 479, 480, 481, 160_000, 479_999, 480_000]
    lengths = edges + [drawn.randint(400, 480_000) for _ in range(1000 - len(edges))]
    model = engine.model
    ours = [model.adapter.max_tokens(model.encoder.num_frames(length)) for length in lengths]
    assert ours == counted(name, folder, lengths)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's
@pytest.mark.parametrize("lora", ["merge", "keep"])
def test_low_rank_updates_are_merged_or_kept(tmp_path: Path, lora: str) -> None:
    run = trained("qwen2_audio", tmp_path, *LORA)
    engine = Engine(load_model(run), torch.device("cpu"))
    made = export_run(run, "qwen2_audio", tmp_path / "out", lora=lora)
    tiny = TINY["qwen2_audio"]
    model = tiny.opened(tmp_path / "out" if lora == "merge" else without_updates(tmp_path / "out")).eval()
    inputs = tiny.asked(tmp_path / "out", ONE)
    (_,), (logits,) = logits_of(engine, [ONE])
    if lora == "keep":
        with torch.inference_mode():
            assert (logits - model(**inputs).logits[0]).abs().max() > 1e-3  # they do something
        model = PeftModel.from_pretrained(model, tmp_path / "out").eval()
    with torch.inference_mode():
        assert (logits - model(**inputs).logits[0]).abs().max() < 1e-4
    assert any("pdates" in note for note in made.notes)


def without_updates(folder: Path) -> Path:
    """Return a copy of an export without the files of peft, which transformers would read by itself."""
    return Path(shutil.copytree(folder, folder.with_name("bare"), ignore=shutil.ignore_patterns("adapter_*")))


@pytest.fixture(scope="module")
def updated(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run in two stages, with low-rank updates on each part."""
    return trained(
        "qwen2_audio",
        tmp_path_factory.mktemp("updated"),
        *LORA,
        "encoder.lora={rank: 2}",
        "adapter.lora={rank: 2, targets: ['0']}",
        "stages.finetune.train.encoder={lr: 0.05, part: lora}",
        "stages.finetune.train.adapter={lr: 0.05, part: lora}",
        "stages.later={train: {adapter: {lr: 0.05, part: lora}}, steps: 1}",
        "stages.later.data=${stages.finetune.data}",
        "stages.later.batch.global=1",
    )


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's
def test_updates_of_every_part_are_merged_as_the_stage_left_them(updated: RunFolder, tmp_path: Path) -> None:
    found = {}
    tiny = TINY["qwen2_audio"]
    for stage in ("finetune", "later"):
        made = export_run(updated, "qwen2_audio", tmp_path / stage, stage=stage)
        assert any("merged into the weights of encoder, adapter, llm" in note for note in made.notes)
        engine = Engine(load_model(updated, stage), torch.device("cpu"))
        (_,), (logits,) = logits_of(engine, [ONE])
        model = tiny.opened(tmp_path / stage).eval()
        with torch.inference_mode():
            found[stage] = model(**tiny.asked(tmp_path / stage, ONE)).logits[0]
        assert (logits - found[stage]).abs().max() < 1e-4
        assert f"`{stage}`" in (tmp_path / stage / "README.md").read_text(encoding="utf-8")
    assert (found["finetune"] - found["later"]).abs().max() > 1e-3
    assert "`later`" not in (tmp_path / "finetune" / "README.md").read_text(encoding="utf-8")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's
def test_updates_of_the_llm_are_kept_and_the_others_merged(updated: RunFolder, tmp_path: Path) -> None:
    made = export_run(updated, "qwen2_audio", tmp_path / "out", lora="keep")
    assert any("merged into the weights of encoder, adapter" in note for note in made.notes)
    names = load_file(tmp_path / "out" / "adapter_model.safetensors").keys()
    assert names
    assert all(".language_model." in name and ".lora_" in name for name in names)
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert not [name for name in weights if "lora" in name]


def test_large_weights_are_split_and_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "_SHARD", "20KB")
    run = imported("audioflamingo3", tmp_path)
    export_run(run, "audioflamingo3", tmp_path / "out", dtype="fp16")
    shards = sorted((tmp_path / "out").glob("model-*-of-*.safetensors"))
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text(encoding="utf-8"))
    assert len(shards) > 2
    assert {path.name for path in shards} == set(index["weight_map"].values())
    held = {name: value for path in shards for name, value in load_file(path).items()}
    assert held.keys() == index["weight_map"].keys()
    assert {value.dtype for value in held.values()} == {torch.float16}
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in held.values())
    before = load_file(tmp_path / "published" / "model.safetensors")
    assert held.keys() == before.keys()
    assert all(torch.equal(held[name], value.half()) for name, value in before.items())
    model = AudioFlamingo3ForConditionalGeneration.from_pretrained(tmp_path / "out", dtype=torch.float16)
    state = model.state_dict()
    (norm,) = (name for name in state if name.endswith("language_model.norm.weight"))
    assert torch.equal(state[norm], held["language_model.model.norm.weight"])


def imported(kind: str, folder: Path, *changes: str) -> RunFolder:
    """Import a tiny model."""
    (folder / "published").mkdir()
    TINY[kind].write(folder / "published")
    return import_model(str(folder / "published"), folder / "run", changes)


def test_another_token_of_the_llm_may_stand_for_clips(tmp_path: Path) -> None:
    run = imported("qwen2_audio", tmp_path)
    with pytest.raises(RequestError, match=r"'<\|audio_eos\|>' stands in prompts already"):
        export_run(run, "qwen2_audio", tmp_path / "out", audio_token="<|audio_eos|>")
    run = import_model(str(tmp_path / "published"), tmp_path / "marked", ["llm.chat_template=chatml"])
    export_run(run, "qwen2_audio", tmp_path / "out", audio_token="<|audio_eos|>")
    tiny = TINY["qwen2_audio"]
    model = tiny.opened(tmp_path / "out").eval()
    inputs = tiny.asked(tmp_path / "out", ONE)
    token = AutoProcessor.from_pretrained(tmp_path / "out").tokenizer.convert_tokens_to_ids("<|audio_eos|>")
    assert tiny.audio_token(model.config) == token
    (ids,), (logits,) = logits_of(Engine(load_model(run), torch.device("cpu")), [ONE])
    assert [token if number < 0 else number for number in ids] == inputs["input_ids"][0].tolist()
    with torch.inference_mode():
        assert (logits - model(**inputs).logits[0]).abs().max() < 1e-4
    assert "`<|audio_eos|>` stands for a clip" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_a_recipe_is_asked_what_fits_before_training() -> None:
    recipe = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"
    result = CliRunner().invoke(app, ["export", str(recipe), "--list"])
    assert result.exit_code == 0, result.output
    lines = dict(line.split(": ", 1) for line in result.output.splitlines())
    assert list(lines) == [*FORMATS, "hf"]
    assert lines["hf"] == "fits"
    assert "encoder is whisper, needs granite_speech" in lines["granite_speech"]


def test_a_recipe_for_granite_speech_fits_it_with_the_updates_kept(tmp_path: Path) -> None:
    folder = tmp_path / "published"
    folder.mkdir()
    TINY["granite_speech"].write(folder)
    run = import_model(str(folder), tmp_path / "run")
    for source in (run.path, run.path / "recipe.yaml"):
        found = exporting.fitting(source)
        assert found["granite_speech"] == []
        assert any("llm.lora.modality is audio" in problem for problem in found["ultravox"])
    merged = exporting.fitting(run.path, lora="merge")["granite_speech"]
    assert ["llm.lora.modality is audio" in problem for problem in merged] == [True]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's
@pytest.mark.parametrize(
    ("changes", "options", "refused"),
    [
        (LORA, {"lora": "keep"}, "hf"),
        (LORA, {"lora": "merge"}, "ultravox"),
        ((), {"audio_token": "<|audio_eos|>"}, "qwen2_audio"),
        (("llm.chat_template=chatml",), {"audio_token": "<|audio_eos|>"}, "hf"),
    ],
)
def test_what_is_listed_is_what_an_export_refuses(
    changes: tuple[str, ...], options: dict[str, Any], refused: str, tmp_path: Path
) -> None:
    run = trained("qwen2_audio", tmp_path, *changes)
    listed = exporting.fitting(run.path, **options)
    assert listed[refused]
    for name, problems in listed.items():
        if problems:
            with pytest.raises(RequestError) as raised:
                export_run(run, name, tmp_path / name, **options)
            assert all(problem in str(raised.value) for problem in problems)
        else:
            made = export_run(run, name, tmp_path / name, **options)
            assert bool(changes == LORA) == any("ow-rank updates" in note for note in made.notes)
        assert (tmp_path / name).exists() != bool(problems)


def test_updates_for_audio_alone_are_not_merged_into_a_custom_model(tmp_path: Path) -> None:
    run = imported("phi4_multimodal", tmp_path)
    listed = exporting.fitting(run.path)
    assert [name for name, problems in listed.items() if not problems] == ["hf"]
    said = "llm.lora.modality is audio"
    assert all(any(said in problem for problem in listed[name]) for name in ("ultravox", "qwen2_audio"))
    assert not any("(--lora merge fits)" in problem for problems in listed.values() for problem in problems)
    with pytest.raises(RequestError, match=f"--lora merge: {said}: merged, updates would act on text, too"):
        export_run(run, "hf", tmp_path / "out", lora="merge")
    made = export_run(run, "auto", tmp_path / "out")
    assert any("vLLM, which runs several requests as one row, cannot" in note for note in made.notes)
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "`adapter_model.safetensors in a folder called speech-lora`" in card
    config = json.loads((tmp_path / "out" / "config.json").read_bytes())
    assert config["updates"]["scale"] == 2
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=True)
    assert not type(model)._supports_attention_backend
    with pytest.raises(ValueError, match="which input_ids tell: embeddings do not"):
        model(inputs_embeds=torch.zeros(1, 2, 32))


def test_updates_that_are_not_there_cannot_be_kept(tmp_path: Path) -> None:
    run = imported("qwen2_audio", tmp_path)
    with pytest.raises(RequestError, match="--lora keep: the LLM has no low-rank updates"):
        exporting.fitting(run.path, lora="keep")
    with pytest.raises(RequestError, match="--lora keep: the LLM has no low-rank updates"):
        export_run(run, "auto", tmp_path / "out", lora="keep")


def test_a_list_refuses_what_it_does_not_read(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["export", str(tmp_path), "--list", "--to", "hf", "--dtype", "bf16"])
    assert "--to, --dtype: is not read with --list" in str(result.exception)


def test_updates_that_act_on_audio_alone_are_refused_where_they_would_act_on_text(tmp_path: Path) -> None:
    run = trained("qwen2_audio", tmp_path, *LORA, "llm.lora.modality=audio")
    with pytest.raises(RequestError, match=r"llm\.lora\.modality is audio, needs any"):
        export_run(run, "qwen2_audio", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_fits_is_listed_with_what_others_need(tmp_path: Path) -> None:
    folder = tmp_path / "published"
    folder.mkdir()
    TINY["audioflamingo3"].write(folder)
    run = import_model(str(folder), tmp_path / "run", ["adapter.downsample=2", "adapter.pool=mean"])
    result = CliRunner().invoke(app, ["export", str(run.path), "--list"])
    assert result.exit_code == 0, result.output
    lines = dict(line.split(": ", 1) for line in result.output.splitlines())
    assert list(lines) == [*FORMATS, "hf"]
    assert "adapter.downsample is 2, needs 1" in lines["audioflamingo3"]
    assert "adapter.pool is mean, needs stack" in lines["voxtral"]
    assert "encoder is qwen2_audio, needs granite_speech" in lines["granite_speech"]


def test_voxtral_in_mistral_s_files_is_that_of_transformers(tmp_path: Path) -> None:
    folder = tmp_path / "published"
    folder.mkdir()
    TINY["voxtral"].write(folder)
    run = import_model(str(folder), tmp_path / "run")
    held = load_file(folder / "model.safetensors")
    rates = torch.exp(-math.log(10_000) / 7 * torch.arange(8))
    angles = torch.arange(1500)[:, None] * rates
    sinusoids = torch.cat([angles.sin(), angles.cos()], 1)
    if (held["audio_tower.embed_positions.weight"] - sinusoids).abs().max() > 1e-2:
        with pytest.raises(RequestError, match="the encoder's positions are no sinusoids"):
            export_run(run, "voxtral-mistral", tmp_path / "refused")
        for source in (run.path, run.path / "recipe.yaml"):
            (problem,) = exporting.fitting(source)["voxtral-mistral"]
            assert problem.startswith("the encoder's positions are no sinusoids")
        save_file({**held, "audio_tower.embed_positions.weight": sinusoids}, folder / "model.safetensors")
    assert exporting.fitting(run.path)["voxtral-mistral"] == []
    export_run(run, "voxtral-mistral", tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"params.json", "consolidated.safetensors", "tekken.json"} <= names
    assert "config.json" not in names
    made = load_file(tmp_path / "out" / "consolidated.safetensors")
    assert len(made) == len(held) - 1  # positions are computed anew
    assert torch.equal(made["output.weight"], held["language_model.lm_head.weight"])
    layer = "mm_whisper_embeddings.whisper_encoder.transformer.layers.1."
    assert torch.equal(made[f"{layer}feed_forward.w2.bias"], held["audio_tower.layers.1.fc2.bias"])
    # Halves that are rotated together there, neighbours here: the same products of queries and keys.
    theirs, ours = [], []
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    turns = torch.arange(5)[:, None] / 1e4 ** (torch.arange(8) / 8)  # (5, width / 2)
    for kind in "qk":
        old = x @ held[f"language_model.model.layers.0.self_attn.{kind}_proj.weight"].T
        first, second = old.view(5, 2, 2, 8).unbind(2)
        cos, sin = turns.cos()[:, None], turns.sin()[:, None]
        theirs.append(torch.cat([first * cos - second * sin, second * cos + first * sin], -1))
        new = (x @ made[f"layers.0.attention.w{kind}.weight"].T).view(5, 2, 8, 2)
        turned = torch.view_as_complex(new.contiguous()) * torch.polar(torch.ones_like(turns), turns)[:, None]
        ours.append(torch.view_as_real(turned).flatten(2))
    expected, found = (torch.einsum("qhd,khd->hqk", *pair) for pair in (theirs, ours))
    assert torch.allclose(found, expected, atol=1e-4)


def test_the_command_takes_the_first_shape_that_fits(tmp_path: Path) -> None:
    folder = tmp_path / "published"
    folder.mkdir()
    TINY["audioflamingo3"].write(folder)
    run = import_model(str(folder), tmp_path / "run")
    command = ["export", str(run.path), "--out", str(tmp_path / "out"), "--dtype", "bf16"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "as audioflamingo3" in result.output
    assert "Rounded to bf16: the weights of encoder, adapter, llm." in result.output
    out = tmp_path / "out"
    assert {value.dtype for value in load_file(out / "model.safetensors").values()} == {torch.bfloat16}
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    assert config["dtype"] == config["torch_dtype"] == config["text_config"]["dtype"] == "bfloat16"
    assert config["text_config"]["rope_theta"] == config["text_config"]["rope_parameters"]["rope_theta"]
    assert (out / "lock.json").read_bytes() == (run.path / "lock.json").read_bytes()
    again = CliRunner().invoke(app, command)
    assert "is there and not empty" in str(again.exception)


def test_a_token_or_a_format_that_is_not_there_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "published"
    folder.mkdir()
    TINY["audioflamingo3"].write(folder)
    run = import_model(str(folder), tmp_path / "run")
    with pytest.raises(RequestError, match="'<none>' is no token of the LLM's tokenizer"):
        export_run(run, "audioflamingo3", tmp_path / "out", audio_token="<none>")
    with pytest.raises(RequestError, match=r"--to 'audioflamingo' is none of its values\. Did you mean"):
        export_run(run, "audioflamingo", tmp_path / "out")
    with pytest.raises(WriteError, match="could not be written: File name too long"):
        export_run(run, "auto", tmp_path / ("x" * 300))
    assert not (tmp_path / "out").exists()

"""Sharded training on two processes equals one process, and its checkpoints go from one to the other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import WhisperConfig
from webdataset.writer import TarWriter

from kikimimi.data.audio import encode_flac
from kikimimi.data.shards.index import ShardIndex
from kikimimi.data.shards.indexing import build_index
from kikimimi.evaluation.predictions import read_predictions
from kikimimi.evaluation.similarity import read_similarities
from kikimimi.inference.load import load_model
from kikimimi.model.assembly import assemble
from kikimimi.model.trainable import named_tensors
from kikimimi.run.folder import RunFolder, checkpoint_folders
from kikimimi.run.metrics import read_metrics
from kikimimi.training.train import train
from kikimimi_encoders.whisper.whisper import WhisperEncoder
from kikimimi_llms.decoder import Llama

from .conftest import Make, Ranks, Training, assert_same, rewind

ALL = "stages.asr.train={encoder: {lr: 1.0e-3}, adapter: {lr: 1.0e-3}, llm: {lr: 1.0e-3}}"
LORA = [
    "llm.lora={rank: 2, alpha: 4, modality: audio}",
    "stages.asr.train={adapter: {lr: 1.0e-3}, llm: {lr: 2.0e-3, part: lora}}",
]
TRAIN = {
    "adapter": ["stages.asr.train={adapter: {lr: 1.0e-3}, llm: null}"],
    "cached": ["stages.asr.train={adapter: {lr: 1.0e-3}, llm: null}", "trainer.cache_features=true"],
    "lora": LORA,
    "half": [*LORA, "llm.dtype=bf16", "encoder.dtype=bf16"],
    "full": [ALL],
    "ctc": [ALL, "adapter={name: ctc, vocabulary: characters}"],
    "align": [
        "stages.asr.train={encoder: {lr: 1.0e-3}, adapter: {lr: 1.0e-3}, llm: null}",
        "stages.asr.objective={name: align, match: pool}",
    ],
    "sum": [
        ALL,
        "stages.asr.objective={name: sum, terms: {text: ce, own: distill, near: {name: align, match: pool}}}",
    ],
    "dpo": [*LORA, "stages.asr.objective=dpo", "trainer.activation_checkpointing=true"],
    "dpo-full": [ALL, "stages.asr.objective=dpo"],
}
# Gradients meet as in "lora" and "full", in ddp as in test_step_mean.py: these differ in what a step is.
STEPS: dict[str, int] = dict.fromkeys(("cached", "half", "align", "sum", "dpo", "dpo-full"), 8)


def column(run: RunFolder, key: str) -> list[float]:
    return [float(str(line[key])) for line in read_metrics(run.metrics) if key in line]


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    """Twenty steps over records with two clips, one, or none: some micro-batches hold text alone."""
    shard = tmp_path / "spoken" / "a.tar"
    rng = np.random.default_rng(0)
    shard.parent.mkdir()
    with TarWriter(str(shard), mtime=0) as tar:
        for number in range(20):
            clips, messages = {}, []
            for turn in range(max(number % 3, 1)):
                content = [{"type": "text", "text": "はい" * int(rng.integers(1, 9))}]
                if number % 3:
                    noise = rng.normal(0, 0.1, int(rng.integers(8_000, 32_000))).astype(np.float32)
                    clips[f"{turn}.flac"] = encode_flac(noise, 16_000)
                    content.insert(0, {"type": "audio", "audio": f"{turn}.flac", "text": "はい"})
                messages.append({"role": "user", "content": content})
                messages.append({"role": "assistant", "content": "いいえ" * int(rng.integers(1, 5))})
            record = json.dumps({"messages": messages, "rejected": "い" * int(rng.integers(1, 5))}).encode()
            tar.write({"__key__": f"{number:03d}", "json": record, **clips})
    build_index(shard)
    return [
        f"stages.asr.data={{tones: null, chat: {{shards: {shard}, task: chat}}}}",
        "stages.asr.batch={seconds: 4, global: 2}",
        "stages.asr.steps=20",
        "stages.asr.checkpoint={every: 6, keep: 9}",
        "stages.asr.validate.every=0",
        "llm.scratch.dropout=0",
        "trainer.cache_features=false",
    ]


@pytest.fixture
def damaged(options: list[str], tmp_path: Path) -> list[str]:
    """The same, with a third of the records damaged and left out: some micro-batches hold nothing at all."""
    shard = shutil.copytree(tmp_path / "spoken", tmp_path / "damaged") / "a.tar"
    index = ShardIndex.load(shard)
    content = bytearray(shard.read_bytes())
    for row in range(1, len(index.offsets), 3):
        content[int(index.offsets[row]) + int(index.sizes[row]) - 700] ^= 1
    shard.write_bytes(bytes(content))
    return [
        *options,
        ALL,
        f"stages.asr.data.chat.shards={shard}",
        "stages.asr.faults={policy: skip, share: 0.9}",
        "stages.asr.batch.seconds=2.5",
    ]


@pytest.fixture
def pretrained(options: list[str], make_run: Make, tmp_path: Path) -> list[str]:
    """The same with weights that are read: encoder and LLM are built without memory and filled in pieces."""
    model = assemble(make_run("source", "llm.scratch={tokenizer: bytes, dropout: 0}").recipe)
    encoder, llm = model.encoder, model.llm
    assert isinstance(encoder, WhisperEncoder)
    assert isinstance(llm, Llama)
    shard = tmp_path / "spoken" / "a.tar"
    ear, brain = tmp_path / "ear", tmp_path / "brain"
    ear.mkdir()
    state = {f"model.encoder.{name}": tensor for name, tensor in encoder.model.state_dict().items()}
    save_file(state, ear / "model.safetensors")
    WhisperConfig(
        d_model=32, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=64, max_source_positions=1500
    ).save_pretrained(ear)
    llm.model.save_pretrained(brain)
    llm.tokenizer.save_pretrained(brain)
    return [
        *(option for option in options if "llm.scratch" not in option),
        f"encoder={{name: whisper, weights: {ear}, dtype: bf16}}",
        f"llm={{name: llama, weights: {brain}, chat_template: plain}}",
        *LORA,
        f"stages.sft={{train: {{adapter: {{lr: 1.0e-3}}}}, data: {{chat: {{shards: {shard}, task: chat}}}},"
        " batch: {seconds: 4, global: 2}, steps: 2}",
    ]


@pytest.mark.slow
def test_two_processes_train_like_one(
    ranks: Ranks, make_run: Make, options: list[str], damaged: list[str], pretrained: list[str]
) -> None:
    recipes = {
        name: [*options, f"stages.asr.steps={STEPS.get(name, 14)}", *own] for name, own in TRAIN.items()
    }
    recipes |= {"damaged": damaged, "pretrained": pretrained}
    for name, own in recipes.items():
        train(make_run(f"one-{name}", *own))
    runs = [
        (strategy, make_run(f"{strategy}-{name}", *own))
        for name, own in recipes.items()
        for strategy in ("ddp", "fsdp")
        if strategy == "fsdp" or name not in STEPS
    ]
    ranks.train(*runs)
    for _, run in runs:
        name = run.path.name.partition("-")[2]
        one = RunFolder.open(run.path.with_name(f"one-{name}"))
        if name in ("adapter", "cached"):
            assert set(run.recipe.stages["asr"].train) == {"adapter"}
        assert_same(Training.curve(run.path), Training.curve(one.path))
        assert len(column(run, "loss")) >= STEPS.get(name, 14)
        for stage in run.recipe.stages:
            expected, found = (load_file(run.weights(stage)) for run in (one, run))
            assert expected.keys() == found.keys()
            for tensor, value in expected.items():
                torch.testing.assert_close(found[tensor], value, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_half_precision_and_one_rank(ranks: Ranks, make_run: Make, options: list[str]) -> None:
    """In bf16, sharded ranks follow the others; one process alone can hold all the pieces."""
    ddp, fsdp = (make_run(name, *options, ALL, "trainer.precision=bf16") for name in ("ddp", "fsdp"))
    ranks.train(("ddp", ddp), ("fsdp", fsdp))
    assert column(fsdp, "loss") == pytest.approx(column(ddp, "loss"), rel=0.02)
    rewind(fsdp, 18)
    train(RunFolder.open(fsdp.path, ["trainer.devices=1", "trainer.strategy=auto"]))
    assert len(column(fsdp, "loss")) == 20


@pytest.mark.slow
def test_what_a_stage_casts_is_handed_on_exactly(ranks: Ranks, make_run: Make, options: list[str]) -> None:
    shards = next(option for option in options if option.startswith("stages.asr.data="))
    talk = shards.removeprefix("stages.asr.data=").replace("tones: null, ", "")
    run = make_run(
        "run",
        *options,
        ALL,
        "stages.asr.steps=2",
        f"stages.sft={{train: {{adapter: {{lr: 1.0e-3}}}}, dtype: {{llm: bf16}}, data: {talk}, "
        "batch: {seconds: 4, global: 2}, steps: 1}",
    )
    ranks.train(("fsdp", run))
    asr, sft = (load_file(run.weights(stage)) for stage in ("asr", "sft"))
    for name in asr:
        assert name.startswith("adapter.") or torch.equal(sft[name], asr[name]), name


@pytest.mark.slow
def test_ranks_stop_together(ranks: Ranks, make_run: Make, options: list[str]) -> None:
    """What one rank finds stops both before the step, and both say what it was."""
    runs = [(strategy, make_run(f"{strategy}-run", *options, ALL)) for strategy in ("ddp", "fsdp")]
    said = r"^DataError: rank 1: step 8: the loss is nan; weights are untouched\. Records .*chat/\d{3}"
    ranks.train(*runs, fails=said, spoil="loss")
    for _, run in runs:
        assert [path.name for path in checkpoint_folders(run.checkpoints("asr"))] == ["step-00000006"]
        assert len(column(run, "loss")) == 7


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_checkpoint(ranks: Ranks, make_run: Make, options: list[str]) -> None:
    """Also where one rank alone finds it full."""
    runs = [(strategy, make_run(f"{strategy}-run", *options, ALL)) for strategy in ("ddp", "fsdp")]
    said = (
        r"^KikimimiError: .*step-00000012: the checkpoint could not be written: No space left on \w+\."
        r" The one before it, step-00000006, is intact\. Make room, then run the same command again: it goes"
    )
    ranks.train(*runs, fails=said, spoil="disk")
    for _, run in runs:
        assert [path.name for path in run.checkpoints("asr").iterdir()] == ["step-00000006"]
    ranks.train(*runs)
    assert all(len(column(run, "loss")) == 20 for _, run in runs)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_as_many_ranks_go_on_bit_for_bit(
    ranks: Ranks, make_run: Make, options: list[str], strategy: str
) -> None:
    """With dropout, and from a step in the middle of what is logged together."""
    run = make_run("run", *options, *TRAIN["ctc"], "llm.scratch.dropout=0.1", "trainer.log_every=5")
    ranks.train((strategy, run))
    whole, weights = Training.curve(run.path), run.weights("asr").read_bytes()
    rewind(run, 12)
    ranks.train((strategy, run))
    assert Training.curve(run.path) == whole
    assert run.weights("asr").read_bytes() == weights


@pytest.mark.slow
def test_a_damaged_piece_sends_every_rank_to_the_checkpoint_before(
    ranks: Ranks, make_run: Make, options: list[str]
) -> None:
    run = make_run("run", *options, *TRAIN["ctc"])
    ranks.train(("fsdp", run))
    whole, weights = Training.curve(run.path), run.weights("asr").read_bytes()
    rewind(run, 12)
    piece = run.checkpoints("asr") / "step-00000012" / "resume.rank1-of-2.safetensors"
    content = bytearray(piece.read_bytes())
    content[-9] ^= 1
    piece.write_bytes(content)
    ranks.train(("fsdp", run))
    assert Training.curve(run.path) == whole
    assert run.weights("asr").read_bytes() == weights
    assert piece.read_bytes() != content  # step 12 has come again


@pytest.mark.slow
def test_a_sharded_run_goes_on_with_other_ranks(ranks: Ranks, make_run: Make, options: list[str]) -> None:
    """From two to one and back: the same global batches."""
    run = make_run("run", *options, *TRAIN["ctc"])
    ranks.train(("fsdp", run))
    saved = {path.name for path in (run.checkpoints("asr") / "step-00000006").iterdir()}
    pieces = {f"{stem}.rank{rank}-of-2.safetensors" for stem in ("weights", "resume") for rank in (0, 1)}
    assert saved == {"files.json", "resume.json", *pieces}
    whole = column(run, "loss")
    assert load_file(run.weights("asr")).keys() == set(named_tensors(load_model(run)))

    rewind(run, 6)
    newest = load_model(run)  # pieces are read by one process as well
    train(RunFolder.open(run.path))
    assert column(run, "loss") == pytest.approx(whole, rel=1e-5, abs=1e-5)
    saved = {path.name for path in (run.checkpoints("asr") / "step-00000012").iterdir()}
    assert saved == {"files.json", "resume.json", "weights.safetensors", "resume.safetensors"}
    assert not all(
        torch.equal(tensor, named_tensors(newest)[name])
        for name, tensor in load_file(run.weights("asr")).items()
    )

    rewind(run, 12)
    ranks.train(("fsdp", run))
    assert column(run, "loss") == pytest.approx(whole, rel=1e-5, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "precision"), [("fsdp", "fp32"), ("fsdp", "bf16"), ("ddp", "fp32")])
def test_two_processes_answer_like_one(
    ranks: Ranks, make_run: Make, options: list[str], pretrained: list[str], strategy: str, precision: str
) -> None:
    """The model stays in pieces where it is evaluated, or each process answers its part of every batch;
    sampling and the look at audio tokens included.
    """
    evaluation = [
        "evaluate.held_out.generate={max_new_tokens: 12, temperature: 1.0}",
        f"evaluate.held_out.precision={precision}",
    ]
    lora, chat = [*options, *LORA], "evaluate.held_out.task=chat"
    talk = f"evaluate.held_out.shards={make_run('data', *options).recipe.stages['asr'].data['chat'].shards}"
    recipes = {"asr": lora, "chat": [*lora, talk, chat], "pretrained": [*pretrained, "stages.sft.steps=1"]}
    for name, own in recipes.items():
        last = "sft" if name == "pretrained" else "asr"
        short = [*own, *evaluation, "stages.asr.steps=2", f"stages.{last}.evaluate=[held_out]"]
        one = make_run(f"one-{name}", *short)
        train(one)
        answered = one.evaluation("held_out") / f"small@{last}.jsonl"
        expected = {key: line["prediction"] for key, line in read_predictions(answered).items()}
        assert len(set(expected.values())) > 1
        similar = read_similarities(one.evaluation("held_out"))

        shutil.rmtree(one.path / "evaluations")
        lines = [line for line in one.metrics.read_text().splitlines() if "cer/held_out" not in line]
        one.metrics.write_text("\n".join(lines) + "\n")
        ranks.train((strategy, one))
        found = {key: line["prediction"] for key, line in read_predictions(answered).items()}
        assert found == expected
        assert read_similarities(one.evaluation("held_out")) == similar
        assert list(one.read_json("evaluations/held_out/scores.json")) == [f"small@{last}"]

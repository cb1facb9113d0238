from __future__ import annotations

import csv
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch.nn import functional

from kikimimi.contracts.component import Encoder, Padded
from kikimimi.errors import DataError, RecipeError, RequestError, RunError
from kikimimi.recipe import digest
from kikimimi.run.folder import RunFolder
from kikimimi.run.lock import plugin_lock
from kikimimi.run.metrics import read_metrics
from kikimimi.testing import write_shard
from kikimimi.training.log_interval import MEASURED
from kikimimi.training.train import train

from .conftest import Make, rewind


def curve(run: RunFolder) -> list[dict[str, object]]:
    return [{k: v for k, v in line.items() if k not in MEASURED} for line in read_metrics(run.metrics)]


@pytest.mark.parametrize(
    "extra",
    [(), ("trainer.cache_features=false", "trainer.workers=1"), ("trainer.log_every=4",)],
)
def test_resuming_is_bit_identical(make_run: Make, extra: tuple[str, ...]) -> None:
    run = make_run("run", *extra)
    train(run)
    whole, weights = curve(run), run.weights("asr").read_bytes()
    for step in (3, 6):
        rewind(run, step)
        train(run)
        assert curve(run) == whole
        assert run.weights("asr").read_bytes() == weights


def test_a_stage_may_end_between_epochs_and_checkpoints(make_run: Make) -> None:
    run = make_run("run", "stages.asr.steps=7", "stages.asr.checkpoint.every=100")
    train(run)
    assert [line["step"] for line in curve(run) if "loss" in line] == list(range(1, 8))
    assert [path.name for path in run.checkpoints("asr").iterdir()] == ["step-00000007"]


def test_training_lowers_the_loss_and_leaves_everything(
    make_run: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(
        "run", "stages.asr.steps=40", "stages.asr.validate.every=0", "stages.asr.train.llm.lr=0.01"
    )
    train(run)
    losses = [float(str(line["loss"])) for line in curve(run)]
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    with (run.path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in rows] == losses
    lock = json.loads((run.path / "lock.json").read_text())
    assert lock["plugins"]["adapter"]["distribution"] == "kikimimi"
    stages = {"stages.asr.data.tones", "stages.asr.validate.data.held_out"}
    assert set(lock["data"]) == {*stages, "evaluate.held_out"}
    kept = load_file(run.weights("asr"))
    assert {name.split(".")[0] for name in kept} == {"encoder", "adapter", "llm"}  # all three are random here
    assert not list(run.path.rglob("*.tmp")) + list(run.path.rglob("*.ckpt")) + list(run.path.rglob("*.pt"))
    train(run)
    assert "already trained" in capsys.readouterr().err


def test_frozen_parts_do_not_change(make_run: Make) -> None:
    run = make_run("run", "stages.asr.train.llm=null", "stages.asr.steps=3")
    train(run)
    first = load_file(run.checkpoints("asr") / "step-00000003" / "weights.safetensors")
    run = make_run("later", "stages.asr.train.llm=null", "stages.asr.steps=6")
    train(run)
    later = load_file(run.weights("asr"))
    changed = {name.split(".")[0] for name in first if not torch.equal(first[name], later[name])}
    assert changed == {"adapter"}


def test_clips_are_encoded_once(
    make_run: Make, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    train(make_run("one"))
    assert "16 records" in capsys.readouterr().err
    train(make_run("two", "adapter.downsample=2"))
    assert "encoded" not in capsys.readouterr().err
    train(make_run("three", "encoder.pad=window"))
    assert "16 records" in capsys.readouterr().err
    monkeypatch.setattr("kikimimi.training.encoding.package_digest", lambda module: f"{module} as edited")
    train(make_run("four"))
    assert "16 records" in capsys.readouterr().err


def test_kept_features_train_like_live_ones(make_run: Make) -> None:
    kept, live = make_run("kept"), make_run("live", "trainer.cache_features=false")
    train(kept)
    train(live)
    for a, b in zip(curve(kept), curve(live), strict=True):
        key = "loss" if "loss" in a else "validation_loss"
        assert a[key] == pytest.approx(b[key], abs=2e-3)


def test_in_fp32_the_first_steps_cost_the_same_with_kept_features(make_run: Make) -> None:
    losses = {}
    for kept in (True, False):
        run = make_run(f"run{kept}", "trainer.precision=fp32", f"trainer.cache_features={str(kept).lower()}")
        train(run)
        losses[kept] = [line.get("loss", line.get("validation_loss")) for line in curve(run)][:4]
    assert len(set(losses[True])) == 4
    assert losses[True] == pytest.approx(losses[False], abs=1e-6)


def test_runs_with_other_adapters_run_the_encoder_not_once(
    make_run: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_run("mlp")
    encoder = first.recipe.encoder.component
    passes = 0
    forward = encoder.forward

    def counted(self: Encoder, clips: Padded) -> Padded:
        nonlocal passes
        passes += 1
        output: Padded = forward(self, clips)
        return output

    monkeypatch.setattr(encoder, "forward", counted)
    done = []
    for run in (
        first,
        make_run("conv", "adapter={name: conv}", "stages.asr.batch.seconds=5"),
        make_run("qformer", "adapter={name: qformer, hidden_dim: 32, num_heads: 4, ffn_dim: 64}"),
    ):
        passes = 0
        train(run)
        done.append(passes)
    assert done[0] > 0
    assert done[1:] == [0, 0]


def test_cache_limit_is_obeyed(make_run: Make, capsys: pytest.CaptureFixture[str]) -> None:
    train(
        make_run("run", "trainer.cache_limit_gb=0.00001", "stages.asr.steps=3", "stages.asr.validate.every=0")
    )
    assert (
        "above trainer.cache_limit_gb=1e-05: encoding in every epoch instead" not in capsys.readouterr().err
    )
    train(make_run("more", "trainer.cache_limit_gb=0.00001"))
    assert "above trainer.cache_limit_gb=1e-05: encoding in every epoch instead" in capsys.readouterr().err


def test_accumulation_is_one_large_step(make_run: Make) -> None:
    one = make_run(
        "one", "stages.asr.steps=2", "llm.scratch.dropout=0", "stages.asr.batch={seconds: 3, global: 4}"
    )
    train(one)
    losses = [line["loss"] for line in curve(one) if "loss" in line]
    assert len(losses) == 2
    assert losses[0] != losses[1]


def test_stages_follow_each_other(make_run: Make, recipe_file: Path) -> None:
    second = """
  sft:
    train: {llm: {lr: 1.0e-3, part: lora}}
    data: {tones: {shards: SHARDS, task: asr}}
    batch: {seconds: 3}
    steps: 3
evaluate:"""
    text = recipe_file.read_text(encoding="utf-8")
    shards = text.split('shards: "')[1].split('"')[0]
    text = text.replace("\nevaluate:", second.replace("SHARDS", shards), 1)
    text = text.replace("dropout: 0.1}", "dropout: 0.1}\n  lora: {rank: 2, alpha: 4}")
    text = text.replace("llm: {lr: 2.0e-3, weight_decay: 0.01}", "llm: {lr: 2.0e-3, part: lora}")
    recipe_file.write_text(text, encoding="utf-8")
    run = make_run("run")
    train(run)
    align, sft = load_file(run.weights("asr")), load_file(run.weights("sft"))
    changed = {name for name in align if not torch.equal(align[name], sft[name])}
    assert changed
    assert all(".lora_" in name for name in changed)
    assert run.newest_weights() == ("sft", run.weights("sft"))
    run.weights("sft").unlink()
    shutil.rmtree(run.checkpoints("sft"))
    train(run)
    again = load_file(run.weights("sft"))
    assert all(torch.equal(sft[name], again[name]) for name in sft)


def test_weights_say_where_they_come_from(make_run: Make) -> None:
    run = make_run("run", "stages.asr.steps=3")
    train(run)
    with safe_open(run.weights("asr"), framework="pt") as file:
        header = json.loads(file.metadata()["kikimimi"])
    parts = {part: plugin_lock(getattr(run.recipe, part)) for part in ("encoder", "adapter", "llm")}
    assert header == {"recipe": digest(run.recipe), "stage": "asr", "parts": parts}
    assert header["parts"]["encoder"]["weights"] == {"source": "random"}


def test_a_loss_that_is_not_finite_stops_before_the_step(
    make_run: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run("run", "stages.asr.checkpoint.every=1")
    real = functional.cross_entropy
    calls = iter(range(100))

    def spoilt(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return real(logits, targets) * (float("nan") if next(calls) == 5 else 1.0)

    monkeypatch.setattr(functional, "cross_entropy", spoilt)
    with pytest.raises(DataError, match=r"step 3: the loss is nan; weights are untouched\..*tones/train-00"):
        train(run)
    assert [path.name for path in sorted(run.checkpoints("asr").iterdir())] == [
        "step-00000001",
        "step-00000002",
    ]


def test_ctrl_c_saves_and_goes_on(make_run: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = make_run("reference")
    train(reference)
    run = make_run("run")
    from kikimimi.training.callbacks.checkpoints import KeepCheckpoints

    real = KeepCheckpoints.on_train_batch_start

    def press(self: KeepCheckpoints, trainer: object, module: object, batch: object, index: int) -> None:
        real(self, trainer, module, batch, index)  # type: ignore[arg-type]
        if index == 8:  # first micro-batch of the fifth step
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(KeepCheckpoints, "on_train_batch_start", press)
        with pytest.raises(KeyboardInterrupt):
            train(run)
    assert sorted(run.checkpoints("asr").iterdir())[-1].name == "step-00000005"
    train(run)
    assert curve(run) == curve(reference)
    assert run.weights("asr").read_bytes() == reference.weights("asr").read_bytes()


def test_missing_shards_are_found_before_training(make_run: Make, tmp_path: Path) -> None:
    run = make_run("run", f"stages.asr.data.tones.shards={tmp_path}/none-{{000..001}}.tar")
    with pytest.raises(RequestError, match=r"none-000\.tar does not exist"):
        train(run)


def test_clips_longer_than_the_encoder_are_named(make_run: Make, tmp_path: Path) -> None:
    shards = write_shard(tmp_path / "long", 6)
    sizes = "encoder={name: whisper, weights: random, sizes: {dim: 32, num_heads: 2, num_positions: 20}}"
    run = make_run("run", sizes, f"stages.asr.data.tones.shards={shards}")
    with pytest.raises(
        DataError,
        match=r"\d of 6 records have clips longer than the encoder takes \(0\.4 s\), the first is .*"
        r"Nothing is cut\. To go on without such records, .*faults: {policy: skip}",
    ):
        train(run)


def test_a_record_that_exceeds_the_context_is_named(make_run: Make) -> None:
    with pytest.raises(
        DataError,
        match=r"byte \d+, record 'train-\d+': up to \d+ positions .* the LLM's context is 12\. .*fit\. To",
    ):
        train(make_run("run", "llm.scratch.context_length=12"))


def test_a_part_that_matches_nothing(make_run: Make) -> None:
    with pytest.raises(
        RecipeError, match=r"stages\.asr\.train\.adapter\.part: 'layer\*' matches no parameter"
    ):
        train(make_run("run", "stages.asr.train.adapter.part='layer*'"))


def test_bf16_trains(make_run: Make) -> None:
    run = make_run("run", "trainer.precision=bf16", "stages.asr.steps=3")
    train(run)
    assert run.finished("asr")


def test_tensorboard(make_run: Make) -> None:
    pytest.importorskip("tensorboard")
    run = make_run("run", "trainer.loggers=[tensorboard]", "stages.asr.steps=3")
    train(run)
    assert list((run.path / "tensorboard" / "asr").glob("events*"))


def test_padding_is_counted_inside_the_encoder_too(make_run: Make) -> None:
    small = ("stages.asr.steps=2", "trainer.cache_features=false", "encoder.sizes.num_positions=100")
    shares = []
    for pad in ("none", "window"):
        run = make_run(pad, f"encoder.pad={pad}", *small)
        train(run)
        shares += [line["padding"] for line in curve(run) if "padding" in line]
    assert all(float(str(share)) < 0.3 for share in shares[:2])
    # Clips of 0.3 to 1.5 s, each padded to 2 s.
    assert all(float(str(share)) > 0.25 for share in shares[2:])
    assert sum(map(float, map(str, shares[2:]))) > sum(map(float, map(str, shares[:2])))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_scheduler_s_signal_saves_and_says_so(
    make_run: Make, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    """As schedulers send it: the step ends, a checkpoint is written; the run goes on exactly."""
    from kikimimi.training.module import StageModule

    reference, run = make_run("reference"), make_run("run")
    train(reference)
    real = StageModule.training_step

    def killed(self: StageModule, batch: object, index: int) -> torch.Tensor:
        if index == 8:
            os.kill(os.getpid(), number)
        return real(self, batch, index)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StageModule, "training_step", killed)
        with pytest.raises(SystemExit) as stopped:
            train(run)
    assert stopped.value.code == 143
    assert f"stopped by {number.name}. Run the same command again" in capsys.readouterr().err
    assert sorted(run.checkpoints("asr").iterdir())[-1].name == "step-00000005"
    train(run)
    assert run.weights("asr").read_bytes() == reference.weights("asr").read_bytes()


def test_one_process_trains_a_run(make_run: Make) -> None:
    run = make_run("run")
    with (
        run.locked(),
        pytest.raises(RunError, match=r"is being trained by another process \(process \d+ on "),
    ):
        train(run)
    train(run)


@pytest.mark.parametrize("validated", [True, False])
@pytest.mark.parametrize("step", [4, 8])
def test_resuming_where_a_validation_is_due(make_run: Make, validated: bool, step: int) -> None:
    """Whether a kill came after the validation, or between the checkpoint and it: then it is made up for."""
    run = make_run("run", "stages.asr.checkpoint.every=4")
    train(run)
    whole, weights = curve(run), run.weights("asr").read_bytes()
    rewind(run, step)
    lines = run.metrics.read_text().splitlines()
    kept = [line for line in lines if not (json.loads(line)["step"] == step and "validation_loss" in line)]
    assert len(kept) == len(lines) - 1
    if not validated:
        run.metrics.write_text("\n".join(kept) + "\n")
    train(run)
    assert curve(run) == whole
    assert run.weights("asr").read_bytes() == weights


@pytest.mark.parametrize("step", [4, 8])
def test_a_signal_in_a_validation(
    make_run: Make, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """The step before it is saved, the validation is left, and made up for by the run that goes on."""
    from kikimimi.training.module import StageModule

    reference, run = make_run("reference"), make_run("run")
    train(reference)
    real = StageModule.validation_step

    def killed(self: StageModule, batch: object, index: int) -> object:
        if self.trainer.global_step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, batch, index)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(StageModule, "validation_step", killed)
        with pytest.raises(SystemExit) as stopped:
            train(run)
    assert stopped.value.code == 143
    assert "stopped by SIGTERM" in capsys.readouterr().err
    assert sorted(run.checkpoints("asr").iterdir())[-1].name == f"step-{step:08d}"
    assert curve(run) == curve(reference)[: len(curve(run))]
    assert [line["step"] for line in curve(run) if "validation_loss" in line] == list(range(4, step, 4))
    train(run)
    assert curve(run) == curve(reference)
    assert run.weights("asr").read_bytes() == reference.weights("asr").read_bytes()


def test_schedulers_repeat_themselves(make_run: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm sends SIGTERM after SIGUSR1, torchrun what has come already: the step is saved all the same."""
    from kikimimi.training.module import StageModule

    run = make_run("run")
    real = StageModule.training_step

    def killed(self: StageModule, batch: object, index: int) -> torch.Tensor:
        if index == 4:
            for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
                os.kill(os.getpid(), number)
        return real(self, batch, index)  # type: ignore[arg-type]

    monkeypatch.setattr(StageModule, "training_step", killed)
    with pytest.raises(SystemExit) as stopped:
        train(run)
    assert stopped.value.code == 143
    assert sorted(run.checkpoints("asr").iterdir())[-1].name == "step-00000003"


def test_a_second_ctrl_c_stops_at_once(make_run: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from kikimimi.console.signals import STOP_SIGNALS
    from kikimimi.training import stop
    from kikimimi.training.module import StageModule

    run = make_run("run")
    monkeypatch.setattr(stop, "ONCE_MORE", -1.0)  # however soon it comes
    handlers = [signal.getsignal(number) for number in STOP_SIGNALS]

    def killed(self: StageModule, batch: object, index: int) -> torch.Tensor:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the step goes on")

    monkeypatch.setattr(StageModule, "training_step", killed)
    with pytest.raises(KeyboardInterrupt):
        train(run)
    assert not run.checkpoints("asr").is_dir()
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == handlers

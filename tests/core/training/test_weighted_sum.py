"""The weights of a sum of encoder layers: learnt with the adapter, kept, taken up again, and never cached."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from kikimimi.contracts.component import Encoder
from kikimimi.errors import KikimimiError, RecipeError
from kikimimi.inference.load import load_model
from kikimimi.run.folder import RunFolder
from kikimimi.run.metrics import read_metrics
from kikimimi.training import train as training
from kikimimi.training.train import train

from .conftest import Make, rewind

TAPS = "encoder.taps.weight"
SUM = (
    "encoder={name: whisper, weights: random, layers: [0, 1, 2], combine: weighted_sum, "
    "sizes: {dim: 32, num_layers: 2, num_heads: 2, ffn_dim: 64}, fixed: ['model.*']}",
    "stages.asr.train={adapter: {lr: 1.0e-2}, llm: null}",
    "stages.asr.validate.every=0",
)
FIXED = ("llm.fixed=['*layers*', '*norm*']",)


def test_the_weights_are_learnt_and_kept(make_run: Make, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run("run", *SUM)
    train(run)
    assert (
        "stage asr: the weights of the encoder's sum of layers train with the adapter"
        in capsys.readouterr().err
    )
    left, weights = load_file(run.weights("asr")), run.weights("asr").read_bytes()
    assert left[TAPS].abs().min() > 1e-3  # they began at zero, a uniform mean
    model = load_model(run)
    assert torch.equal(model.get_parameter(TAPS), left[TAPS])
    begun = load_file(run.checkpoints("asr") / "step-00000003" / "weights.safetensors")
    assert {name for name in left if not torch.equal(left[name], begun[name])} == {
        name for name in left if name.startswith("adapter.")
    } | {TAPS}
    assert not any("lr/encoder" in line for line in read_metrics(run.metrics))

    rewind(run, 3)
    train(run)
    assert run.weights("asr").read_bytes() == weights

    capsys.readouterr()
    fixed = make_run("fixed", *SUM, "encoder.fixed=['*']")
    train(fixed)
    assert not load_file(fixed.weights("asr"))[TAPS].any()
    assert "sum of layers" not in capsys.readouterr().err


def test_a_checkpoint_of_before_is_refused(make_run: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Earlier versions left the weights as they began: their optimiser has no moments of them."""
    run = make_run("run", *SUM)
    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "downstream_names", lambda self: set())
        patch.setattr(training, "check_sources", lambda *_: None)
        train(run)
    rewind(run, 3)
    with pytest.raises(KikimimiError, match=r"stage: it lacks encoder\.taps\.weight, which earlier versions"):
        train(run)


def test_a_run_of_before_goes_on_with_what_stays_random(
    make_run: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run("run", "stages.asr.validate.every=0")
    train(run)
    weights = load_file(run.weights("asr"))
    rewind(run, 3)
    text = (run.path / "recipe.yaml").read_text(encoding="utf-8")
    without = text.replace("  fixed:\n  - '*'\n", "").replace("  fixed: null\n", "")
    assert "fixed" not in without
    (run.path / "recipe.yaml").write_text(without, encoding="utf-8")
    capsys.readouterr()
    train(RunFolder.open(run.path))
    assert "began before this was an error, and goes on: " in (said := capsys.readouterr().err)
    assert "encoder: no source fills model.conv1.weight" in said
    assert all(torch.equal(tensor, weights[n]) for n, tensor in load_file(run.weights("asr")).items())


def test_a_run_that_begins_is_refused(make_run: Make) -> None:
    run = make_run(
        "run", "llm.lora={rank: 2, targets: [q_proj]}", "stages.asr.train.llm.part='*embed*'", *FIXED
    )
    with pytest.raises(RecipeError, match=r"llm\.lora: no stage trains the low-rank updates"):
        train(run)
    assert not run.begun

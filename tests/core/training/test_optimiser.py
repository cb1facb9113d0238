"""Which parameters of a stage take which rate, and which of them decay."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from kikimimi.errors import RecipeError, RunError
from kikimimi.model.assembly import assemble
from kikimimi.model.trainable import trainable_names, undecayed_names
from kikimimi.recipe import Train, digest
from kikimimi.run.folder import RunFolder
from kikimimi.training.optimiser import make_optimiser
from kikimimi.training.train import train

from .conftest import Make, Training, rewind

EMBEDDINGS = "llm.model.model.embed_tokens.weight"
NORM = "llm.model.model.norm.weight"
DECAYS = "stages.asr.train={adapter: {lr: 1.0e-3, weight_decay: 0.1}, llm: {lr: 1.0e-5, weight_decay: 0.01}}"

GROUP = 'stages.asr.train.llm.groups={tied: {part: "*embed_tokens*"}}'


def optimised(run: RunFolder) -> dict[str, tuple[str, float, float]]:
    """Return each trained parameter's group, learning rate and weight decay."""
    model = assemble(run.recipe, texts=lambda: ["あ"])
    stage = run.recipe.stages["asr"]
    optimiser = make_optimiser(model, stage, trainable_names(model, stage, where="stages.asr"))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (group["name"], group["lr"], group["weight_decay"])
        for group in optimiser.param_groups
        for parameter in group["params"]
    }


class Parts(nn.Module):
    """Parameters of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.embedding = nn.Embedding(5, 4)
        self.lora_A = nn.Linear(4, 2, bias=False)
        self.conv = nn.Conv1d(4, 4, 3)
        self.norms = nn.ModuleList(
            [nn.LayerNorm([2, 4]), nn.RMSNorm(4), nn.BatchNorm1d(4), nn.GroupNorm(1, 4)]
        )
        self.pos_bias_u = nn.Parameter(torch.zeros(2, 3))  # a Conformer's: not one-dimensional
        self.queries = nn.Parameter(torch.zeros(1, 3, 4))
        self.layer_scale = nn.Parameter(torch.ones(4))
        self.logit_scale = nn.Parameter(torch.tensor(1.0))


def test_what_decays() -> None:
    model = Parts()
    everything = {name for name, _ in model.named_parameters()}
    decays = {"linear.weight", "embedding.weight", "lora_A.weight", "conv.weight", "queries"}
    assert undecayed_names(model) == everything - decays


def test_groups_take_the_rates_of_their_part(make_run: Make) -> None:
    """One was trained at 1e-4 under a part with 1e-5."""
    others = '{mlps: {part: "*mlp*", lr: 1.0e-3}, rest: {part: "*q_proj*", weight_decay: 0}}'
    found = optimised(make_run("run", DECAYS, GROUP, f"stages.asr.train.llm.groups={others}"))
    layer = "llm.model.model.layers.0"
    assert found[EMBEDDINGS] == ("llm.tied", 1e-5, 0.01)
    assert found[f"{layer}.mlp.up_proj.weight"] == ("llm.mlps", 1e-3, 0.01)
    assert found[f"{layer}.self_attn.q_proj.weight"] == ("llm.rest", 1e-5, 0.0)
    assert found[f"{layer}.self_attn.k_proj.weight"] == ("llm", 1e-5, 0.01)


def test_norms_and_biases_do_not_decay(make_run: Make) -> None:
    found = optimised(make_run("run", DECAYS, "adapter.bias=true"))
    assert found[NORM] == ("llm", 1e-5, 0.0)
    assert found[EMBEDDINGS] == ("llm", 1e-5, 0.01)
    adapter = {name.rpartition(".")[2]: decay for name, (key, _, decay) in found.items() if key == "adapter"}
    assert adapter == {"weight": 0.1, "bias": 0.0}


def test_unless_a_recipe_says_otherwise(make_run: Make) -> None:
    found = optimised(make_run("run", DECAYS, "stages.asr.optimiser.decay_norm_and_bias=true"))
    assert {(name.partition(".")[0], decay) for name, (_, _, decay) in found.items()} == {
        ("llm", 0.01),
        ("adapter", 0.1),
    }


def test_a_decay_that_nothing_has_is_refused(make_run: Make) -> None:
    groups = 'stages.asr.train.llm.groups={norms: {part: "*norm*", weight_decay: 0.1}}'
    said = (
        r"stages\.asr\.train\.llm\.groups\.norms\.weight_decay: everything that '\*norm\*' matches is a "
        r"norm, a bias or of one dimension, which do not decay: leave it out, or set "
        r"stages\.asr\.optimiser\.decay_norm_and_bias=true"
    )
    with pytest.raises(RecipeError, match=said):
        optimised(make_run("run", groups))
    assert optimised(make_run("inherited", groups.replace(", weight_decay: 0.1", "")))[NORM][2] == 0
    told = optimised(make_run("told", groups, "stages.asr.optimiser.decay_norm_and_bias=true"))
    assert told[NORM] == ("llm.norms", 2e-3, 0.1)


def test_a_rate_is_told_once(make_run: Make) -> None:
    run = make_run("run", DECAYS, "adapter.bias=true", "stages.asr.steps=1")
    train(run)
    line: dict[str, Any] = Training.curve(run.path)[0]
    assert [name for name in line if name.startswith("lr/")] == ["lr/adapter", "lr/llm"]


def test_a_run_that_began_before_the_option(make_run: Make, capsys: pytest.CaptureFixture[str]) -> None:
    """All of its parameters decay, and a group that names no rate has 1e-4, on and on."""
    option = "stages.asr.optimiser.decay_norm_and_bias=true"
    run = make_run("run", DECAYS, option, GROUP.replace("}}", ", lr: 1.0e-4, weight_decay: 0}}"))
    train(run)
    whole, weights = Training.curve(run.path), run.weights("asr").read_bytes()
    rewind(run, 3)
    held = run.path / "recipe.yaml"
    text = held.read_text(encoding="utf-8").replace("      decay_norm_and_bias: true\n", "")
    held.write_text(text, encoding="utf-8")
    lock = json.loads((run.path / "lock.json").read_text(encoding="utf-8"))
    lock["recipe"] = {"sha256": digest(text), "yaml": text}
    (run.path / "lock.json").write_text(json.dumps(lock), encoding="utf-8")
    capsys.readouterr()
    again = make_run("run", DECAYS, GROUP)
    assert again.recipe == RunFolder.open(run.path).recipe == run.recipe
    train(again, locked=True)
    name = "optimiser.decay_norm_and_bias"
    said = f"{run.path} began before there was {name}: it goes on with {name}: true"
    assert capsys.readouterr().err.count(said) == 1
    assert Training.curve(run.path) == whole
    assert run.weights("asr").read_bytes() == weights
    rewind(again, 3)
    train(again)  # and that is said once, not whenever it goes on
    assert "began before" not in capsys.readouterr().err
    assert again.kept_options(["asr"]) == {name: True}
    still = replace(
        again.recipe.stages["asr"], train={"adapter": Train()}
    )  # where nothing decays, nothing is
    assert RunFolder(again.path, replace(again.recipe, stages={"asr": still})).kept_options(["asr"]) == {}
    assert again.kept_options([]) == {}


def test_a_run_of_today_is_not_taken_for_an_earlier_one(make_run: Make) -> None:
    make_run("run", DECAYS, GROUP.replace("}}", ", lr: 1.0e-4}}"))
    run = make_run("run", DECAYS, GROUP)  # before it has begun
    (run.path / "metrics.jsonl").touch()
    with pytest.raises(RunError, match=r"groups\.tied\.lr: there \(nothing\), here 0.0001"):
        make_run("run", DECAYS, GROUP.replace("}}", ", lr: 1.0e-4}}"))

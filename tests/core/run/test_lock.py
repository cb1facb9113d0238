from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from kikimimi.contracts import registry
from kikimimi.data.shards.indexing import build_index
from kikimimi.errors import DamagedError, RunError
from kikimimi.recipe import load_recipe
from kikimimi.run import lock as module
from kikimimi.run.drift import Change, DriftError, drift
from kikimimi.run.folder import RunFolder
from kikimimi.run.lock import git_state, hold_to, keep_lock, lock, read_lock
from kikimimi.run.made_with import tell_difference
from kikimimi.run.source import source_digest
from kikimimi.testing import write_shard

RECIPE = """
name: small
encoder:
  name: whisper
  weights: random
  sizes: {{dim: 32, num_layers: 2, num_heads: 2, ffn_dim: 64}}
  fixed: ["*"]
adapter: {{name: mlp, hidden_dim: 32}}
llm: {{name: llama, weights: random, scratch: {{dim: 32, num_layers: 2, num_heads: 2, ffn_dim: 64}}}}
stages:
  asr:
    train: {{adapter: {{lr: 1.0e-3}}}}
    data: {{tones: {{shards: "{folder}/train.tar", task: asr}}}}
    steps: 8
    validate: {{every: 4, data: {{held_out: {{shards: "{folder}/held.tar", task: asr}}}}}}
evaluate:
  later: {{shards: "{folder}/later.tar", task: asr, normaliser: whisper-basic-nospace}}
trainer: {{accelerator: cpu}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate(("train", "held", "later")):
        shards = Path(write_shard(tmp_path / f"made-{name}", 3, seed=seed).replace("*", "000000"))
        (found,) = sorted((tmp_path / f"made-{name}").glob("*.tar"))
        assert found.parent == shards.parent
        shutil.copy(found, tmp_path / f"{name}.tar")
        build_index(tmp_path / f"{name}.tar")
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(folder=tmp_path), encoding="utf-8")
    return tmp_path


@pytest.fixture
def run(folder: Path) -> RunFolder:
    run = RunFolder.create(folder / "runs" / "small", load_recipe(folder / "recipe.yaml"))
    keep_lock(run, folder / "recipe.yaml")
    (run.path / "metrics.jsonl").write_text("")  # as a stage that has begun leaves it
    return run


def held(run: RunFolder) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run.path / "lock.json").read_text())
    return found


def test_what_a_lock_holds(run: RunFolder, folder: Path) -> None:
    found = held(run)
    assert found["recipe"]["yaml"] == (run.path / "recipe.yaml").read_text()
    assert set(found["plugins"]) == {
        "encoder",
        "adapter",
        "llm",
        "stages.asr.objective",
        "stages.asr.data.tones.task",
        "stages.asr.validate.data.held_out.task",
        "evaluate.later.task",
        "evaluate.later.metric",
        "evaluate.later.normaliser",
    }
    stages = {"stages.asr.data.tones", "stages.asr.validate.data.held_out"}
    assert set(found["data"]) == {*stages, "evaluate.later"}
    assert len(set(found["data"].values())) == 3
    assert found["git"]["recipe"] is None  # a temporary folder
    (session,) = found["sessions"]
    assert session["changes"] == []
    assert drift(found, lock(run.recipe)) == []
    keep_lock(run, hold=True)


def change_python(run: RunFolder, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(platform, "python_version", lambda: "3.99.0")


def change_library(run: RunFolder, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(module, "version", lambda name: "9.9" if name == "torch" else version(name))


def change_plugin(run: RunFolder, patch: pytest.MonkeyPatch) -> None:
    real = registry.find

    def find(kind: str, name: str) -> registry.Plugin:
        found = real(kind, name)
        if kind != "normaliser":
            return found
        return registry.Plugin(kind, name, found.value, "another", "2.0")

    patch.setattr(registry, "find", find)


def change_source(run: RunFolder, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(module, "source_digest", lambda name: "0" * 64)


def change_data(run: RunFolder, patch: pytest.MonkeyPatch) -> None:
    folder = run.path.parents[1]
    shutil.copy(folder / "later.tar", folder / "train.tar")
    build_index(folder / "train.tar")


def lose_validation(run: RunFolder, patch: pytest.MonkeyPatch) -> None:
    (run.path.parents[1] / "held.tar").unlink()


def change_evaluation(run: RunFolder, patch: pytest.MonkeyPatch) -> None:
    folder = run.path.parents[1]
    shutil.copy(folder / "train.tar", folder / "later.tar")
    build_index(folder / "later.tar")


def change_recipe(run: RunFolder, patch: pytest.MonkeyPatch) -> None:
    text = (run.path / "recipe.yaml").read_text()
    (run.path / "recipe.yaml").write_text(text.replace("steps: 8", "steps: 9"))


DRIFTS: list[tuple[Callable[..., None], str]] = [
    (change_python, r"python: locked 3\.\d+\.\d+, now 3\.99\.0"),
    (change_library, r"libraries\.torch: locked 2.*, now 9\.9"),
    (change_plugin, r"plugins\.evaluate\.later\.normaliser\.distribution: locked kikimimi, now another"),
    (change_plugin, r"plugins\.evaluate\.later\.normaliser\.version: locked .*, now 2\.0"),
    (change_source, r"source\.kikimimi: locked .*, now 0{64}"),
    (change_data, r"data\.stages\.asr\.data\.tones: locked [0-9a-f]{64}, now [0-9a-f]{64}"),
    (lose_validation, r"data\.stages\.asr\.validate\.data\.held_out: locked [0-9a-f]{64}, now \(nothing\)"),
    (change_evaluation, r"data\.evaluate\.later: locked [0-9a-f]{64}, now [0-9a-f]{64}"),
    (change_recipe, r"recipe\.stages\.asr\.steps: locked 8, now 9"),
]


@pytest.mark.parametrize(("change", "message"), DRIFTS)
def test_drift_is_refused_item_by_item(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, change: Callable[..., None], message: str
) -> None:
    before = held(run)
    with monkeypatch.context() as patch:
        change(run, patch)
        heading = r"lock\.json: \d things? (is|are) not what was locked:\n(.*\n)*.*"
        with pytest.raises(DriftError, match=heading + message) as info:
            keep_lock(RunFolder.open(run.path), hold=True)
    assert len(info.value.changes) == (2 if change is change_plugin else 1)
    assert held(run) == before


def test_weights_are_held(folder: Path) -> None:
    import torch

    weights = folder / "model.safetensors"
    recipe = load_recipe(folder / "recipe.yaml")
    save_file({"a": torch.zeros(1)}, weights)
    before = lock(recipe)
    before["plugins"]["llm"]["weights"] = module.weights_lock(str(weights))
    save_file({"a": torch.ones(1)}, weights)
    after = lock(recipe)
    after["plugins"]["llm"]["weights"] = module.weights_lock(str(weights))
    (change,) = drift(before, after)
    assert change.item == "plugins.llm.weights.sha256.model.safetensors"


def test_what_may_differ(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["kikimimi", "train", "elsewhere"])
    monkeypatch.setattr("socket.gethostname", lambda: "another-host")
    keep_lock(RunFolder.open(run.path, ["trainer.workers=3", "trainer.log_every=7"]), hold=True)
    first, second = held(run)["sessions"]
    assert second["host"] == "another-host"
    assert second["command"] == ["kikimimi", "train", "elsewhere"]
    assert (first["changes"], second["changes"]) == ([], [])


METRIC = """
from dataclasses import dataclass, field

from kikimimi import MetricConfig
from kikimimi_metrics.error_rates import CER

class Folded(CER):
    @dataclass(kw_only=True, frozen=True)
    class Config(MetricConfig):
        fold: str = field(default="none", metadata={"kind": "normaliser"})
"""


def test_plugins_in_the_options_of_others_are_held(folder: Path, install: Callable[..., Path]) -> None:
    install("folded", {"kikimimi.metrics": {"folded": "third_folded:Folded"}}, {"third_folded": METRIC})
    terms = "{name: sum, terms: {a: kikimimi:ce, b: dpo}, weights: {a: 0.5}}"
    text = (folder / "recipe.yaml").read_text().replace("steps: 8", f"steps: 8\n    objective: {terms}")
    text = text.replace('later.tar", task: asr', 'later.tar", task: asr, metric: folded')
    (folder / "recipe.yaml").write_text(text)
    now = lock(load_recipe(folder / "recipe.yaml"))
    plugins = now["plugins"]
    ours = {"distribution": "kikimimi", "version": version("kikimimi")}
    objective = plugins["stages.asr.objective"]
    assert objective["terms.a"] == {"name": "kikimimi:ce", **ours, "weights": None}
    assert objective["terms.b"]["name"] == "dpo"
    assert objective["weights"] is None  # factors, and no source
    metric = plugins["evaluate.later.metric"]
    assert (metric["distribution"], metric["fold"]) == ("folded", {"name": "none", **ours})
    # Locks of an earlier version did not tell of them.
    earlier = json.loads(json.dumps(now))
    earlier["plugins"]["stages.asr.objective"] = {"name": "sum", **ours, "weights": {"source": {"a": 0.5}}}
    assert drift(earlier, now) == []
    objective["terms.a"]["version"] = "0"
    assert [change.item for change in drift(now, lock(load_recipe(folder / "recipe.yaml")))] == [
        "plugins.stages.asr.objective.terms.a.version"
    ]


def test_an_evaluation_may_come_later(folder: Path) -> None:
    recipe = load_recipe(folder / "recipe.yaml")
    (folder / "later.tar").rename(folder / "moved.tar")
    before = lock(recipe)
    assert before["data"]["evaluate.later"] is None
    (folder / "moved.tar").rename(folder / "later.tar")
    assert drift(before, lock(recipe)) == []


def test_the_same_shards_elsewhere(run: RunFolder, folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for file in folder.glob("train.tar*"):
        shutil.copy(file, other / file.name)
    override = f"stages.asr.data.tones.shards={other}/train.tar"
    found, recipe = read_lock(run.path / "lock.json", [override])
    hold_to(run.path / "lock.json", found, recipe)
    _, changed = read_lock(run.path / "lock.json", [f"stages.asr.data.tones.shards={folder}/held.tar"])
    with pytest.raises(DriftError, match=r"data\.stages\.asr\.data\.tones: locked .*\n?"):
        hold_to(run.path / "lock.json", found, changed)


def test_sessions_are_added_and_nothing_is_rewritten(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    before = held(run)
    monkeypatch.setattr(platform, "python_version", lambda: "3.99.0")
    keep_lock(run)
    after = held(run)
    assert len(after["sessions"]) == 2
    assert after["sessions"][1]["changes"] == [
        {"item": "python", "locked": before["python"], "present": "3.99.0"}
    ]
    assert {**after, "sessions": 0} == {**before, "sessions": 0}


def test_a_run_that_never_began_is_locked_anew(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    run.metrics.unlink()
    monkeypatch.setattr(platform, "python_version", lambda: "3.99.0")
    keep_lock(run)
    assert held(run)["python"] == "3.99.0"
    assert len(held(run)["sessions"]) == 1


def test_no_lock_to_hold_to(folder: Path) -> None:
    run = RunFolder.create(folder / "runs" / "new", load_recipe(folder / "recipe.yaml"))
    with pytest.raises(RunError, match=r"runs/new has no lock\.json to hold it to"):
        keep_lock(run, hold=True)


@pytest.mark.parametrize("text", ["{", "[]", '{"recipe": 1}', '{"other": 1}'])
def test_a_file_that_is_no_lock(tmp_path: Path, text: str) -> None:
    (tmp_path / "lock.json").write_text(text)
    with pytest.raises(RunError, match=r"lock\.json is not the lock\.json of a run"):
        read_lock(tmp_path / "lock.json", [])


def test_the_commit_of_a_folder(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(
            ["git", "-C", tmp_path, *identity, *arguments], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: a\n")
    assert git_state(recipe) is None
    git("init")
    git("add", "recipe.yaml")
    git("commit", "-m", "a")
    commit = git("rev-parse", "HEAD")
    assert git_state(recipe) == {"commit": commit, "dirty": False}
    recipe.write_text("name: b\n")
    assert git_state(recipe) == {"commit": commit, "dirty": True}
    git("checkout", ".")
    (tmp_path / "new.yaml").write_text("name: c\n")
    assert git_state(recipe) == {"commit": commit, "dirty": False}
    assert git_state(tmp_path / "new.yaml") == {"commit": commit, "dirty": True}


def test_the_source_of_an_editable_install(install: Callable[..., Path]) -> None:
    entry = {"kikimimi.normalisers": {"floating": "floating_module:A"}}
    site = install("floating", entry, {"floating_module": "A = 1"})
    assert source_digest("floating") is None  # its version says what runs
    assert source_digest("no-such-distribution") is None
    (info,) = site.glob("*.dist-info")
    (info / "direct_url.json").write_text('{"url": "file:///x", "dir_info": {"editable": true}}')
    digest = source_digest("floating")
    assert digest is not None
    assert re.fullmatch(r"[0-9a-f]{64}", digest)
    (site / "floating_module.py").write_text("A = 2")
    from kikimimi.run.source import _digest

    _digest.cache_clear()
    assert source_digest("floating") not in (digest, None)


def test_a_change_says_what(tmp_path: Path) -> None:
    assert str(Change("a.b", None, 3)) == "a.b: locked (nothing), now 3"


def text_of(run: RunFolder) -> tuple[Path, str]:
    path = run.path / "recipe.yaml"
    return path, path.read_text(encoding="utf-8")


@pytest.mark.fault("Our files: a recipe that is not the one that was locked", "refused where cut, else said")
def test_a_recipe_that_was_cut_short_is_refused_wherever_it_was(run: RunFolder) -> None:
    """Also where what is left is a recipe: of fewer stages, or without the evaluations."""
    path, text = text_of(run)
    still = 0
    for cut in range(len(text.rstrip()) - 1, 0, -1):
        if text[cut] != "\n" and text[cut - 1] != "\n":
            continue  # a line is whole or gone
        path.write_text(text[:cut], encoding="utf-8")
        with pytest.raises(DamagedError, match=r"recipe\.yaml: .* Restore it .*; lock\.json has") as e:
            RunFolder.open(run.path)
        still += "is cut short: lock.json has more of it" in str(e.value)
    assert still > 50
    path.write_text(text.rstrip(), encoding="utf-8")
    assert RunFolder.open(run.path).recipe == run.recipe


@pytest.mark.fault("Our files: a recipe that is not the one that was locked", "refused where cut, else said")
def test_an_edited_recipe_is_said_once_and_taken(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    path, text = text_of(run)
    path.write_text(text.replace("accelerator: cpu", "accelerator: gpu"), encoding="utf-8")
    assert RunFolder.open(run.path).recipe.trainer.accelerator == "gpu"
    assert capsys.readouterr().err == ""  # the hardware may change
    path.write_text(text.replace("steps: 8", "steps: 9").replace("held.tar", "moved.tar"), encoding="utf-8")
    for _ in range(2):
        assert RunFolder.open(run.path).recipe.stages["asr"].steps == 9
    said = "recipe.yaml is not the recipe that was locked: stages.asr.steps: locked 8, now 9 (and 1 other). "
    assert capsys.readouterr().err == f"{run.path}: {said}lock.json has its text, under recipe.yaml\n"
    run.weights_before("asr", "8-steps").parent.mkdir()
    run.weights_before("asr", "8-steps").touch()
    tell_difference.cache_clear()
    RunFolder.open(run.path)
    assert capsys.readouterr().err == ""  # --extend was killed before it wrote the lock


SPOILT: list[tuple[list[Any], Any]] = [
    (["plugins", "llm"], 10**30),
    (["plugins", "llm", "version"], []),
    (["plugins", "evaluate.later.task", "name"], None),
    (["plugins", "encoder", "weights"], [1]),
    (["plugins", "encoder", "weights", "source"], True),
    (["sessions", 0, "began"], []),
    (["sessions", 0, "kept"], 5),
    (["recipe", "yaml"], 5),
    (["recipe", "sha256"], "x"),
    (["data", "evaluate.later"], []),
]


@pytest.mark.fault("Our files: values of other types in a lock", "said, or an error, with what to do")
@pytest.mark.parametrize(("place", "value"), SPOILT)
def test_a_lock_of_other_types_is_said_with_what_to_do(
    run: RunFolder, capsys: pytest.CaptureFixture[str], place: list[Any], value: Any
) -> None:
    found = inner = held(run)
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    (run.path / "lock.json").write_text(json.dumps(found))
    for _ in range(2):
        assert RunFolder.open(run.path).recipe == run.recipe
    (line,) = capsys.readouterr().err.splitlines()
    said = re.escape("recipe: it is not as it was written" if value == "x" else ".".join(map(str, place)))
    assert re.match(rf"{re.escape(str(run.path))}: lock\.json: {said}.*: the next session writes a new", line)
    with pytest.raises(DamagedError, match=rf"lock\.json: {said}"):
        keep_lock(run)
    (run.path / "lock.json").unlink()
    tell_difference.cache_clear()
    RunFolder.open(run.path)
    assert capsys.readouterr().err == ""

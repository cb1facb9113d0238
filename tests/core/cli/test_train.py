"""`kikimimi train`: what it refuses, what it goes on with, and what it calls its run folders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kikimimi.recipe import digest, load_recipe
from kikimimi.run.folder import RunFolder

Cli = Callable[..., Any]
QUICKSTART = Path(__file__).parents[3] / "recipes" / "quickstart.yaml"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def recipe(recipe_file: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(recipe_file, tmp_path / "small.yaml"))


def edit(path: Path, old: str, new: str) -> int:
    """Replace text in a file; return the number of its line."""
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), encoding="utf-8")
    return text[: text.index(old)].count("\n") + 1


def test_train_then_again(cli: Cli, recipe: Path) -> None:
    done = cli("train", recipe)
    assert (done.code, done.out) == (0, "runs/small\n")
    assert "run folder: runs/small\n" in done.err
    assert done.err.endswith("next: kikimimi evaluate runs/small\n")
    weights = Path("runs/small/weights/asr.safetensors")
    written = weights.stat().st_mtime_ns
    for source in (recipe, Path("runs/small")):
        again = cli("train", source)
        assert (again.code, again.out) == (0, "runs/small\n")
        assert "runs/small: already trained\n" in again.err
    assert weights.stat().st_mtime_ns == written


def test_an_interrupted_run_goes_on(
    cli: Cli, recipe: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(
            "kikimimi.training.train.run_stage", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        done = cli("train", recipe)
    assert done.code == 130
    assert done.err.endswith("\nstopped. Run the same command again: it goes on from here.\n")
    assert done.out == ""
    assert cli("train", recipe).code == 0
    assert RunFolder.open(tmp_path / "runs" / "small").finished("asr")


def test_out(cli: Cli, recipe: Path) -> None:
    done = cli("train", recipe, "--out", "elsewhere")
    assert (done.code, done.out) == (0, "elsewhere/small\n")
    assert not Path("runs").exists()
    assert cli("train", "elsewhere/small").code == 0
    done = cli("train", "elsewhere/small", "--out", "runs")
    assert done.code == 2
    assert "elsewhere/small is a run folder, and it goes on where it is: leave out --out runs" in done.err


def test_variations_have_folders_of_their_own(cli: Cli, recipe: Path) -> None:
    variations = (
        ("adapter.downsample=2",),
        ("adapter.downsample=8",),
        ("adapter.downsample=8", "stages.asr.steps=1"),
    )
    for overrides in variations:
        assert cli("train", recipe, *overrides).code == 0
    folders = sorted(path.name for path in Path("runs").iterdir())
    assert folders == [
        "small--adapter.downsample=2",
        "small--adapter.downsample=8",
        "small--adapter.downsample=8,stages.asr.steps=1",
    ]
    done = cli("train", recipe, "stages.asr.steps=1", "adapter.downsample=8")
    assert "already trained" in done.err
    assert len(list(Path("runs").iterdir())) == 3
    assert RunFolder.open(Path("runs/small--adapter.downsample=2")).recipe.adapter.config.downsample == 2


def test_a_typo_in_a_recipe(cli: Cli, recipe: Path) -> None:
    line = edit(recipe, "hidden_dim: 32", "hiden_dim: 32")
    done = cli("train", recipe)
    assert (done.code, done.out) == (2, "")
    assert f"{recipe}:{line}" in done.err
    assert "adapter.hiden_dim" in done.err
    assert "Did you mean 'hidden_dim'?" in done.err
    assert not Path("runs").exists()


def test_all_mistakes_are_told_at_once(cli: Cli, recipe: Path) -> None:
    edit(recipe, "name: mlp", "name: mpl")
    edit(recipe, "steps: 2", "steps: two")
    done = cli("train", recipe, "trainer.log_evry=1")
    assert done.code == 2
    assert "3 problems in the recipe:" in done.err
    for part in ("no adapter is called 'mpl'. Did you mean 'mlp'?", "stages.asr.steps", "'log_every'"):
        assert part in done.err


def test_no_such_recipe(cli: Cli, recipe: Path) -> None:
    done = cli("train", "smal.yaml")
    assert (done.code, done.err) == (2, "error: there is no recipe smal.yaml. Did you mean 'small.yaml'?\n")


def test_a_folder_that_is_no_run(cli: Cli) -> None:
    Path("data").mkdir()
    done = cli("train", "data")
    assert (done.code, done.err) == (2, "error: data is not a run folder (it has no recipe.yaml)\n")


def test_the_quickstart_recipe_without_its_data(cli: Cli) -> None:
    done = cli("train", QUICKSTART)
    assert (done.code, done.out) == (2, "")
    assert "data/quickstart/train/*.tar: nothing matches" in done.err
    assert "'kikimimi quickstart' makes those of its own recipe" in done.err


def test_a_missing_shard_is_named_and_the_mended_recipe_taken(cli: Cli, recipe: Path) -> None:
    shard = load_recipe(recipe).stages["asr"].data["tones"].shards
    edit(recipe, shard, "none.tar")
    done = cli("train", recipe)
    assert done.code == 2
    assert "none.tar: shard none.tar does not exist. 'kikimimi data pack' makes shards" in done.err
    edit(recipe, "none.tar", shard)
    done = cli("train", recipe)
    assert done.code == 0, done.err
    assert RunFolder.open(Path("runs/small")).recipe == load_recipe(recipe)


def test_a_missing_index(cli: Cli, recipe: Path, tmp_path: Path) -> None:
    shard = load_recipe(recipe).stages["asr"].data["tones"].shards
    copy = Path(shutil.copy(shard, tmp_path / "copy.tar"))
    edit(recipe, shard, str(copy))
    done = cli("train", recipe)
    assert done.code == 2
    assert f"error: {copy}: has no index. Make it with: kikimimi data index {copy}" in done.err
    assert cli("data", "index", copy).code == 0
    assert cli("train", recipe).code == 0


def test_a_damaged_shard_fails_the_work(cli: Cli, recipe: Path, tmp_path: Path) -> None:
    shard = Path(load_recipe(recipe).stages["asr"].data["tones"].shards)
    copy = Path(shutil.copy(shard, tmp_path / "copy.tar"))
    shutil.copy(f"{shard}.index.safetensors", f"{copy}.index.safetensors")
    content = bytearray(copy.read_bytes())
    content[700] ^= 1
    copy.write_bytes(content)
    edit(recipe, str(shard), str(copy))
    done = cli("train", recipe)
    assert done.code == 1
    assert f"error: {copy}" in done.err
    assert "SHA-256 differs" in done.err


def test_a_clip_longer_than_the_window_is_refused_and_named(cli: Cli, recipe: Path) -> None:
    done = cli("train", recipe, "encoder.sizes.num_positions=50")
    assert done.code == 1
    assert "tones: " in done.err
    assert "of 8 records have clips longer than the encoder takes (1 s)" in done.err
    assert "Nothing is cut" in done.err


def test_a_run_of_another_recipe(cli: Cli, recipe: Path) -> None:
    assert cli("train", recipe).code == 0
    edit(recipe, "steps: 2", "steps: 3")
    done = cli("train", recipe)
    assert done.code == 2
    assert (
        "runs/small holds a run of another recipe (stages.asr.steps: there 2, here 3). Choose another --out"
        in done.err
    )


def test_changes_to_a_run(cli: Cli, trained: Path) -> None:
    done = cli("train", trained, "adapter.downsample=8")
    assert done.code == 2
    assert f"{trained} keeps its recipe (adapter.downsample: there 4, here 8)." in done.err
    assert "It can go on with another trainer.accelerator, trainer.strategy, " in done.err
    assert "kikimimi train RECIPE.yaml adapter.downsample=8" in done.err


def test_a_finished_stage_is_lengthened(cli: Cli, recipe: Path) -> None:
    assert cli("train", recipe).code == 0
    assert "stages.NAME.steps=N --extend" in cli("train", "runs/small", "stages.asr.steps=4").err
    done = cli("train", "runs/small", "stages.asr.steps=4", "--extend")
    assert done.code == 0, done.err
    assert "stage asr: lengthened from 2 to 4 steps. What it had left: runs/small/weights/asr.2" in done.err
    assert "stage asr: going on after step 2" in done.err
    again = cli("train", "runs/small/lock.json", "--out", "again")
    assert again.code == 0, again.err
    assert (
        "stage asr: was lengthened from 2 to 4 steps, and is now trained in one: the same only" in again.err
    )
    weights = (Path(run) / "small" / "weights" / "asr.safetensors" for run in ("runs", "again"))
    assert len({path.read_bytes() for path in weights}) == 1  # the rate is constant
    done = cli("train", recipe, "--extend")
    assert done.code == 2
    assert f"{recipe} is no run folder, and --extend lengthens a stage of one" in done.err


def test_a_folder_of_something_else(cli: Cli, recipe: Path) -> None:
    Path("runs/small").mkdir(parents=True)
    Path("runs/small/notes.txt").write_text("mine")
    done = cli("train", recipe)
    assert done.code == 2
    assert "runs/small exists and is not a run folder" in done.err
    assert Path("runs/small/notes.txt").read_text() == "mine"


def test_the_lock_names_what_the_run_was_made_of(trained: Path) -> None:
    lock = json.loads((trained / "lock.json").read_text())
    assert lock["recipe"]["sha256"] == digest(RunFolder.open(trained).recipe)
    assert lock["plugins"]["encoder"]["weights"] == {"source": "random"}
    assert set(lock["libraries"]) >= {"kikimimi", "torch", "pytorch-lightning", "transformers"}


def test_locked(cli: Cli, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = cli("train", recipe, "--locked")
    assert done.code == 2
    assert "runs/small has no lock.json to hold it to. The first 'kikimimi train' writes it" in done.err
    assert cli("train", recipe).code == 0
    for source in (recipe, Path("runs/small")):
        assert cli("train", source, "--locked").code == 0
    monkeypatch.setattr("platform.python_version", lambda: "3.99.0")
    for source in (recipe, Path("runs/small")):
        done = cli("train", source, "--locked")
        assert done.code == 2
        assert "runs/small/lock.json: 1 thing is not what was locked:\n  python: locked 3." in done.err


def test_a_lock_is_trained_again(cli: Cli, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = Path("runs/small/lock.json")
    assert cli("train", recipe).code == 0
    done = cli("train", lock)
    assert done.code == 2
    assert "runs/small/lock.json is the lock of a run: say with --out where its repetition goes" in done.err
    done = cli("train", lock, "--out", "runs")
    assert done.code == 2
    assert "runs/small is the run that runs/small/lock.json locks. Choose another --out" in done.err
    recipe.unlink()
    done = cli("train", lock, "--out", "again")
    assert (done.code, done.out) == (0, "again/small\n")
    again = Path("again/small")
    for name in ("recipe.yaml", "weights/asr.safetensors"):
        assert (again / name).read_bytes() == (lock.parent / name).read_bytes()
    monkeypatch.setattr("platform.python_version", lambda: "3.99.0")
    done = cli("train", lock, "--out", "third")
    assert done.code == 2
    assert "runs/small/lock.json: 1 thing is not what was locked:\n  python: locked 3." in done.err
    assert not Path("third").exists()

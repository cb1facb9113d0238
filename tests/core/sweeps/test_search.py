"""A search that goes on with other levels, ranges or seeds than it began with; nothing is trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kikimimi.errors import RequestError
from kikimimi.sweeps.plan_of_runs import Sweep
from kikimimi.sweeps.search import Searcher
from kikimimi.sweeps.sweep_folder import SweepFolder

LR = "stages.asr.train.adapter.lr"
Runs = list[tuple[str, str, str]]
Begun = tuple[Sweep, Runs]


def drawn(sweep: Sweep, out: Path) -> Runs:
    """Draw all that a search has still to draw; return its runs, as setting, seed and hash."""
    pytest.importorskip("optuna")
    folder = SweepFolder.create(out, sweep)
    searcher = Searcher(folder)
    while searcher.next_run():
        pass
    return [(run.setting, run.seed, run.digest) for run in SweepFolder.open(folder.path).runs]


@pytest.fixture
def begun(recipe_file: Path, tmp_path: Path) -> Begun:
    """A search of which two settings are drawn, and its runs."""
    sweep = Sweep(name="some", recipe=recipe_file, search="random", runs=2)
    sweep = sweep.changed([f"{LR}=1e-5..1e-1:log", "adapter=mlp,conv", "seed=0"]).complete()
    return sweep, drawn(sweep, tmp_path)


def test_a_seed_that_is_added_is_one_of_the_settings_that_are_drawn(begun: Begun, tmp_path: Path) -> None:
    sweep, before = begun
    after = drawn(sweep.changed(["seed=0,1"]), tmp_path)
    assert [(setting, seed) for setting, seed, _ in after] == [
        (setting, seed) for setting, _, _ in before for seed in ("0", "1")
    ]
    assert {digest for *_, digest in before} < {digest for *_, digest in after}


def test_settings_outside_of_new_ranges_are_left_out(
    begun: Begun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep, before = begun
    rates = sorted(float(setting.split(",")[0].removeprefix("lr=")) for setting, _, _ in before)
    middle = sum(rates) / 2
    after = drawn(sweep.changed([f"{LR}={middle!r}..1.0"]), tmp_path)
    assert len(after) == 2
    assert set(after) & set(before) == {run for run in before if f"lr={rates[1]:.4g}," in run[0]}
    assert "left out  1 setting drawn before that this search has not" in capsys.readouterr().err


def test_levels_that_are_gone_are_left_out(begun: Begun, tmp_path: Path) -> None:
    sweep, _ = begun
    after = drawn(sweep.changed(["adapter=ctc,cif"]), tmp_path)
    assert len(after) == 2
    assert all("adapter=c" in setting for setting, _, _ in after)


def test_what_all_runs_change_holds_for_settings_that_are_drawn(begun: Begun, tmp_path: Path) -> None:
    sweep, before = begun
    after = drawn(sweep.changed(["stages.asr.steps=3"]), tmp_path)
    assert [run[:2] for run in after] == [run[:2] for run in before]
    assert not {run[2] for run in after} & {run[2] for run in before}


def test_what_is_wrong_is_said_once(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = Sweep(name="some", recipe=recipe_file, search="random", runs=6)
    sweep = sweep.changed(["adapter=mlp,conv", "adapter.downsample=1..2"]).complete()
    assert [factor.to_words() for factor in sweep.factors] == ["mlp, conv", "1 to 2, whole numbers"]
    assert len(drawn(sweep, tmp_path)) == 2
    said = capsys.readouterr().err.splitlines()
    assert sorted(line.partition(": ")[0] for line in said if line.startswith("left out")) == [
        "left out  adapter=conv, adapter.downsample=1",
        "left out  adapter=conv, adapter.downsample=2",
    ]


def test_what_is_trained_is_not_pruned(begun: Begun, tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna")
    sweep, _ = begun
    searcher = Searcher(SweepFolder.create(tmp_path, sweep))
    searcher._curves.pruner = optuna.pruners.ThresholdPruner(upper=1.0)
    runs = [searcher.next_run(), searcher.next_run()]
    for run in runs:
        assert run is not None
        lines = [{"stage": "asr", "step": step, "validation_loss": 5.0} for step in (1, 2)]
        (run.path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert runs[0]
    assert runs[1]
    weights = runs[1].path / "weights" / "asr.safetensors"
    weights.parent.mkdir()
    weights.touch()
    assert searcher.is_hopeless(runs[0]).startswith("validation loss 5 at step 2")
    assert not searcher.is_hopeless(runs[1])


def test_seeds_are_not_drawn(recipe_file: Path) -> None:
    sweep = Sweep(name="", recipe=recipe_file, search="random", runs=2).changed(["seed=0..5"])
    with pytest.raises(RequestError, match="seed: a search draws none"):
        sweep.complete()

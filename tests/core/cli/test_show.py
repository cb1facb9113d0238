"""`kikimimi show`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kikimimi import __version__
from kikimimi.inference.load import load_model
from kikimimi.recipe import load_recipe, to_yaml
from kikimimi.run.folder import RunFolder

Cli = Callable[..., Any]


def counts(run: Path) -> dict[str, int]:
    model = load_model(RunFolder.open(run))
    return {
        part: sum(p.numel() for p in getattr(model, part).parameters())
        for part in ("encoder", "adapter", "llm")
    }


def test_what_is_shown_is_the_same_recipe(cli: Cli, recipe_file: Path, tmp_path: Path) -> None:
    overrides = ["adapter.downsample=8", "seed=3"]
    done = cli("show", recipe_file, *overrides)
    assert (done.code, done.err) == (0, "")
    shown = tmp_path / "shown.yaml"
    shown.write_text(done.out, encoding="utf-8")
    recipe = load_recipe(shown)
    assert recipe == load_recipe(recipe_file, overrides)
    assert (recipe.adapter.config.downsample, recipe.seed) == (8, 3)
    assert cli("show", shown).out == done.out


def test_the_figures_are_those_of_the_model(cli: Cli, recipe_file: Path, trained: Path) -> None:
    expected = counts(trained)
    for source in (recipe_file, trained):
        rows = json.loads(cli("show", source, "--json").out)
        assert {row["kind"]: row["parameters"] for row in rows} == expected
        assert {row["kind"]: row["trainable"] for row in rows} == {**expected, "encoder": 0}
        assert [row["problem"] for row in rows] == [None] * 3
        assert {row["distribution"] for row in rows} == {"kikimimi"}
        assert {row["version"] for row in rows} == {__version__}
        assert [row["weights"] for row in rows] == ["random", "random", "random"]


def test_the_comments_on_top_hold_the_figures(cli: Cli, trained: Path) -> None:
    expected = counts(trained)
    lines = cli("show", trained).out.splitlines()
    assert lines[0].split() == ["#", "part", "name", "distribution", "parameters", "trainable", "weights"]
    fields = [line.split() for line in lines[1:4]]
    assert [row[1] for row in fields] == ["encoder", "adapter", "llm"]
    assert [row[5] for row in fields] == [f"{expected[row[1]]:,}" for row in fields]
    assert [row[6] for row in fields] == ["0", f"{expected['adapter']:,}", f"{expected['llm']:,}"]
    assert lines[4] == "name: small"


def test_without_data_the_reason_is_given(cli: Cli, recipe_file: Path, trained: Path, tmp_path: Path) -> None:
    shard = load_recipe(recipe_file).stages["asr"].data["tones"].shards
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(recipe_file.read_text(encoding="utf-8").replace(shard, "none.tar"), encoding="utf-8")
    done = cli("show", recipe)
    assert done.code == 0
    assert (
        "# llm: a lower bound, without the tokens that the training data will bring: none.tar: " in done.out
    )
    assert to_yaml(load_recipe(recipe)).strip() in done.out
    rows = json.loads(cli("show", recipe, "--json").out)
    expected = counts(trained)
    assert [row["parameters"] for row in rows[:2]] == [expected["encoder"], expected["adapter"]]
    assert 0 < rows[2]["parameters"] < expected["llm"]
    assert rows[2]["trainable"] == rows[2]["parameters"]
    assert "none.tar: shard none.tar does not exist" in rows[2]["problem"]


def test_nothing_is_computed_on_real_weights(
    cli: Cli, recipe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices: list[str] = []
    whole = torch.nn.Linear.__init__

    def watched(self: torch.nn.Linear, *args: Any, **kwargs: Any) -> None:
        whole(self, *args, **kwargs)
        devices.append(self.weight.device.type)

    monkeypatch.setattr(torch.nn.Linear, "__init__", watched)
    assert cli("show", recipe_file).code == 0
    assert set(devices) == {"meta"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("adapter.downsampel=8", "Did you mean 'downsample'?"),
        ("adapter.downsample=0", "adapter.downsample"),
        ("adapter=mpl", "no adapter is called 'mpl'. Did you mean 'mlp'?"),
    ],
)
def test_wrong_changes(cli: Cli, recipe_file: Path, change: str, message: str) -> None:
    done = cli("show", recipe_file, change)
    assert (done.code, done.out) == (2, "")
    assert message in done.err


def test_weights_that_are_not_at_hand(cli: Cli, recipe_file: Path) -> None:
    change = "encoder={name: whisper, weights: 'package:no_such_package_here'}"
    done = cli("show", recipe_file, change)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert [line.split()[5:7] for line in lines[1:3]] == [["?", "?"], ["?", "?"]]
    assert lines[4].startswith("# encoder: ")
    assert "no_such_package_here" in lines[4]
    assert "# adapter: its size follows from that of the encoder, which is not known" in lines
    assert to_yaml(load_recipe(recipe_file, [change])).strip() in done.out
    rows = json.loads(cli("show", recipe_file, change, "--json").out)
    assert [row["parameters"] for row in rows][:2] == [None, None]
    assert rows[2]["parameters"] > 0


def test_a_run_is_shown_as_it_is(cli: Cli, trained: Path) -> None:
    done = cli("show", trained, "seed=3")
    assert (done.code, done.out) == (2, "")
    assert f"To look at a change: kikimimi show {trained / 'recipe.yaml'} seed=3" in done.err

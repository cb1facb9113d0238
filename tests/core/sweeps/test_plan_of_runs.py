from __future__ import annotations

from pathlib import Path

import pytest

from kikimimi.errors import RequestError
from kikimimi.sweeps.plan_of_runs import Sweep
from kikimimi.sweeps.sweep_file import find_sweep, read_sweep

FILE = """
recipe: small.yaml
changes: {stages.asr.steps: 3}
factors:
  adapter: {plain: mlp, convolved: {name: conv, hidden_dim: 16}}
  stages.asr.train.llm.lr: [1.0e-3, 2.0e-3]
variants:
  size:
    small: {}
    large: {adapter.hidden_dim: 64}
seeds: [0, 1]
exclude:
  - {adapter: convolved, size: large}
  - {adapter: plain, stages.asr.train.llm.lr: [0.002]}
compare: [held_out]
"""

SMALL = ["0.001/small", "0.002/small"]


def settings(sweep: Sweep) -> list[str]:
    return ["/".join(level.label for level in one.values()) for one in sweep.grid()]


def line(recipe: Path, *changes: str) -> Sweep:
    return Sweep(name="", recipe=recipe).changed(changes).complete()


def test_every_combination_of_a_line_the_seed_last(recipe: Path) -> None:
    sweep = line(recipe, "seed=0,1", "adapter=mlp,conv", "stages.asr.steps=5")
    assert settings(sweep) == ["mlp/0", "mlp/1", "conv/0", "conv/1"]
    assert sweep.size == 4
    first = next(sweep.grid())
    assert sweep.changes_of(first) == ["stages.asr.steps=5", "adapter=mlp", "seed=0"]
    assert sweep.recipe_of(first).stages["asr"].steps == 5


def test_a_file_says_the_same_and_more(recipe: Path) -> None:
    file = recipe.with_name("sizes.yaml")
    file.write_text(FILE, encoding="utf-8")
    assert find_sweep(file) == file
    assert find_sweep(recipe) is None
    sweep = read_sweep(file).complete()
    assert sweep.name == "sizes"
    assert settings(sweep) == [
        "plain/0.001/small/0",
        "plain/0.001/small/1",
        "plain/0.001/large/0",
        "plain/0.001/large/1",
        "convolved/0.001/small/0",
        "convolved/0.001/small/1",
        "convolved/0.002/small/0",
        "convolved/0.002/small/1",
    ]
    large = next(one for one in sweep.grid() if one["size"].label == "large")
    assert "adapter.hidden_dim=64" in sweep.changes_of(large)
    assert Sweep.from_json(sweep.to_json()) == sweep


def test_the_line_changes_a_file(recipe: Path) -> None:
    file = recipe.with_name("sizes.yaml")
    file.write_text(FILE, encoding="utf-8")
    sweep = read_sweep(file, ["seed=7,8", "stages.asr.steps=9"]).complete()
    assert settings(sweep)[:2] == ["plain/0.001/small/7", "plain/0.001/small/8"]
    assert sweep.changes == ("stages.asr.steps=9",)
    varied = read_sweep(file, ["stages.asr.steps=3,9"]).complete()
    assert not varied.changes
    assert varied.factors[-2].to_words() == "3, 9"


@pytest.mark.parametrize(
    ("change", "left"),
    [
        ("adapter=convolved", ["convolved/0.001/small", "convolved/0.002/small"]),
        ("size=small", ["plain/0.001/small", "convolved/0.001/small", "convolved/0.002/small"]),
        ("size=large", ["plain/0.001/large"]),
        ("adapter=mlp,convolved", ["mlp/0.001/small", "mlp/0.001/large", *(f"convolved/{x}" for x in SMALL)]),
    ],
)
def test_the_line_calls_levels_of_a_file_by_name(recipe: Path, change: str, left: list[str]) -> None:
    file = recipe.with_name("sizes.yaml")
    file.write_text(FILE, encoding="utf-8")
    sweep = read_sweep(file, [change, "seed=0"]).complete()
    assert settings(sweep) == left
    for one in sweep.grid():
        adapter = sweep.recipe_of(one).adapter.name
        assert adapter == ("conv" if one["adapter"].label == "convolved" else "mlp")


@pytest.mark.parametrize("change", ["size=lrge", "size=small,lrge"])
def test_a_level_that_a_file_does_not_have(recipe: Path, change: str) -> None:
    file = recipe.with_name("sizes.yaml")
    file.write_text(FILE, encoding="utf-8")
    with pytest.raises(RequestError, match=r"size: there is no level lrge\. Did you mean 'large'"):
        read_sweep(file, [change])


EXCLUDES = """
recipe: small.yaml
factors:
  adapter.downsample: [2, 4, 8]
  stages.asr.train.adapter.lr: {low: 3.0e-4, high: 1.0e-3}
exclude:
  - {adapter.downsample: 2, stages.asr.train.adapter.lr: high}
  - {adapter.downsample: [4, 8], stages.asr.train.adapter.lr: low}
"""


@pytest.mark.parametrize(
    ("change", "left"),
    [
        ("adapter.downsample=2", ["low"]),
        ("adapter.downsample=8", ["high"]),
        ("adapter.downsample=16", ["low", "high"]),
        ("adapter.downsample=2,8", ["2/low", "8/high"]),
        ("stages.asr.train.adapter.lr=3e-4,0.002", ["2/0.0003", "2/0.002", "4/0.002", "8/0.002"]),
    ],
)
def test_what_a_file_excludes_holds_for_what_the_line_leaves_of_it(
    recipe: Path, change: str, left: list[str]
) -> None:
    file = recipe.with_name("some.yaml")
    file.write_text(EXCLUDES, encoding="utf-8")
    assert settings(read_sweep(file, [change]).complete()) == left


def test_a_line_that_leaves_what_is_excluded_alone(recipe: Path) -> None:
    file = recipe.with_name("some.yaml")
    file.write_text(EXCLUDES, encoding="utf-8")
    with pytest.raises(RequestError, match="leaves out every combination"):
        read_sweep(file, ["adapter.downsample=4", "stages.asr.train.adapter.lr=3e-4", "seed=0,1"]).complete()


def test_another_budget_is_the_same_sweep(recipe: Path) -> None:
    ranged = Sweep(name="", recipe=recipe, search="random", runs=3).changed(["adapter.hidden_dim=8..64"])
    more = Sweep(name="", recipe=recipe, search="random", runs=9).changed(["adapter.hidden_dim=8..64"])
    assert ranged.complete().name == more.complete().name


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["stages.asr.steps=5"], "nothing is varied"),
        (["adapter.hidden_dim=8..64"], "is a range, from which a search draws"),
        (["seed=0,1", "seed=3"], "as a factor and as one value"),
    ],
)
def test_what_is_no_sweep_is_told(recipe: Path, changes: list[str], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        line(recipe, *changes)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("{adapter: convolved, size: large}", "{adaptor: convolved}", "Did you mean 'adapter'"),
        (
            "{adapter: convolved, size: large}",
            "{adapter: mlp}",
            "there is no level mlp. Levels: convolved, plain",
        ),
        ("seeds: [0, 1]", "seed: [0, 1]", "no option 'seed'"),
        ("  size:\n", "  adapter:\n", "adapter: two of factors, variants, ranges and seeds"),
        ("recipe: small.yaml", "recipe: small.yaml\nsearch: random", "needs a budget"),
        (
            "hidden_dim: 64}",
            "hidden_dim: 64, seed: 5}",
            "size, large: what repeats a setting is told by seed",
        ),
        ("  size:\n", "  seed: {one: {}}\n  size:\n", "seed: two of factors, variants, ranges and seeds"),
        ("seeds: [0, 1]", "ranges: {adapter: {low: 1, high: 2}}", "adapter: two of factors"),
        ("compare: [held_out]", "ranges: {x: {low: 1, high: 0}}", "the smaller end comes first"),
    ],
)
def test_what_is_wrong_in_a_file_is_told(recipe: Path, old: str, new: str, said: str) -> None:
    file = recipe.with_name("sizes.yaml")
    assert old in FILE
    file.write_text(FILE.replace(old, new), encoding="utf-8")
    with pytest.raises(RequestError, match=said):
        read_sweep(file).complete()

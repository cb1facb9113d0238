"""Recipes of strangers: what is too much is said in seconds, and numbers are those of YAML 1.2."""

from __future__ import annotations

import difflib
import re
import sys
from collections import Counter
from typing import Any

import pytest

from kikimimi.errors import RecipeError
from kikimimi.recipe import load_recipe
from kikimimi.recipe.resolve import shipped_recipe
from kikimimi.recipe.source import MOST_PROBLEMS
from kikimimi.run.folder import run_name

pytestmark = pytest.mark.fault("Limits: recipes", "what is too much is said in seconds")

OPTION = "  downsample: 8\n"


def _problems(*args: Any) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(*args)
    return list(caught.value.problems)


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """List the names that a nearest one was looked for, which is what takes long."""
    names: list[str] = []
    find = difflib.get_close_matches

    def noted(name: str, *args: Any, **options: Any) -> list[str]:
        names.append(name)
        return find(name, *args, **options)

    monkeypatch.setattr(difflib, "get_close_matches", noted)
    return names


def test_a_million_keys(write: Any, base: str, compared: list[str]) -> None:
    path = write(base + "".join(f"key{number}: 1\n" for number in range(1_000_000)))
    (problem,) = _problems(path)
    assert "MB large; at most 1.05 MB are read" in problem
    few = _problems(write(base + "".join(f"key{number}: 1\n" for number in range(9_000))))
    assert len(few) == 100
    assert "What follows is looked at when these are mended" in few[-1]
    (many,) = _problems(write(base + "".join(f"k{number}: 1\n" for number in range(22_000))))
    assert "holds more than 20000 entries" in many
    (more,) = _problems(write(base + "".join(f"k{number}: 1\n" for number in range(30_000))))
    assert "holds more than 50,000 keys and values" in more
    assert len(compared) <= MOST_PROBLEMS


def _calls(path: Any) -> int:
    """Count the calls of functions and methods that reading a recipe of a hundred problems takes."""
    events: Counter[str] = Counter()
    before = sys.getprofile()
    sys.setprofile(lambda frame, event, given: events.update([event]))
    try:
        assert len(_problems(path)) == 100
    finally:
        sys.setprofile(before)
    return events["call"] + events["c_call"]


def test_many_names_are_compared_quickly(write: Any, base: str) -> None:
    """Twice as many are twice the work, not four times."""

    def work(count: int) -> int:
        names = "".join(f"  n{number}: {{}}\n" for number in range(count))
        return _calls(write(f"{base}evaluate:\n{names}"))

    work(200)  # what is imported and kept the first time is not counted
    assert work(1000) < 2.5 * work(500)
    assert (
        len(_problems(write(base + "evaluate:\n" + "".join(f"  n{n}: {{}}\n" for n in range(9_000))))) == 100
    )


FINITE, COUNT = "a finite number, not (inf|nan)", "must be at most 1000, not 1000000"


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("stages.asr.train.adapter.lr=.inf", FINITE),
        ("stages.asr.train.adapter.lr=.nan", "must be above 0"),
        ("stages.asr.train.adapter.lr=inf", FINITE),
        ("stages.asr.train.adapter.lr=1e999", FINITE),
        ("stages.asr.train.adapter.lr=-.inf", "must be above 0"),
        ("stages.asr.optimiser.beta1=.nan", "must be at least 0 and below 1, not nan"),
        ("stages.asr.optimiser.epsilon=.inf", FINITE),
        ("stages.asr.schedule.floor=.nan", "must be"),
        ("stages.asr.batch.seconds=.inf", FINITE),
        ("adapter.num_layers=1000000", COUNT),
        ("llm.scratch.num_layers=1000000", COUNT),
    ],
)
def test_numbers_without_end(option: str, said: str) -> None:
    (problem,) = _problems(shipped_recipe("quickstart"), [option])
    assert re.search(said, problem), problem


NUMBERS = [
    ("hidden_dim", "010", 10),
    ("hidden_dim", "+1", 1),
    ("hidden_dim", "0o17", 15),
    ("hidden_dim", "1_000", 1000),
    ("hidden_dim", '"1000"', 1000),
    ("hidden_dim", "1__0", None),
    ("hidden_dim", "0x1F", 31),
    ("hidden_dim", "0x1_F", None),
    ("hidden_dim", "1e3", None),
    ("hidden_dim", "1.0", None),
    ("hidden_dim", "1:30", None),
    ("hidden_dim", "0b11", None),
    ("hidden_dim", "no", None),
    ("hidden_dim", "１２", None),
    ("dropout", ".5", 0.5),
    ("dropout", "+.5", 0.5),
    ("dropout", "0.1_0", 0.1),
    ("dropout", "1e-1", 0.1),
    ("dropout", "0:30", None),
    ("bias", "no", False),
    ("bias", "off", False),
    ("words", "[no, on, 010, 1:30, 2024-01-01]", ["no", "on", "010", "1:30", "2024-01-01"]),
    ("free", "[no, on, 010, 1:30, 2024-01-01, 1_0]", ["no", "on", 10, "1:30", "2024-01-01", "1_0"]),
    ("layer", "1:30", "1:30"),
    ("layer", "010", 10),
]


@pytest.mark.parametrize(("option", "written", "value"), NUMBERS)
def test_a_file_and_the_command_line_agree(
    write: Any, base: str, option: str, written: str, value: Any
) -> None:
    in_file = write(base.replace(OPTION, f"  {option}: {written}\n"))
    if value is None:
        (problem,), (other,) = _problems(in_file), _problems(write(base), [f"adapter.{option}={written}"])
        assert f"adapter.{option}: expected a" in problem
        assert problem.rpartition(" (")[0] == other.rpartition(" (")[0]
        return
    found = getattr(load_recipe(in_file).adapter.config, option)
    assert (type(found), found) == (type(value), value)
    given = getattr(load_recipe(write(base), [f"adapter.{option}={written}"]).adapter.config, option)
    assert (type(given), given) == (type(value), value)


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan", "1e999"])
def test_no_option_takes_what_is_not_finite(write: Any, base: str, value: str) -> None:
    for option in ("dropout", "scales", "free", "norms"):
        written = {"scales": f"{{a: {value}}}", "free": f"[{value}]", "norms": f"[{{epsilon: {value}}}]"}
        problems = _problems(write(base.replace(OPTION, f"  {option}: {written.get(option, value)}\n")))
        assert any("must be a finite number" in problem for problem in problems), problems


def test_names_that_no_folder_can_have(write: Any, base: str) -> None:
    name = "n" * 151
    (problem,) = _problems(write(base.replace("name: base", f"name: {name}")))
    assert "name: has at most 150 characters, not 151: folders are called so" in problem
    (problem,) = _problems(write(base.replace("held_out:", f"{name}:")))
    assert "a name has at most 150 characters, not 151: folders are called so" in problem
    recipe = load_recipe(write(base.replace("name: base", f"name: {name[1:]}")))
    assert len(run_name(recipe.name, [f"adapter.words=[{'x' * 300}]"])) <= 255
    assert len(run_name(recipe.name, ["a=" + "あ" * 26])) <= 255


def test_what_leads_on_without_end(write: Any, base: str) -> None:
    (problem,) = _problems(write(base), ["a." * 5000 + "b=1"])
    assert "nested deeper than 40 levels (command line)" in problem
    chain = "".join(f"a{number}: ${{a{number + 1}}}\n" for number in range(3000))
    problems = _problems(write(f"{base}{chain}a3000: 1\n"))
    assert any("leads on through more than 40 keys: a0 -> ..." in problem for problem in problems)
    (problem,) = _problems(write(base), ["seed=" + "9" * 5000])
    assert "seed: '9999" in problem
    assert "(4,940 more characters)' is too long a number" in problem

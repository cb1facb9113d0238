from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kikimimi.cli import app
from kikimimi.contracts import registry
from kikimimi.errors import RecipeError
from kikimimi.recipe import load_recipe
from kikimimi.run.folder import RunFolder
from kikimimi.run.lock import lock, read_lock
from kikimimi.run.made_with import MadeWith, tell_difference
from kikimimi.testing import tiny_recipe, write_shard

GROUP = "kikimimi.normalisers"
LOWER = """
from kikimimi import Normaliser

class Lower(Normaliser):
    def __call__(self, text):
        return text.lower()
"""
RECIPE = "extends: recipes/quickstart.yaml\nevaluate: {held_out: {normaliser: lower}}\n"


@pytest.fixture
def run(install: Any, tmp_path: Path) -> Path:
    """Make a run that is scored by a third party's normaliser."""
    install("ears", {GROUP: {"lower": "third_a:Lower"}}, {"third_a": LOWER}, "1.2")
    recipe_file = tmp_path / "recipe.yaml"
    recipe_file.write_text(RECIPE.replace("recipes", str(Path(__file__).parents[3] / "recipes")))
    made = RunFolder.create(
        tmp_path / "run", tiny_recipe(load_recipe(recipe_file), write_shard(tmp_path / "data"))
    )
    made.write_json("lock.json", {**lock(made.recipe), "sessions": []})
    return made.path


def test_another_package_of_the_same_name_breaks_no_run(install: Any, run: Path) -> None:
    install("mouths", {GROUP: {"lower": "third_b:Lower"}}, {"third_b": LOWER}, "3.0")
    assert RunFolder.open(run).recipe.evaluate["held_out"].normaliser == "lower"
    _, repeated = read_lock(run / "lock.json", [])
    assert repeated.evaluate["held_out"].normaliser == "lower"
    assert registry.find("normaliser", "lower").distribution == "ears"


def test_another_package_breaks_no_run_of_which_an_option_names_the_plugin(
    install: Any, tmp_path: Path
) -> None:
    recipe_file = tmp_path / "recipe.yaml"
    summed = RECIPE.replace("evaluate: {held_out: {normaliser: lower}}", "stages: {asr: {objective: sum}}")
    recipe_file.write_text(summed.replace("recipes", str(Path(__file__).parents[3] / "recipes")))
    made = RunFolder.create(
        tmp_path / "run", tiny_recipe(load_recipe(recipe_file), write_shard(tmp_path / "data"))
    )
    made.write_json("lock.json", {**lock(made.recipe), "sessions": []})
    install("sums", {"kikimimi.objectives": {"ce": "third_sum:CE"}}, {"third_sum": "no module"})
    terms = RunFolder.open(made.path).recipe.stages["asr"].objective.config.terms
    assert terms["text"].component.__module__ == "kikimimi_objectives.ce"
    registry.refresh()
    with pytest.raises(RecipeError, match=r"objective\.terms\.text: objective 'ce' is claimed by"):
        load_recipe(made.path / "recipe.yaml")


def test_a_package_that_is_gone_is_named_with_its_version(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # as if it were uninstalled
    registry.refresh()
    said = "made with ears 1.2, which is not installed: pip install 'ears==1.2'"
    with pytest.raises(RecipeError, match=r"no normaliser is called 'lower'") as raised:
        RunFolder.open(run)
    assert f"{run}: {said}" in str(raised.value)
    with pytest.raises(RecipeError, match=r"no normaliser is called 'lower'") as raised:
        read_lock(run / "lock.json", [])
    assert f"{run / 'lock.json'}: {said}" in str(raised.value)
    assert said in str(CliRunner().invoke(app, ["data", "stats", str(run)]).exception)


def test_another_version_is_said_once(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held = json.loads((run / "lock.json").read_text())
    for origin in (held["plugins"]["evaluate.held_out.normaliser"], held["plugins"]["adapter"]):
        assert origin["version"]
        origin["version"] = "0.0.7"
    (run / "lock.json").write_text(json.dumps(held))
    for _ in range(2):
        RunFolder.open(run)
    said = capsys.readouterr().err
    assert said.count(f"{run}: made with ears 0.0.7, which is 1.2 now: pip install 'ears==0.0.7'\n") == 1


def test_other_code_is_said_by_what_works_with_it(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = json.loads((run / "lock.json").read_text())
    assert "kikimimi" in held["source"], "is the checkout not installed to be edited?"
    held["source"]["kikimimi"] = "0" * 64
    (run / "lock.json").write_text(json.dumps(held))
    said = f"{run}: made with other code of kikimimi {held['libraries']['kikimimi']} than is installed now"
    clip = run / "clip.wav"
    clip.write_bytes(b"no sound")
    for command in (["transcribe", str(run), str(clip)], ["evaluate", str(run)]):
        tell_difference.cache_clear()
        assert said in CliRunner().invoke(app, command).stderr.replace("\n", " ")
    monkeypatch.setattr("kikimimi.run.made_with.source_digest", lambda name: None)
    assert MadeWith.read(run / "lock.json").differences() == []  # installed by its version, which is the same


@pytest.mark.parametrize(
    "content", [None, "", "[]", "{}", '{"plugins": [1], "libraries": 2, "source": ["x"]}']
)
def test_a_lock_that_says_nothing_is_passed_over(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "lock.json").write_text(content)
    found = MadeWith.read(tmp_path / "lock.json")
    assert (found.plugins, dict(found.versions), found.differences()) == (frozenset(), {}, [])


def test_nothing_is_said_of_what_is_the_same(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line in MadeWith.read(run / "lock.json").differences():
        tell_difference(run, line)
    assert capsys.readouterr().err == ""

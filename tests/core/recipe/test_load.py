from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kikimimi.contracts import registry
from kikimimi.contracts.generation import Generation
from kikimimi.errors import RecipeError, RequestError
from kikimimi.recipe import Batching, Chosen, LoRA, Schedule, Train, Trainer, digest, load_recipe, to_yaml


def test_everything_is_resolved(load: Any, base: str) -> None:
    recipe = load(base)
    assert (recipe.name, recipe.seed, list(recipe.stages)) == ("base", 0, ["align", "tune"])
    assert recipe.encoder.component is registry.load("encoder", "ear")
    assert recipe.adapter.config == recipe.adapter.component.Config(downsample=8)
    assert recipe.llm.lora == LoRA(rank=4)
    assert recipe.encoder.lora is None
    align, tune = recipe.stages.values()
    assert align.train == {"adapter": Train(lr=1e-3)}
    assert align.batch == Batching(seconds=30.0, global_=4)
    assert isinstance(align.batch.seconds, float)
    assert align.data["clips"].shards == "clips-{00..11}.tar"
    assert align.data["clips"].weight is None
    assert tune.train["llm"] == Train(lr=1e-5, part="lora")
    assert tune.data["clips"].task.config.language == "ja"
    assert tune.data["talk"].task == Chosen(
        kind="task", name="talk", config=registry.load("task", "talk").Config()
    )
    assert tune.schedule == Schedule()
    held_out = recipe.evaluate["held_out"]
    assert held_out.generate == Generation()
    assert held_out.baselines["rival"].kind == "recogniser"
    assert held_out.baselines["rival"].config.weights == "org/rival"
    assert recipe.trainer == Trainer()


@pytest.mark.parametrize(
    ("option", "written", "value"),
    [
        ("dropout", "1e-4", 1e-4),
        ("dropout", "1", 1.0),
        ("dropout", ".5", 0.5),
        ("hidden_dim", "null", None),
        ("hidden_dim", "'12'", 12),
        ("bias", "false", False),
        ("activation", "relu", "relu"),
        ("norm", "{kind: rms, epsilon: 1e-6}", ("rms", 1e-6)),
        ("extra", "{}", ("layer", 1e-5)),
        ("extra", "null", None),
        ("norms", "[{kind: rms}, {}]", [("rms", 1e-5), ("layer", 1e-5)]),
        ("shape", "[3, 4]", (3, 4)),
        ("scales", "{a: 1, b: 2.5}", {"a": 1.0, "b": 2.5}),
        ("layer", "3", 3),
        ("layer", "'3'", "3"),
        ("layer", "first", "first"),
        ("cache", "a/b", Path("a/b")),
        ("free", "{a: [1, 2.5, true, yes, x, null]}", {"a": [1, 2.5, True, "yes", "x", None]}),
        # Texts are what is spelled: no is not false, 1e5 and 007 are no numbers, a date is no date.
        (
            "words",
            "[no, 1e5, 007, 2026-11-05, ～, null_, 'a', \"\\u3042\"]",
            ["no", "1e5", "007", "2026-11-05", "～", "null_", "a", "あ"],
        ),
        ("words", r"['a\${b}']", ["a${b}"]),
    ],
)
def test_options_of_every_type(load: Any, base: str, option: str, written: str, value: Any) -> None:
    def plain(found: Any) -> Any:
        if isinstance(found, list):
            return [plain(item) for item in found]
        return (found.kind, found.epsilon) if hasattr(found, "epsilon") else found

    recipe = load(base.replace("  downsample: 8\n", f"  {option}: {written}\n"))
    found = plain(getattr(recipe.adapter.config, option))
    assert found == value
    assert type(found) is type(value)


def test_enumerations_are_set_by_name(load: Any, base: str) -> None:
    assert load(base, "encoder.size=LARGE").encoder.config.size.value == 2


def test_short_form_of_a_component(load: Any, base: str) -> None:
    recipe = load(base.replace("encoder: {name: ear, weights: org/ear}", "encoder: ear"))
    assert recipe.encoder.config == recipe.encoder.component.Config()


def test_aliases_and_merge_keys(load: Any, base: str) -> None:
    text = base.replace("batch: {seconds: 30, global: 4}", "batch: &b {seconds: 30, global: 4}").replace(
        "    steps: 50\n", "    batch: {<<: *b, global: 2}\n    steps: 50\n"
    )
    assert load(text).stages["tune"].batch == Batching(seconds=30, global_=2)


def test_digest_is_of_the_resolved_text(load: Any, base: str) -> None:
    recipe = load(base)
    assert digest(recipe) == hashlib.sha256(to_yaml(recipe).encode()).hexdigest()
    assert digest(load(base, "trainer.log_every=10")) == digest(recipe)
    assert digest(load(base, "trainer.log_every=11")) != digest(recipe)


def test_missing_file(write: Any, base: str) -> None:
    write(base, "recipes/align.yaml")
    with pytest.raises(RequestError) as raised:
        load_recipe("recipes/algin.yaml")
    assert str(raised.value) == "there is no recipe recipes/algin.yaml. Did you mean 'align.yaml'?"
    assert not isinstance(raised.value, RecipeError)


def test_reading_a_recipe_needs_no_torch() -> None:
    script = "import kikimimi.recipe, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)

from __future__ import annotations

from typing import Any

import pytest


def test_other_keys_are_inserted_after_merging(load: Any, base: str) -> None:
    recipe = load(
        base,
        "name=other",
        "encoder.weights=runs/${name}-${stages.align.steps}/x",
        "adapter.hidden_dim=${adapter.downsample}",
        "stages.tune.batch=${stages.align.batch}",
        "stages.tune.clip=${stages.align.train.adapter.lr}",
        "llm.weights=${encoder.weights}",
    )
    assert recipe.encoder.config.weights == "runs/other-100/x"
    assert recipe.llm.config.weights == "runs/other-100/x"
    assert recipe.adapter.config.hidden_dim == 8
    assert recipe.stages["tune"].batch == recipe.stages["align"].batch
    assert recipe.stages["tune"].clip == 1e-3


def test_a_component_is_inserted(load: Any, base: str) -> None:
    recipe = load(base, "stages.align.data.clips.task=${stages.tune.data.clips.task}")
    assert recipe.stages["align"].data["clips"].task == recipe.stages["tune"].data["clips"].task
    named = load(base, "stages.align.data.clips.task=${stages.tune.data.clips.task.name}")
    assert named.stages["align"].data["clips"].task.name == "write_down"


def test_escaped_and_ordinary_braces(load: Any, base: str) -> None:
    assert load(base, r"encoder.weights=a\${name}{0..3}$x").encoder.config.weights == "a${name}{0..3}$x"


def test_names_with_dots_and_dashes(load: Any, base: str) -> None:
    text = base.replace("  align:", "  v1.0-a:")
    assert load(text, "seed=${stages.v1.0-a.steps}").seed == 100


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("${oc.env:HOME}", "'${oc.env:HOME}' is not allowed: only ${key} of another key of the recipe is"),
        ("a${oc.env:HOME}", "'${oc.env:HOME}' is not allowed: only ${key} of another key of the recipe is"),
        (
            "${oc.decode:'1'}",
            "'${oc.decode:'1'}' is not allowed: only ${key} of another key of the recipe is",
        ),
        ("${.downsample}", "'${.downsample}' is not allowed: only ${key} of another key of the recipe is"),
        ("'${name'", "'${name' is not allowed: only ${key} of another key of the recipe is"),
        ("${}", "'${}' is not allowed: only ${key} of another key of the recipe is"),
        (
            "${nam}",
            "'${nam}': the recipe writes no key 'nam'. Did you mean 'name'? "
            "Keys: adapter, encoder, evaluate, llm, name, stages",
        ),
        (
            "${adapter.downsmaple}",
            "'${adapter.downsmaple}': the recipe writes no key 'downsmaple' in adapter. "
            "Did you mean 'downsample'? Keys: downsample, name",
        ),
        ("a${adapter}", "'${adapter}' is a section and cannot be part of a text"),
        (
            "${encoder.weights}",
            "'${encoder.weights}' leads back to itself: encoder.weights -> encoder.weights",
        ),
        ("${encoder}", "'${encoder}' leads back to itself: encoder.weights -> encoder"),
    ],
)
def test_a_wrong_interpolation(problems: Any, base: str, written: str, problem: str) -> None:
    override = f"encoder.weights={written}"
    assert problems(base, override) == [f"encoder.weights: {problem} (command line: {override})"]


def test_a_longer_circle(problems: Any, base: str) -> None:
    found = problems(
        base, "encoder.weights=${llm.weights}", "llm.weights=x${name}", "name=${encoder.weights}"
    )
    assert any("leads back to itself" in problem for problem in found)


def test_insertions_cannot_explode(problems: Any, base: str) -> None:
    words = "".join(f", a{n}: '{{a{n - 1}}}{{a{n - 1}}}'" for n in range(1, 60)).replace(
        "{a", "${adapter.free.a"
    )
    (problem, *_) = problems(base, f"adapter.free={{a0: '{'x' * 100}'{words}}}")
    assert "becomes too large once its ${...} are expanded" in problem


def test_part_of_an_inserted_section_cannot_be_changed(problems: Any, write: Any, base: str) -> None:
    write(base.replace("    steps: 50", "    steps: 50\n    batch: ${stages.align.batch}"), "base.yaml")
    text = "extends: base.yaml\nstages: {tune: {batch: {seconds: 3}}}\n"
    assert problems(text) == [
        "stages.tune.batch: a part of '${stages.align.batch}' (base.yaml:20) cannot be changed: give "
        "all of it (x.yaml:2)"
    ]

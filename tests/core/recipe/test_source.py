"""What is not plain data is refused, with its line."""

from __future__ import annotations

import sys
from typing import Any

import pytest

NOT_ALLOWED = "is not allowed here: a recipe holds texts, numbers, true, false, null, lists and sections"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("name: other", "name: given twice, first in x.yaml:1 (x.yaml:26)"),
        (
            "seed: !!python/object/apply:os.system [ls]",
            f"seed: the tag !!python/object/apply:os.system {NOT_ALLOWED} (x.yaml:26)",
        ),
        ("seed: !!python/name:os.system", f"seed: the tag !!python/name:os.system {NOT_ALLOWED} (x.yaml:26)"),
        ("seed: !env HOME", f"seed: the tag !env {NOT_ALLOWED} (x.yaml:26)"),
        ("seed: !!binary aGk=", f"seed: the tag !!binary {NOT_ALLOWED} (x.yaml:26)"),
        ("seed: !!float '1:30'", f"seed: the tag !!float {NOT_ALLOWED} (x.yaml:26)"),
        ("seed: !!float ''", f"seed: the tag !!float {NOT_ALLOWED} (x.yaml:26)"),
        ("seed: !!int many", f"seed: the tag !!int {NOT_ALLOWED} (x.yaml:26)"),
        ("? [a]\n: b", "recipe: a key must be a name, not a list or a section (x.yaml:26)"),
        ("trainer: {<<: 3}", "trainer: '<<' must name a section, not '3' (x.yaml:26)"),
    ],
)
def test_what_yaml_allows_and_a_recipe_does_not(problems: Any, base: str, line: str, problem: str) -> None:
    assert problems(f"{base}{line}\n") == [problem]


def test_a_nested_key_given_twice(problems: Any, base: str) -> None:
    text = base.replace("  downsample: 8\n", "  downsample: 8\n  bias: true\n  downsample: 9\n")
    assert problems(text) == ["adapter.downsample: given twice, first in x.yaml:5 (x.yaml:7)"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "recipe: is empty (x.yaml)"),
        ("# nothing\n", "recipe: is empty (x.yaml)"),
        ("- a\n", "recipe: expected a section, not a list (x.yaml:1)"),
        ("a\n", "recipe: expected a section, not 'a' (x.yaml:1)"),
        (
            "a: b\nc: [d\n",
            "recipe: not YAML: while parsing a flow sequence, expected ',' or ']', but got '<stream "
            "end>' (x.yaml:3)",
        ),
        ("a: *b\n", "recipe: not YAML: found undefined alias 'b' (x.yaml:1)"),
        (
            "a: 1\n---\nb: 2\n",
            "recipe: not YAML: expected a single document in the stream, but found another document "
            "(x.yaml:2)",
        ),
        ("a: \x01\n", "recipe: not YAML: special characters are not allowed (character number 4) (x.yaml)"),
        ("[" * 600, "recipe: nested deeper than 40 levels (x.yaml)"),
        ("a: " + "[" * 41 + "]" * 41, "recipe: nested deeper than 40 levels (x.yaml)"),
        ("a: &a [*a]\n", "recipe: nested deeper than 40 levels (x.yaml)"),
    ],
)
def test_what_is_no_recipe_at_all(problems: Any, text: str, problem: str) -> None:
    assert problems(text) == [problem]


def test_aliases_cannot_explode(problems: Any) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    assert problems("\n".join(lines)) == [
        "recipe: holds more than 20000 entries once its aliases are expanded (x.yaml)"
    ]


def test_bytes_that_are_no_text(write: Any, problems: Any) -> None:
    from kikimimi.errors import RecipeError
    from kikimimi.recipe import load_recipe

    path = write("")
    path.write_bytes(b"name: \xff\n")
    with pytest.raises(RecipeError, match=r"recipe: not UTF-8 text \(byte 6\) \(x.yaml\)"):
        load_recipe(path)


def test_a_recipe_imports_nothing(problems: Any, base: str) -> None:
    before = set(sys.modules)
    problems(base, "adapter=antigravity", "encoder=antigravity:fly", "llm={name: this, _target_: this.s}")
    assert not {"antigravity", "this"} & (set(sys.modules) - before)

"""Plugins in the options of a plugin."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from kikimimi import Chosen
from kikimimi.errors import RecipeError
from kikimimi.recipe.build import Builder
from kikimimi.recipe.interpolate import interpolate
from kikimimi.recipe.shape import Section
from kikimimi.recipe.source import Problems, read


@dataclass(kw_only=True, frozen=True)
class Options:
    after: Chosen | None = field(default=None, metadata={"kind": "adapter"})
    texts: str = field(default="none", metadata={"kind": "normaliser"})
    always: Chosen = field(default_factory=lambda: Chosen.of("adapter", "mlp"), metadata={"kind": "adapter"})


def build(text: str) -> Any:
    problems = Problems()
    entry = read(text, "x.yaml", problems)
    assert entry is not None
    found = Builder(problems).build(Section(Options), interpolate(entry, problems), "", "'options'")
    problems.raise_any()
    return found


def test_one_that_may_be_missing() -> None:
    assert build("{}") == build("after: null") == Options()
    assert build("after: mlp").after == Chosen.of("adapter", "mlp")
    assert build("after: {name: mlp, downsample: 2}").after.config.downsample == 2
    assert build("after: {name: mlp, dtype: bf16}").after.dtype == "bf16"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("after: 3", r"after: no adapter is called '3'"),
        (
            "after: [mlp]",
            r"after: expected the name of a registered adapter \(.*\), or a section with it, or null",
        ),
        (
            "always: null",
            r"always: expected the name of a registered adapter \(.*\), or a section with it, not",
        ),
        ("after: {downsample: 2}", r"after: its name must be given. Registered adapters: .*mlp"),
    ],
)
def test_what_is_no_plugin(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build(text)


def test_a_default_that_is_claimed_is_pointed_out(install: Any) -> None:
    install("own", {"kikimimi.normalisers": {"none": "third_own:None"}}, {})
    with pytest.raises(RecipeError, match=r"texts: normaliser 'none' is claimed by .*: 'kikimimi:none' or"):
        build("{}")
    assert build("texts: own:none").texts == "own:none"

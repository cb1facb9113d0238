"""What `to_yaml` prints is a recipe again: the same one."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings, strategies as st

from kikimimi.recipe import Recipe, digest, load_recipe, to_yaml

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    [
        "no",
        "null",
        "~",
        "1e-4",
        "007",
        "1:30",
        "2026-11-05",
        "???x",
        "${a}",
        "\\${a}",
        "\\\\${",
        "a: b",
        "=",
        "<<",
        "- a",
        " x ",
        "\x85\x00",
        "\x85",
        "a\u2028b\u2029",
    ]
).filter(lambda text: text != "???")
VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS


def round_trip(recipe: Recipe, write: Any) -> None:
    shown = to_yaml(recipe)
    again = load_recipe(write(shown))
    assert again == recipe
    assert to_yaml(again) == shown
    assert digest(again) == digest(recipe)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["adapter=query", "stages.align=null", "evaluate.held_out=null"],
        ["encoder.size=LARGE", "encoder.layers=[3, -1]", "adapter.cache=a/${name}", "adapter.shape=[4, 5]"],
        [
            "adapter.norms=[{kind: rms}, {}]",
            "adapter.extra={}",
            "adapter.scales={a: 1e-7}",
            "adapter.layer=5",
        ],
        [
            "stages.tune.batch=${stages.align.batch}",
            "llm.lora.targets=[no, 1e5]",
            "encoder.lora={dropout: .5}",
        ],
        [
            "stages.align.schedule={name: cosine, warmup: 9, start: 0, floor: 1e-20}",
            "trainer.loggers=[tensorboard]",
        ],
        [
            "stages.align.validate={every: 5, data: {v: {shards: 'v-{0..3}.tar', task: {name: "
            "write_down, prompt: '${name}?'}}}}"
        ],
        ["evaluate.held_out.generate={temperature: 0.7, top_p: 0.9}"],
    ],
)
def test_recipes(load: Any, write: Any, base: str, overrides: list[str]) -> None:
    round_trip(load(base, *overrides), write)


def test_what_is_shown_is_complete(load: Any, base: str) -> None:
    shown = yaml.safe_load(to_yaml(load(base)))
    assert list(shown) == [
        "name",
        "seed",
        "encoder",
        "adapter",
        "llm",
        "stages",
        "evaluate",
        "guards",
        "trainer",
    ]
    assert "extends" not in shown
    assert shown["encoder"] == {
        "name": "ear",
        "weights": "org/ear",
        "pad": "none",
        "layers": [-1],
        "size": "SMALL",
        "lora": None,
        "dtype": "fp32",
        "fixed": None,
    }
    assert shown["stages"]["align"]["batch"] == {
        "seconds": 30.0,
        "tokens": None,
        "global": 4,
        "loss": "tokens",
        "bucket": 32,
    }
    assert shown["stages"]["tune"]["data"]["talk"] == {
        "shards": "talk.tar",
        "task": {"name": "talk", "turns": 1},
        "weight": 1.0,
        "max_characters": None,
    }
    assert shown["llm"]["lora"] == {
        "weights": "random",
        "rank": 4,
        "alpha": 32.0,
        "dropout": 0.0,
        "targets": ["q_proj", "v_proj"],
        "modality": "any",
    }


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    words=st.lists(TEXTS, max_size=4),
    layer=st.integers() | TEXTS,
    free=st.recursive(
        VALUES,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
        max_leaves=6,
    ),
    dropout=st.floats(0, 1, exclude_max=True),
    weights=TEXTS,
)
def test_any_option(
    load: Any,
    write: Any,
    base: str,
    words: list[str],
    layer: int | str,
    free: Any,
    dropout: float,
    weights: str,
) -> None:
    recipe = load(base)
    config = dataclasses.replace(recipe.adapter.config, words=words, layer=layer, free=free, dropout=dropout)
    recipe = dataclasses.replace(recipe, adapter=dataclasses.replace(recipe.adapter, config=config))
    config = dataclasses.replace(recipe.encoder.config, weights=weights)
    round_trip(dataclasses.replace(recipe, encoder=dataclasses.replace(recipe.encoder, config=config)), write)

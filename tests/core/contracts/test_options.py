"""Options say once what they may hold; it is checked wherever they are made, and can be read."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import annotated_types
import pytest
from annotated_types import Ge, Interval, Len, MultipleOf

from kikimimi import (
    ComponentConfig,
    Distinct,
    NonNegativeFloat,
    OddInt,
    Options,
    PositiveFloat,
    PositiveInt,
    Probability,
    Rule,
    Text,
)
from kikimimi.contracts.options import OptionsError, checked, declared, describe_type


@dataclass(kw_only=True, frozen=True)
class Inner(Options):
    depth: PositiveInt = 1
    """How deep."""


@dataclass(kw_only=True, frozen=True)
class Plain:
    """A section whose author does not know the base."""

    width: PositiveInt = 1


@dataclass(kw_only=True, frozen=True)
class Every(ComponentConfig):
    pool: Literal["mean", "max"] = "mean"
    """How frames are joined."""
    downsample: PositiveInt = 4
    """Frames per
    token."""
    dropout: Probability = 0.0
    scale: Annotated[float, Interval(gt=0, le=2)] | None = None
    even: Annotated[int, MultipleOf(2)] = 2
    words: Annotated[list[Annotated[str, Len(1, 3)]], Len(1)] = field(default_factory=lambda: ["a"])
    weights: dict[str, PositiveInt] = field(default_factory=dict)
    pair: tuple[PositiveInt, Literal["x", "y"]] = (1, "x")
    device: PositiveInt | Literal["auto"] = "auto"
    width: OddInt = 3
    power: Annotated[int, Rule("a power of 2", lambda value: value & (value - 1) == 0)] = 2
    text: Text | None = None
    parts: Annotated[dict[Literal["x", "y"], int], Len(1)] = field(default_factory=lambda: {"x": 1})
    once: Annotated[list[int], Distinct] = field(default_factory=list)
    layers: Annotated[list[PositiveInt], Len(1), Distinct] | None = None
    rate: PositiveFloat = 1.0
    share: NonNegativeFloat | None = None
    plain: Plain | None = None
    global_: PositiveInt = field(default=1, metadata={"key": "global"})
    free: Annotated[int, "a note for another tool"] = -1


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"pool": "men"}, "pool: 'men' is not one of max, mean. Did you mean 'mean'?"),
        ({"downsample": 0}, "downsample: must be at least 1, not 0"),
        ({"downsample": "many"}, "downsample: must be at least 1, not 'many'"),
        ({"dropout": 1.0}, "dropout: must be at least 0 and below 1, not 1.0"),
        ({"dropout": float("nan")}, "dropout: must be at least 0 and below 1, not nan"),
        ({"scale": 0.0}, "scale: must be above 0 and at most 2, not 0.0"),
        ({"even": 3}, "even: must be a multiple of 2, not 3"),
        ({"words": []}, "words: must not be empty"),
        ({"words": ["a", "abcd"]}, "words[1]: must be at most 3 long, not 'abcd'"),
        ({"weights": {"a": 1, "b": 0}}, "weights.b: must be at least 1, not 0"),
        ({"pair": (1, "z")}, "pair[1]: 'z' is not one of x, y."),
        ({"device": 0}, "device: must be at least 1, not 0"),
        ({"layers": [1, 0]}, "layers[1]: must be at least 1, not 0"),
        ({"rate": 0.0}, "rate: must be above 0, not 0.0"),
        ({"rate": float("inf")}, "rate: must be a finite number, not inf"),
        ({"rate": float("nan")}, "rate: must be above 0, not nan"),
        ({"share": float("inf")}, "share: must be a finite number, not inf"),
        ({"share": float("-inf")}, "share: must be at least 0, not -inf"),
        ({"plain": Plain(width=0)}, "plain.width: must be at least 1, not 0"),
        ({"global_": 0}, "global: must be at least 1, not 0"),
        ({"width": 4}, "width: must be at least 1 and odd, not 4"),
        ({"power": 6}, "power: must be a power of 2, not 6"),
        ({"power": "6"}, "power: must be a power of 2, not '6'"),
        ({"text": " "}, "text: must not be blank; null is allowed"),
        ({"parts": {}}, "parts: must not be empty; it takes x, y"),
        ({"parts": {"z": 1}}, "parts: 'z' is not one of x, y."),
        ({"once": [1, 2, 1]}, "once: must be without repeats, not [1, 2, 1]"),
    ],
)
def test_a_value_out_of_its_bounds(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(OptionsError) as raised:
        Every(**options)
    assert str(raised.value) == problem


def test_values_in_their_bounds() -> None:
    every = Every(scale=2.0, device=3, plain=Plain(), words=["abc"], weights={"a": 1})
    assert dataclasses.replace(every, pool="max").pool == "max"


def test_all_problems_at_once() -> None:
    with pytest.raises(OptionsError) as raised:
        Every(downsample=0, dropout=2.0)
    assert [problem.partition(":")[0] for problem in raised.value.problems] == ["downsample", "dropout"]


def test_rules_between_options_see_each_in_its_bounds() -> None:
    @dataclass(kw_only=True, frozen=True)
    class Base(ComponentConfig):
        heads: PositiveInt = 1

        def __post_init__(self) -> None:  # a third party's, which calls no other
            if 12 % self.heads:
                raise ValueError("heads must divide 12")

    @dataclass(kw_only=True, frozen=True)
    class Further(Base):
        layers: PositiveInt = 1

        def __post_init__(self) -> None:
            super().__post_init__()

    with pytest.raises(OptionsError, match="heads: must be at least 1, not 0"):
        Base(heads=0)
    with pytest.raises(ValueError, match="heads must divide 12"):
        Further(heads=5)
    with pytest.raises(OptionsError, match="layers: must be at least 1, not 0"):
        Further(heads=5, layers=0)


def test_options_can_be_read() -> None:
    options = declared(Every)
    assert list(options)[-2:] == ["global", "free"]
    assert options["pool"].docstring == "How frames are joined."
    assert options["dropout"].docstring == ""
    assert options["words"].default == ["a"]
    assert not options["words"].required
    assert {name: describe_type(option.annotation) for name, option in options.items()} == {
        "pool": "one of mean, max",
        "downsample": "a whole number (at least 1)",
        "dropout": "a number (at least 0 and below 1)",
        "scale": "a number (above 0 and at most 2) or null",
        "even": "a whole number (a multiple of 2)",
        "words": "a list (not empty), each a text (not empty and at most 3 long)",
        "weights": "a section whose values are each a whole number (at least 1)",
        "pair": "a list of 2: a whole number (at least 1), one of x, y",
        "device": "a whole number (at least 1) or one of auto",
        "layers": "a list (not empty and without repeats), each a whole number (at least 1), or null",
        "rate": "a number (above 0)",
        "share": "a number (at least 0) or null",
        "plain": "Plain or null",
        "global": "a whole number (at least 1)",
        "width": "a whole number (at least 1 and odd)",
        "power": "a whole number (a power of 2)",
        "text": "a text (not blank) or null",
        "parts": "a section whose values are each a whole number (not empty)",
        "once": "a list (without repeats), each a whole number",
        "free": "a whole number",
    }


def test_a_bound_that_is_not_checked_is_an_error() -> None:
    @dataclass(kw_only=True, frozen=True)
    class Config(ComponentConfig):
        when: Annotated[str, annotated_types.Timezone(None)] = ""

    with pytest.raises(TypeError, match=r"Config\.when: Timezone\(tz=None\) is not checked"):
        Config()


def test_arguments_are_checked_as_options_are() -> None:
    @checked
    def double(number: PositiveInt, *, times: Literal[1, 2] = 2) -> int:
        return number * times

    assert double(3) == 6
    with pytest.raises(
        OptionsError, match=r"^number: must be at least 1, not 0\ntimes: 3 is not one of 1, 2"
    ):
        double(0, times=3)  # type: ignore[arg-type]


def test_a_default_has_to_keep_its_own_bound() -> None:
    @dataclass(kw_only=True, frozen=True)
    class Config(ComponentConfig):
        layers: Annotated[int, Ge(2)] = 1

    with pytest.raises(OptionsError, match="layers: must be at least 2, not 1"):
        Config()

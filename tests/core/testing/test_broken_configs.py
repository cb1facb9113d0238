"""Configs that each break the contract in one way, and the check that has to notice."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar

import pytest
from annotated_types import Predicate

from kikimimi import Chosen, ComponentConfig, PositiveFloat
from kikimimi.testing import config_checks, list_checks
from kikimimi.testing.checks import FOR_ALL
from kikimimi_adapters.mlp import MLPAdapter


class Loose(MLPAdapter):
    """So that type checkers let the others declare any `Config`."""

    Config: ClassVar[Any] = MLPAdapter.Config  # pyright: ignore[reportIncompatibleVariableOverride]


class Undecorated(Loose):
    class Config(ComponentConfig):
        scale: float = 1.0


class Unrelated(Loose):
    @dataclass(kw_only=True)
    class Config:
        scale: float = 1.0


class Positional(Loose):
    @dataclass(frozen=True)
    class Config(ComponentConfig):
        scale: float = 1.0


class NoDefault(Loose):
    @dataclass(kw_only=True, frozen=True)
    class Config(ComponentConfig):
        scale: float
        """Factor."""


class Undocumented(Loose):
    @dataclass(kw_only=True, frozen=True)
    class Config(ComponentConfig):
        scale: float = 1.0
        offset: float = 0.0
        """Summand."""


@dataclass(kw_only=True, frozen=True)
class Inner:
    depth: int = 1


class UndocumentedInside(Loose):
    @dataclass(kw_only=True, frozen=True)
    class Config(ComponentConfig):
        inner: Inner | None = None
        """A section."""


class UnwritableOption(Loose):
    @dataclass(kw_only=True, frozen=True)
    class Config(ComponentConfig):
        chosen: frozenset[int] = frozenset()
        """A set, which YAML lacks."""


class ReservedOption(Loose):
    @dataclass(kw_only=True, frozen=True)
    class Config(ComponentConfig):
        name: str = "x"
        """What recipes call the plugin."""


class OwnDtype(Loose):
    @dataclass(kw_only=True, frozen=True)
    class Config(ComponentConfig):
        dtype: str = "fp32"
        """What recipes say beside the options."""


def _inner() -> Chosen:
    return Chosen.of("encoder", "whisper", weights="random")


class OfAnyKind(Loose):
    @dataclass(kw_only=True, frozen=True)
    class Config(ComponentConfig):
        inner: Chosen = field(default_factory=_inner)
        """A plugin inside."""


class OfTheWrongKind(Loose):
    @dataclass(kw_only=True, frozen=True)
    class Config(ComponentConfig):
        inner: Chosen = field(default_factory=_inner, metadata={"kind": "llm"})
        """A plugin inside."""

    @classmethod
    def tiny_config(cls, config: Any | None = None) -> Any:
        return config or cls.Config()


class Downloads(Loose):
    @dataclass(kw_only=True, frozen=True)
    class Config(ComponentConfig):
        inner: Chosen = field(
            default_factory=lambda: Chosen.of("encoder", "whisper"), metadata={"kind": "encoder"}
        )
        """A plugin inside."""

    @classmethod
    def tiny_config(cls, config: Any | None = None) -> Any:
        return config or cls.Config()


class Nested(Loose):
    """A sound one: the plugin inside is tiny where this one is."""

    @dataclass(kw_only=True, frozen=True)
    class Config(ComponentConfig):
        inner: Chosen = field(
            default_factory=lambda: Chosen.of("encoder", "whisper"), metadata={"kind": "encoder"}
        )
        """A plugin inside."""

    @classmethod
    def tiny_config(cls, config: Any | None = None) -> Any:
        inner = (config or cls.Config()).inner
        return cls.Config(inner=replace(inner, config=inner.component.tiny_config(inner.config)))


class Refused(Loose):
    @dataclass(kw_only=True, frozen=True)
    class Config(ComponentConfig):
        scale: float = 0.0
        """Factor."""

        def __post_init__(self) -> None:
            if not self.scale:
                raise ValueError("scale must be given")


class OutOfBounds(Loose):
    @dataclass(kw_only=True, frozen=True)
    class Config(ComponentConfig):
        scale: PositiveFloat = 0.0
        """Factor."""


class UnknownBound(Loose):
    @dataclass(kw_only=True, frozen=True)
    class Config(ComponentConfig):
        scale: Annotated[float, Predicate(bool)] = 1.0
        """Factor."""


class ChangedByYAML(Loose):
    @dataclass(kw_only=True, frozen=True)
    class Config(MLPAdapter.Config):
        def __post_init__(self) -> None:
            object.__setattr__(self, "downsample", 2 * self.downsample)

    @classmethod
    def tiny_config(cls, config: Any | None = None) -> Config:
        return config or cls.Config()


class ForgetsTheChoice(Loose):
    @classmethod
    def tiny_config(cls, config: Any | None = None) -> Any:
        return MLPAdapter.tiny_config()


class TinyOfAnother(Loose):
    @classmethod
    def tiny_config(cls, config: Any | None = None) -> Any:
        return ComponentConfig()


BROKEN = [
    (
        Undecorated,
        "config_is_a_frozen_dataclass",
        r"Undecorated.Config: expected the decorator @dataclass.*none",
    ),
    (
        Unrelated,
        "config_is_a_frozen_dataclass",
        r"Unrelated.Config: expected a subclass of .*ComponentConfig",
    ),
    (Positional, "config_is_a_frozen_dataclass", r"Positional.Config: expected the decorator .*kw_only=True"),
    (NoDefault, "config_has_defaults", r"NoDefault.Config.scale: expected a default, found none"),
    (
        Refused,
        "config_has_defaults",
        r"Refused.Config\(\): expected the defaults to be a config, found: scale",
    ),
    (OutOfBounds, "config_has_defaults", r"config, found: scale: must be above 0, not 0\.0"),
    (UnknownBound, "config_has_defaults", r"Config\.scale: Predicate\(bool\) is not checked"),
    (Undocumented, "config_is_documented", r"found none under Undocumented.Config.scale$"),
    (UndocumentedInside, "config_is_documented", r"found none under Inner.depth$"),
    (UnwritableOption, "config_survives_yaml", r"Config.chosen: a recipe cannot hold a frozenset\[int\]"),
    (ReservedOption, "config_survives_yaml", r"Config.name: recipes use that key themselves"),
    (OwnDtype, "config_survives_yaml", r"Config.dtype: recipes use that key themselves"),
    (
        OfAnyKind,
        "config_survives_yaml",
        r"OfAnyKind.Config.inner: expected metadata=.* one of adapter, encoder, judge, .*, found None",
    ),
    (OfTheWrongKind, "config_survives_yaml", r"(?s)cannot be read back .*inner: no llm is called 'whisper'"),
    (Downloads, "tiny_config_is_a_config", r"expected inner.weights: random, found 'openai/whisper-base'"),
    (
        ChangedByYAML,
        "config_survives_yaml",
        r"expected .*downsample=8.* back from the YAML .* found .*downsample=16",
    ),
    (ForgetsTheChoice, "two_configs_stay_two", r"expected remainder: drop to be kept, found it made pad"),
    (TinyOfAnother, "tiny_config_is_a_config", r"expected a TinyOfAnother.Config, found ComponentConfig"),
]


@pytest.mark.parametrize(("component", "name", "message"), BROKEN, ids=lambda x: getattr(x, "__name__", None))
def test_is_caught(component: type, name: str, message: str) -> None:
    check = next(check for check in list_checks("adapter", component) if check.name == name)
    with pytest.raises(AssertionError, match=message):
        check()


@pytest.mark.parametrize("config", [None, Nested.Config()])
def test_a_plugin_inside_is_checked_at_its_own_home(config: Any) -> None:
    for check in list_checks("adapter", Nested, config):
        if check.function.__module__ == config_checks.__name__:
            check()


def test_every_check_of_configs_has_something_to_catch() -> None:
    names = {check.__name__ for check in FOR_ALL if check.__module__ == config_checks.__name__}
    assert {name for _, name, _ in BROKEN} == names

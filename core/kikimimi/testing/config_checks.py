"""Checks of a component's nested `Config`: what stands in recipes."""

import dataclasses
from collections.abc import Iterator
from contextlib import suppress
from copy import copy
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch

from kikimimi.console.words import listing
from kikimimi.contracts.options import Options, declared
from kikimimi.contracts.registry import KINDS
from kikimimi.errors import RecipeError
from kikimimi.recipe.build import Builder
from kikimimi.recipe.chosen import Chosen
from kikimimi.recipe.interpolate import interpolate
from kikimimi.recipe.shape import Leaf, Section, is_supported, shapes
from kikimimi.recipe.show import dump_plain, plain
from kikimimi.recipe.source import Problems, read
from kikimimi.testing.subject import ContractError, Subject, Tested, expect, expect_type

_CONTRACTS = "kikimimi.contracts."


def config_is_a_frozen_dataclass(subject: Tested) -> None:
    """`Config` is a frozen, keyword-only dataclass of its own, based on that of its kind."""
    config = getattr(subject.component, "Config", None)
    name = f"{subject.component.__name__}.Config"
    expect(isinstance(config, type), f"{name}: expected a nested class, found {config!r}")
    assert isinstance(config, type)
    base = subject.config_base
    expect(issubclass(config, base), f"{name}: expected a subclass of kikimimi.{base.__name__}")
    for cls in _dataclasses(config):
        parameters = vars(cls).get("__dataclass_params__")
        expect(
            parameters is not None
            and parameters.frozen
            and all(field.kw_only for field in dataclasses.fields(cls)),
            f"{cls.__qualname__}: expected the decorator @dataclass(kw_only=True, frozen=True), "
            f"found {parameters or 'none'}",
        )


def config_has_defaults(subject: Tested) -> None:
    """Every field has a default, so that a recipe names only what it changes, and they go together."""
    if not subject.needs_defaults:
        return
    for cls in _dataclasses(subject.component.Config):
        for field in dataclasses.fields(cls):
            expect(
                field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING,
                f"{cls.__qualname__}.{field.name}: expected a default, found none",
            )
    name = f"{subject.component.__name__}.Config"
    try:
        subject.component.Config()
    except (TypeError, ValueError) as error:
        raise ContractError(f"{name}(): expected the defaults to be a config, found: {error}") from error


def config_is_documented(subject: Tested) -> None:
    """A docstring stands under every field."""
    missing: list[str] = []
    for cls in _dataclasses(subject.component.Config):
        try:
            names = [one.field.name for one in declared(cls).values() if not one.docstring]
        except (OSError, TypeError) as error:
            raise ContractError(f"{cls.__qualname__}: its source cannot be read: {error}") from error
        missing += [f"{cls.__qualname__}.{name}" for name in names]
    expect(
        not missing,
        f"expected a docstring under every field (what it is, with its unit), found none under "
        f"{', '.join(missing)}",
    )


def config_survives_yaml(subject: Tested) -> None:
    """What a resolved recipe shows of the config, a recipe reads back as the same config."""
    name = f"{subject.component.__name__}.Config"
    _expect_kinds(subject.component.Config)
    for option, shape in shapes(subject.component.Config).items():
        expect(
            option not in subject.reserved,
            f"{name}.{option}: recipes use that key themselves; rename the field",
        )
        if isinstance(shape, Leaf):
            expect(
                is_supported(shape.annotation), f"{name}.{option}: a recipe cannot hold a {shape.annotation}"
            )
    for config in (subject.chosen, subject.config):
        _expect_round_trip(config, name)


def _expect_round_trip(config: Any, name: str) -> None:
    text = dump_plain(plain(config))
    problems = Problems()
    entry = read(text, name, problems)
    assert entry is not None
    found = Builder(problems).build(Section(type(config)), interpolate(entry, problems), "", name)
    try:
        problems.raise_any()
    except RecipeError as error:
        raise ContractError(f"{name}: cannot be read back from the YAML that shows it: {error}") from error
    expect(found == config, f"{name}: expected {config} back from the YAML that shows it, found {found}")


def _expect_kinds(config: type[Any]) -> None:
    """Expect every field that holds another plugin to say of which kind."""
    for cls in _dataclasses(config):
        hints = get_type_hints(cls)
        for field in dataclasses.fields(cls):
            if Chosen in _members(hints[field.name]):
                kind = field.metadata.get("kind")
                expect(
                    kind in KINDS,
                    f"{cls.__qualname__}.{field.name}: expected metadata={{'kind': ...}} with one of "
                    f"{listing(KINDS)}, found {kind!r}",
                )


def tiny_config_is_a_config(subject: Subject) -> None:
    """`tiny_config` returns a `Config` with random weights, and leaves a tiny one as it is."""
    name = f"{subject.component.__name__}.tiny_config"
    config = subject.config
    expect_type(config, subject.component.Config, f"{name}: expected a {subject.component.__name__}.Config")
    for where, weights in _weights(config, ""):
        expect(weights == "random", f"{name}: expected {where}: random, found {weights!r}")
    again = subject.component.tiny_config(config)
    expect(again == config, f"{name}: expected a tiny config to stay as it is, {config}, found {again}")


def two_configs_stay_two(subject: Subject) -> None:
    """Configs that differ in a choice (an option of names, or yes and no) are made tiny to two that do.

    A choice that decides nothing but a size, or nothing of the output, may be made the smallest.
    """
    config = subject.chosen
    name = f"{subject.component.__name__}.tiny_config"
    for field in dataclasses.fields(config):
        for choice in choices(get_type_hints(type(config))[field.name]):
            try:
                chosen = dataclasses.replace(config, **{field.name: choice})
                found = getattr(subject.component.tiny_config(chosen), field.name)
                expect(
                    found == choice or _acts_alike(subject, field.name, choice),
                    f"{name}: expected {field.name}: {choice} to be kept, found it made {found}",
                )
            except (TypeError, ValueError):
                continue  # it does not go with the other options


def _acts_alike(subject: Subject, option: str, choice: Any) -> bool:
    """Tell whether a choice changes nothing of the tiny variant but shapes of parameters."""
    other = copy(subject)
    other.config = dataclasses.replace(subject.config, **{option: choice})
    part, changed = subject.build(), other.build()
    mine, its = part.state_dict(), changed.state_dict()
    if mine.keys() != its.keys():
        return False
    if any(mine[key].shape != its[key].shape for key in mine):
        return True
    changed.load_state_dict(mine)
    sequences = subject.sequences(part)
    with torch.no_grad():
        pairs = zip(subject.outputs(part, sequences), other.outputs(changed, sequences), strict=True)
        return all(torch.equal(one, another) for one, another in pairs)


def choices(annotation: Any) -> tuple[Any, ...]:
    """Return the values that an option may have, where they are a few."""
    if annotation is bool:
        return (False, True)
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _dataclasses(cls: type[Any]) -> Iterator[type[Any]]:
    """Yield a config class and those of its nested sections, with the classes that they inherit from."""
    for base in reversed(cls.__mro__):
        # The base of a kind (`ComponentConfig`, `TaskConfig` and so on) holds no options.
        is_base = base is Options or (Options in base.__bases__ and base.__module__.startswith(_CONTRACTS))
        if not is_base and (base is cls or dataclasses.is_dataclass(base)):
            yield base
    if dataclasses.is_dataclass(cls):
        hints = get_type_hints(cls)
        for field in dataclasses.fields(cls):
            for inner in _members(hints[field.name]):
                # A plugin inside is checked where it is at home.
                if isinstance(inner, type) and dataclasses.is_dataclass(inner) and inner is not Chosen:
                    yield from _dataclasses(inner)


def _weights(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Yield the weights that a config and the plugins inside it name, with their dotted keys."""
    if isinstance(value, Chosen):
        yield from _weights(value.config, key)
    elif isinstance(value, list | tuple | dict):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for name, item in items:
            yield from _weights(item, f"{key}.{name}")
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            path = f"{key}.{field.name}".lstrip(".")
            if field.name == "weights":
                yield path, getattr(value, field.name)
            else:
                yield from _weights(getattr(value, field.name), path)


def _members(annotation: Any) -> Iterator[Any]:
    yield annotation
    for argument in get_args(annotation):
        yield from _members(argument)


def other_identities(subject: Tested) -> dict[str, str]:
    """Return what `identity` says of configs in which one option is another, by that option."""
    found: dict[str, str] = {}
    for option in dataclasses.fields(subject.config):
        value = getattr(subject.config, option.name)
        for other in _others(value, get_type_hints(type(subject.config))[option.name]):
            # Not every value is one that it takes, nor does each name something that is there.
            with suppress(Exception):
                changed = dataclasses.replace(subject.config, **{option.name: other})
                found[option.name] = subject.component.identity(changed)
    return found


def _others(value: Any, annotation: Any) -> tuple[Any, ...]:
    """Return values that an option might have instead."""
    if chosen := choices(annotation):
        return tuple(other for other in chosen if other != value)
    if isinstance(value, str):
        return (f"{value}2",)
    if isinstance(value, list):
        return ([*value, "2"],)
    return (value + 1, value / 2) if isinstance(value, int | float) else ()

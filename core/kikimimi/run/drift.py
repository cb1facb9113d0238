"""What differs between two locks of a run, or two recipes, item by item."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import Field, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from kikimimi.errors import RunError
from kikimimi.files.yaml_text import parse_yaml
from kikimimi.recipe import Chosen, Recipe
from kikimimi.recipe.show import digest, to_yaml

HARDWARE = (
    "accelerator",
    "strategy",
    "activation_checkpointing",
    "devices",
    "nodes",
    "workers",
    "log_every",
    "loggers",
)
"""Options of the section `trainer` that change neither the steps nor their order: a run may change them."""
_HELD = ("python", "libraries", "plugins", "source", "data")
"""Sections that are compared, beside the recipe. Git's commit is not: the source is, file by file."""


@dataclass(frozen=True)
class Change:
    """Something that is not what a lock says.

    Attributes:
        item: What, as a dotted name.
        locked: What the lock holds, or None.
        present: What is there now, or None.
    """

    item: str
    locked: Any
    present: Any

    def __str__(self) -> str:
        return f"{self.item}: locked {_shown(self.locked)}, now {_shown(self.present)}"


class DriftError(RunError):
    """Something that a run was locked to has changed. Holds every change."""

    def __init__(self, path: Path, changes: list[Change]) -> None:
        self.changes = tuple(changes)
        heading = f"{path}: {len(changes)} thing{'s are' if len(changes) > 1 else ' is'} not what was locked:"
        super().__init__("\n".join([heading, *(f"  {change}" for change in changes)]))


def drift(locked: Mapping[str, Any], present: Mapping[str, Any], newer: Collection[str] = ()) -> list[Change]:
    """Return what differs between two locks.

    The command line, the host and the options of the hardware may differ, and so may the paths of
    shards whose index is the same.

    Args:
        locked: What was written.
        present: What there is now.
        newer: Options of the recipe that there were not yet when the first was written; see `newer_options`.
    """
    old, new = _items(locked), _items(present)
    added = {f"recipe.{option}" for option in newer}
    changes = []
    for item in dict.fromkeys([*old, *new]):
        if old.get(item) == new.get(item) or item in added or _may_differ(item, old, new):
            continue
        changes.append(Change(item, old.get(item), new.get(item)))
    return changes


def recipe_change(old: Recipe, new: Recipe) -> str:
    """Return the first difference between recipes that changes the run; empty where there is none."""
    kept = {name: getattr(old.trainer, name) for name in HARDWARE}
    if digest(old) == digest(replace(new, trainer=replace(new.trainer, **kept))):
        return ""
    there, here = (dict(flat(_recipe(to_yaml(recipe)), "")) for recipe in (old, new))
    for item in dict.fromkeys([*there, *here]):
        if there.get(item) != here.get(item):
            return f"{item}: there {_shown(there.get(item))}, here {_shown(here.get(item))}"
    return "the same options in another order, or with an empty section more"


def text_changes(locked: str, present: str) -> list[Change]:
    """Return what differs between two resolved recipes, options of the hardware left out."""
    old, new = (dict(flat(_recipe(text), "")) for text in (locked, present))
    items = dict.fromkeys([*old, *new])
    return [Change(item, old.get(item), new.get(item)) for item in items if old.get(item) != new.get(item)]


def as_begun(recipe: Recipe, resolved: str) -> Recipe:
    """Return a recipe that goes on as it began, whatever options there have come to be since.

    Args:
        recipe: The run's recipe.
        resolved: The recipe as the run holds it. What it lacks there was not when it began: there, an option
            has the value that its field's metadata call ``before``, or else its default. An option that is
            null now, and was there with what its field's metadata call ``was``, keeps that.
    """
    earlier = bool(newer_options(recipe, resolved))
    begun: Recipe = _as_begun(recipe, parse_yaml(resolved), "", {}, earlier=earlier)
    return begun


def newer_options(recipe: Recipe, resolved: str) -> dict[str, Field[Any]]:
    """Return the options that a resolved recipe lacks, by their dotted names."""
    found: dict[str, Field[Any]] = {}
    _as_begun(recipe, parse_yaml(resolved), "", found)
    return found


def _as_begun(
    value: Any, held: Any, where: str, found: dict[str, Field[Any]], *, earlier: bool = False
) -> Any:
    def inside(inner: Any, key: str) -> Any:
        return _as_begun(inner, held.get(key), f"{where}{key}.", found, earlier=earlier)

    if isinstance(held, Mapping) and isinstance(value, Chosen):
        return replace(value, config=_as_begun(value.config, held, where, found, earlier=earlier))
    if isinstance(held, Mapping) and isinstance(value, Mapping):
        return {key: inside(inner, key) for key, inner in value.items()}
    if not isinstance(held, Mapping) or not is_dataclass(value):
        return value
    options: dict[str, Any] = {}
    for item in fields(value):
        key, inner = item.metadata.get("key", item.name), getattr(value, item.name)
        if not item.init:
            continue
        if key in held:
            kept = earlier and inner is None and held[key] == item.metadata.get("was", inner)
            options[item.name] = held[key] if kept else inside(inner, key)
        else:
            found[f"{where}{key}"] = item
            options[item.name] = item.metadata.get("before", inner)
    return replace(value, **options)  # type: ignore[type-var]


def _recipe(text: str) -> dict[str, Any]:
    recipe: dict[str, Any] = parse_yaml(text)
    if isinstance(trainer := recipe.get("trainer"), Mapping):
        recipe["trainer"] = {name: value for name, value in trainer.items() if name not in HARDWARE}
    return recipe


def _items(held: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a lock holds by dotted names."""
    sections = {"recipe": _recipe(held["recipe"]["yaml"]), **{name: held.get(name) for name in _HELD}}
    return dict(flat(sections, ""))


def flat(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Yield what sections hold by dotted keys below a place; what is null is left out."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from flat(inner, f"{where}.{key}" if where else str(key))
    elif value is not None:
        yield where, value


def _may_differ(item: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    if item.startswith("data.evaluate."):
        return item not in old  # training began without it
    if item.startswith("plugins."):
        # Locks did not always tell of plugins in a section of another's options (the terms of a sum), and
        # told the factors of such terms as if they were weights' sources. The recipe holds both.
        added = item not in old and item.endswith((".name", ".distribution", ".version", ".source"))
        return added or (item not in new and ".weights.source." in item)
    if item.startswith("recipe.") and item.endswith(".shards"):
        data = f"data.{item.removeprefix('recipe.').removesuffix('.shards')}"
        return data in old and old.get(data) == new.get(data)
    return False


def _shown(value: Any) -> str:
    return "(nothing)" if value is None else str(value)

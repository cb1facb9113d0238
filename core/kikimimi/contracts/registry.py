"""Discovery of components through Python entry points.

Entry points are read with `importlib.metadata` (the `entrypoints` package asks new code to do so). Nothing
here imports a plugin until it is asked for by name, so listing plugins costs no torch import, and a broken
plugin that nobody names stops nothing.
"""

import importlib
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import Distribution, EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kikimimi.console.words import listing, nearest
from kikimimi.errors import PluginError


@dataclass(frozen=True)
class Kind:
    """A kind of component that plugins can add.

    Attributes:
        name: Singular, as recipes and messages spell it (``adapter``).
        group: The entry-point group (``kikimimi.adapters``).
        base: ``module:Class`` of the contract that a member subclasses.
    """

    name: str
    group: str
    base: str


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("encoder", "kikimimi.encoders", "kikimimi.contracts.component:Encoder"),
        Kind("adapter", "kikimimi.adapters", "kikimimi.contracts.component:Adapter"),
        Kind("llm", "kikimimi.llms", "kikimimi.contracts.component:LLM"),
        Kind("objective", "kikimimi.objectives", "kikimimi.contracts.objective:Objective"),
        Kind("task", "kikimimi.tasks", "kikimimi.contracts.task:Task"),
        Kind("layout", "kikimimi.layouts", "kikimimi.contracts.layout:Layout"),
        Kind("voice", "kikimimi.voices", "kikimimi.contracts.voice:Voice"),
        Kind("normaliser", "kikimimi.normalisers", "kikimimi.contracts.normaliser:Normaliser"),
        Kind("metric", "kikimimi.metrics", "kikimimi.contracts.metric:Metric"),
        Kind("recogniser", "kikimimi.recognisers", "kikimimi.contracts.recogniser:Recogniser"),
    )
}


@dataclass(frozen=True)
class Plugin:
    """One registered component: where it comes from, not yet imported.

    Attributes:
        kind: The kind's name.
        name: The registered name, as recipes spell it.
        value: ``module:Class``.
        distribution: The pip distribution that registers it.
        version: The distribution's version.
    """

    kind: str
    name: str
    value: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.kind} '{self.name}' ({self.distribution} {self.version}, {self.value})"


def kind_of(name: str) -> Kind:
    """Return the kind called `name`.

    Raises:
        PluginError: No such kind.
    """
    if name not in KINDS:
        raise PluginError(f"'{name}' is not a kind of plugin.{nearest(name, KINDS)} Kinds: {listing(KINDS)}")
    return KINDS[name]


def _plugin(kind: Kind, entry: EntryPoint) -> Plugin:
    distribution, version = _named(entry.dist) if entry.dist else ("(unknown distribution)", "?")
    return Plugin(
        kind=kind.name, name=entry.name, value=entry.value, distribution=distribution, version=version
    )


@cache
def _named(distribution: Distribution) -> tuple[str, str]:
    # Parses a distribution's metadata: once for all that it registers.
    return distribution.metadata["Name"], distribution.metadata["Version"]


@cache
def _entries() -> Any:
    # Reads the metadata of every installed distribution: once for all kinds. Python 3.11 and 3.12 return
    # different classes, which both can select.
    return entry_points()


@cache
def _registered(kind_name: str) -> dict[str, tuple[Plugin, ...]]:
    kind = kind_of(kind_name)
    found: dict[str, set[Plugin]] = {}
    for entry in _entries().select(group=kind.group):
        found.setdefault(entry.name, set()).add(_plugin(kind, entry))
    # A set: an editable install beside its source shows the same distribution twice.
    return {name: tuple(sorted(found[name], key=str)) for name in sorted(found)}


def refresh() -> None:
    """Forget what was discovered; the next look-up reads the installed metadata again."""
    importlib.invalidate_caches()  # metadata that was written a moment ago counts too
    _entries.cache_clear()
    _named.cache_clear()
    _registered.cache_clear()
    _loaded.cache_clear()


def names(kind: str) -> list[str]:
    """Return the registered names of a kind, sorted."""
    return list(_registered(kind))


def plugins(kind: str | None = None) -> Iterator[Plugin]:
    """Yield every registered plugin (of one kind, or of all), duplicates included, importing none."""
    for kind_name in [kind] if kind else list(KINDS):
        for group in _registered(kind_name).values():
            yield from group


def find(kind: str, name: str) -> Plugin:
    """Return the plugin of that kind and name, without importing it.

    Raises:
        PluginError: Nothing, or more than one distribution, registers that name.
    """
    registered = _registered(kind)
    if name not in registered:
        raise PluginError(
            f"no {kind} is called '{name}'.{_other_kinds(kind, name) or nearest(name, registered)} "
            f"Registered {kind}s: {listing(registered)}"
        )
    found = registered[name]
    if len(found) != 1:
        claims = " and ".join(f"{p.distribution} {p.version} ({p.value})" for p in found)
        raise PluginError(f"{kind} '{name}' is claimed by {claims}. Uninstall one of them.")
    return found[0]


def _other_kinds(kind: str, name: str) -> str:
    others = [other for other in KINDS if other != kind and name in _registered(other)]
    return f" The name belongs to another kind: {', '.join(others)}." if others else ""


def place_in(module: str, error: BaseException) -> str:
    """Return the last place in a module's package that an error came by, or else where it was raised.

    Args:
        module: Dotted name of the module, with or without ``:Class``.
        error: What was raised and caught.
    """
    frames = traceback.extract_tb(error.__traceback__)
    spec = find_spec(module.partition(":")[0].partition(".")[0])
    folders = list(spec.submodule_search_locations or ()) if spec else []
    own = [
        frame
        for frame in frames
        if (spec and frame.filename == spec.origin)
        or any(Path(frame.filename).is_relative_to(folder) for folder in folders)
    ]
    last = (own or frames)[-1]
    return f"raised in {last.filename}:{last.lineno}"


@cache
def _loaded(plugin: Plugin) -> type[Any]:
    kind = kind_of(plugin.kind)
    try:
        component = EntryPoint(plugin.name, plugin.value, kind.group).load()
    except Exception as error:  # whatever a third party's module raises
        raise PluginError(
            f"{plugin} is broken: {type(error).__name__}: {error} ({place_in(plugin.value, error)}). "
            f"'kikimimi plugins --check --verbose {plugin.name}' shows the whole traceback."
        ) from error
    base = EntryPoint(kind.name, kind.base, kind.group).load()
    if not (isinstance(component, type) and issubclass(component, base)):
        raise PluginError(f"{plugin} is not a subclass of {kind.base.replace(':', '.')}")
    return component


def load(kind: str, name: str) -> type[Any]:
    """Import and return the class registered under that kind and name.

    Raises:
        PluginError: It is unknown, claimed twice, fails to import, or is not of that kind.
    """
    return _loaded(find(kind, name))

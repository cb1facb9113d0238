"""Discovery of components through Python entry points.

Entry points are read with `importlib.metadata` (the `entrypoints` package asks new code to do so). Nothing
here imports a plugin until it is asked for by name, so listing plugins costs no torch import, and a broken
plugin that nobody names stops nothing.
"""

import importlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import Distribution, EntryPoint, entry_points, version
from typing import Any

from kikimimi.console.words import listing, nearest
from kikimimi.contracts.plugin_import import DISABLED_VARIABLE, check_requirement, import_guarded
from kikimimi.errors import PluginError


@dataclass(frozen=True)
class Kind:
    """A kind of component that plugins can add.

    Attributes:
        name: Singular, as recipes and messages spell it (``adapter``).
        group: The entry-point group (``kikimimi.adapters``).
        base: ``module:Class`` of the contract that a member subclasses.
        contract_version: Version of that contract; another one after each change that breaks plugins.
    """

    name: str
    group: str
    base: str
    contract_version: int = 1


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
        Kind("judge", "kikimimi.judges", "kikimimi.contracts.judge:Judge"),
    )
}

PLUGIN_NAME = re.compile(r"(?!(?i:null|true|false|list|new)$)[A-Za-z][A-Za-z0-9]*([-_][A-Za-z0-9]+)*")
"""What a plugin may be called, so that recipes and the command line can say it."""
NAME_RULE = (
    "a name has letters and digits, with single '-' or '_' between them, and starts with a letter; null, "
    "true and false are other things in YAML, and list and new are commands"
)
_ENTRY = re.compile(r"\w+(\.\w+)* *: *\w+(\.\w+)* *(\[.*\])? *")
_preferred: dict[tuple[str, str], str] = {}


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


def contract_of(kind: str) -> type[Any]:
    """Import and return the class that plugins of a kind derive from."""
    held = kind_of(kind)
    contract: type[Any] = EntryPoint(held.name, held.base, held.group).load()
    return contract


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


def _disabled() -> set[str]:
    return {
        canonical(name.strip()) for name in os.environ.get(DISABLED_VARIABLE, "").split(",") if name.strip()
    }


@cache
def _registered(kind_name: str) -> dict[str, tuple[Plugin, ...]]:
    kind = kind_of(kind_name)
    found: dict[str, set[Plugin]] = {}
    disabled = _disabled()
    for entry in _entries().select(group=kind.group):
        plugin = _plugin(kind, entry)
        if canonical(plugin.distribution) not in disabled and PLUGIN_NAME.fullmatch(entry.name):
            found.setdefault(entry.name, set()).add(plugin)
    # A set: an editable install beside its source shows the same distribution twice.
    return {name: tuple(sorted(found[name], key=str)) for name in sorted(found)}


def misplaced() -> list[str]:
    """Return what installed packages register that nothing can be made of: unknown groups, unusable names."""
    groups = {kind.group for kind in KINDS.values()}
    said = []
    ours = [group for group in _entries().groups if group.startswith("kikimimi.")]
    for entry in [entry for group in ours for entry in _entries().select(group=group)]:
        whose = _named(entry.dist)[0] if entry.dist else "(unknown distribution)"
        if entry.group not in groups:
            said.append(
                f"{whose}: '{entry.group}' is no group of plugins.{nearest(entry.group, groups)} "
                f"Groups: {listing(sorted(groups))}"
            )
        elif not PLUGIN_NAME.fullmatch(entry.name):
            said.append(f"{whose}: {entry.group} '{entry.name}': {NAME_RULE}")
    return sorted(set(said))


def refresh() -> None:
    """Forget what was discovered; the next look-up reads the installed metadata again."""
    importlib.invalidate_caches()  # metadata that was written a moment ago counts too
    _entries.cache_clear()
    _named.cache_clear()
    _registered.cache_clear()
    _loaded.cache_clear()
    _preferred.clear()


def names(kind: str) -> list[str]:
    """Return the registered names of a kind, sorted."""
    return list(_registered(kind))


def spelled(kind: str) -> list[str]:
    """Return what recipes may say of a kind: its names, with each distribution where several claim one."""
    return [
        f"{canonical(plugin.distribution)}:{name}" if len(claimants) > 1 else name
        for name, claimants in _registered(kind).items()
        for plugin in claimants
    ]


def plugins(kind: str | None = None) -> Iterator[Plugin]:
    """Yield every registered plugin (of one kind, or of all), duplicates included, importing none."""
    for kind_name in [kind] if kind else list(KINDS):
        for group in _registered(kind_name).values():
            yield from group


def find(kind: str, name: str) -> Plugin:
    """Return the plugin of that kind and name, or ``distribution:name``, without importing it.

    Raises:
        PluginError: Nothing, or more than one distribution, registers that name.
    """
    registered = _registered(kind)
    of, _, plain = name.rpartition(":")
    if plain not in registered:
        raise PluginError(
            f"no {kind} is called '{name}'.{_other_kinds(kind, plain) or nearest(name, registered)} "
            f"Registered {kind}s: {listing(registered)}"
        )
    found = registered[plain]
    distributions = {canonical(plugin.distribution): plugin for plugin in found}
    if of:
        return _of_distribution(of, found, kind, name)[0]
    if len(found) > 1 and (chosen := distributions.get(_preferred.get((kind, plain), ""))) is not None:
        return chosen
    if len(found) != 1:
        claims = " and ".join(f"{p.distribution} {p.version} ({p.value})" for p in found)
        one = next(name for name in distributions if name != "kikimimi")  # which has all built-ins
        whose = " or ".join(f"'{distribution}:{plain}'" for distribution in distributions)
        raise PluginError(
            f"{kind} '{plain}' is claimed by {claims}. Say whose: {whose}; uninstall one; or switch one off: "
            f"{DISABLED_VARIABLE}={one}"
        )
    return found[0]


def find_all(name: str) -> list[Plugin]:
    """Return the plugins of a name, or of ``distribution:name``, whatever their kinds.

    Raises:
        PluginError: Nothing registers that name.
    """
    of, _, plain = name.rpartition(":")
    known = list(plugins())
    found = [plugin for plugin in known if plugin.name == plain]
    if not found:
        names = {plugin.name for plugin in known}
        raise PluginError(f"no plugin is called '{plain}'.{nearest(plain, names)} Plugins: {listing(names)}")
    return _of_distribution(of, found, "plugin", name) if of else found


def _of_distribution(of: str, found: Sequence[Plugin], noun: str, name: str) -> list[Plugin]:
    by = [canonical(plugin.distribution) for plugin in found]
    chosen = [plugin for plugin, owner in zip(found, by, strict=True) if owner == canonical(of)]
    if not chosen:
        raise PluginError(
            f"'{name}': {of} registers no {noun} '{name.rpartition(':')[2]}'.{nearest(of, by)} "
            f"It is registered by {listing(sorted(set(by)))}"
        )
    return chosen


def prefer(name: str, distribution: str) -> None:
    """Take a distribution's plugin where others claim its name, too, as a run does that was made with it."""
    for kind in KINDS:
        claims = {canonical(plugin.distribution) for plugin in _registered(kind).get(name, ())}
        if canonical(distribution) in claims:
            _preferred[(kind, name)] = canonical(distribution)


def canonical(distribution: str) -> str:
    """Return the name of a distribution as package indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _other_kinds(kind: str, name: str) -> str:
    others = [other for other in KINDS if other != kind and name in _registered(other)]
    return f" The name belongs to another kind: {', '.join(others)}." if others else ""


@cache
def _loaded(plugin: Plugin) -> type[Any]:
    kind = kind_of(plugin.kind)
    check_requirement(str(plugin), plugin.distribution)
    if not _ENTRY.fullmatch(plugin.value):
        raise PluginError(
            f"{plugin} is broken: its entry point (group {kind.group}) is not of the form module:Class"
        )
    # The contract is imported first, with what it needs: that is not the plugin's time.
    base = contract_of(kind.name)
    entry = EntryPoint(plugin.name, plugin.value, kind.group)
    component = import_guarded(str(plugin), kind.group, plugin.value, entry.load)
    if not (isinstance(component, type) and issubclass(component, base)):
        raise PluginError(
            f"{plugin} is not a subclass of {kind.base.replace(':', '.')}.{_where_it_belongs(component)}"
        )
    _check_contract_version(plugin, component)
    return component


def _check_contract_version(plugin: Plugin, component: type[Any]) -> None:
    """Raise where a plugin says that it was written for another version of its contract.

    Its own package says it: a base class of somebody else's knows nothing of what was made of it.

    Raises:
        PluginError: It was, or says something else than a number.
    """
    kind, package = kind_of(plugin.kind), component.__module__.partition(".")[0]
    own = (cls for cls in component.__mro__ if cls.__module__.partition(".")[0] == package)
    said = (vars(cls)["contract_version"] for cls in own if "contract_version" in vars(cls))
    written_for = next(said, kind.contract_version)
    if type(written_for) is not int:
        raise PluginError(
            f"{plugin}: contract_version: expected a whole number such as {kind.contract_version}, not "
            f"{written_for!r}"
        )
    if written_for != kind.contract_version:
        raise PluginError(
            f"{plugin} is written for version {written_for} of the contract of {kind.name}s, and kikimimi "
            f"{version('kikimimi')} has version {kind.contract_version}. Install another version of "
            f"{plugin.distribution}, or the kikimimi that it was written for"
        )


def _where_it_belongs(component: Any) -> str:
    """Return what to write where a class is of another kind."""
    for kind in KINDS.values():
        module, _, name = kind.base.partition(":")
        base = getattr(sys.modules.get(module), name, None)
        if base is not None and isinstance(component, type) and issubclass(component, base):
            article = "an" if kind.name in ("encoder", "adapter", "llm", "objective") else "a"
            return f" It is {article} {name}: register it under the group {kind.group}"
    return ""


def load(kind: str, name: str) -> type[Any]:
    """Import and return the class registered under that kind and name.

    Raises:
        PluginError: It is unknown, claimed twice, fails to import, or is not of that kind.
    """
    return _loaded(find(kind, name))

"""The packages that a run was made with, as its lock tells them, and what is installed of them now."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from kikimimi.contracts import registry
from kikimimi.errors import DamagedError, RecipeError
from kikimimi.run.lock_file import read_lock_file
from kikimimi.run.rank import say_once
from kikimimi.run.source import source_digest

_OURS = "kikimimi"


@dataclass(frozen=True)
class MadeWith:
    """What a lock says of plugins.

    Attributes:
        plugins: Names and distributions of the plugins that the recipe names.
        versions: Version of each distribution, kikimimi's own among them.
        sources: SHA-256 of the code of each that was installed to be edited.
        recipe: The recipe that was locked, as YAML; empty where there is none.
        damage: Why the lock says nothing, and what to do, where it is damaged.
    """

    plugins: frozenset[tuple[str, str]]
    versions: Mapping[str, str]
    sources: Mapping[str, str]
    recipe: str = ""
    damage: str = ""

    @classmethod
    def read(cls, lock: Path) -> MadeWith:
        """Read a lock; one that is not there says nothing, and one that is damaged only that."""
        try:
            held = read_lock_file(lock)
        except DamagedError as error:
            return cls(frozenset(), {}, {}, damage=str(error).removeprefix(f"{lock.parent}{os.sep}"))
        if held is None:
            return cls(frozenset(), {}, {})
        found = list(_origins(held.get("plugins")))
        versions = {distribution: number for _, distribution, number in found}
        if ours := held.get("libraries", {}).get(_OURS):
            versions[_OURS] = ours
        plugins = frozenset((name, distribution) for name, distribution, _ in found)
        return cls(plugins, versions, held.get("source", {}), recipe=held["recipe"]["yaml"])

    @contextmanager
    def reading(self, place: Path) -> Iterator[None]:
        """Read the run's recipe with its own plugins, where other distributions claim their names as well.

        Raises:
            RecipeError: It is wrong; what the run was made with and is not installed stands beside that.
        """
        for name, distribution in self.plugins:
            registry.prefer(name.rpartition(":")[2], distribution)
        try:
            yield
        except RecipeError as error:
            raise RecipeError(
                [*error.problems, *(f"{place}: {line}" for line in self.differences())]
            ) from error

    def differences(self) -> list[str]:
        """Return a line for each distribution that is not installed, or has another version or code."""
        lines = []
        for distribution, locked in sorted(self.versions.items()):
            try:
                present = version(distribution)
            except PackageNotFoundError:
                present = None
            if present != locked:
                now = "is not installed" if present is None else f"is {present} now"
                lines.append(
                    f"made with {distribution} {locked}, which {now}: pip install '{distribution}=={locked}'"
                )
            elif distribution in self.sources:
                code = source_digest(distribution)
                if code is not None and code != self.sources[distribution]:
                    lines.append(f"made with other code of {distribution} {locked} than is installed now")
        return lines


@cache
def tell_difference(path: Path, line: str) -> None:
    """Say once what of a run is not as its lock says, or is not verified."""
    say_once(f"{path}: {line}")


def _origins(value: Any) -> Iterator[tuple[str, str, str]]:
    """Yield name, distribution and version of the plugins in a section of a lock, nested ones too."""
    if isinstance(value, dict):
        found = tuple(value.get(key) for key in ("name", "distribution", "version"))
        if all(isinstance(item, str) for item in found):
            yield found  # type: ignore[misc]
        for inner in value.values():
            yield from _origins(inner)

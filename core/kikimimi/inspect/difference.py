"""What differs between two recipes or runs in meaning: resolved options, parts, data, versions and scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kikimimi.console.words import counted
from kikimimi.contracts.metric import Score
from kikimimi.errors import KikimimiError
from kikimimi.evaluation.bootstrap import Comparison, compare
from kikimimi.evaluation.clip_details import clip_details, clip_groups
from kikimimi.evaluation.record import Scoring, as_scored, read_scorings, settings_in
from kikimimi.inspect.describe import Description, describe
from kikimimi.recipe import Recipe
from kikimimi.recipe.show import plain
from kikimimi.run.drift import HARDWARE, flat
from kikimimi.run.folder import RunFolder
from kikimimi.run.lock_file import read_lock_file

_PARTS = ("encoder", "adapter", "llm")


@dataclass(frozen=True)
class Differing:
    """Something that is not the same.

    Attributes:
        item: What, as a dotted name.
        one: What the one has, or None.
        other: What the other has, or None.
    """

    item: str
    one: Any
    other: Any


@dataclass(frozen=True)
class ScoreDifference:
    """How two runs score on the same evaluation.

    Attributes:
        evaluation: Its name.
        one: Score of the one.
        other: Score of the other.
        comparison: The paired comparison; None where the clips, the metric or the normaliser differ, or
            predictions are gone.
        why: Why there is no comparison; empty where there is one.
    """

    evaluation: str
    one: Score
    other: Score
    comparison: Comparison | None
    why: str = ""


@dataclass(frozen=True)
class Difference:
    """All that differs between two recipes or runs.

    Attributes:
        items: What differs, by section: parts, stages, evaluations, data, versions, other options, and where
            they run, which changes no result.
        scores: Scores on evaluations of the same name, where both are runs.
    """

    items: Mapping[str, list[Differing]] = field(default_factory=dict)
    scores: list[ScoreDifference] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Whether nothing differs but where they run."""
        return not any(found for section, found in self.items.items() if section != WHERE)


WHERE = "where they run"
"""The section of what changes no result."""


def find_difference(one: Recipe | RunFolder, other: Recipe | RunFolder) -> Difference:
    """Compare two recipes, two runs, or a recipe with a run.

    Resolved recipes are compared, so that what is written otherwise and means the same is the same.

    Raises:
        DamagedError: What a run holds is damaged.
    """
    found: dict[str, list[Differing]] = {}
    recipes = [side.recipe if isinstance(side, RunFolder) else side for side in (one, other)]
    runs = [side for side in (one, other) if isinstance(side, RunFolder)]
    locks = [read_lock_file(run.path / "lock.json") or {} for run in runs] if len(runs) == 2 else []
    options = [_options(recipe) for recipe in recipes]
    for item in dict.fromkeys([*options[0], *options[1]]):
        pair = [side.get(item) for side in options]
        if pair[0] != pair[1] and not _is_same_data(item, locks):
            found.setdefault(_section(item), []).append(Differing(item, *pair))
    for item, *pair in _counts(one, other):
        if pair[0] != pair[1]:
            found.setdefault("parts", []).append(Differing(item, *pair))
    scores = _scores(*runs) if len(runs) == 2 else []
    for section, differing in _of_locks(locks) if locks else ():
        found.setdefault(section, []).append(differing)
    order = ("parts", "stages", "evaluations", "data", "options", "versions", WHERE)
    return Difference({section: found[section] for section in order if section in found}, scores)


def _options(recipe: Recipe) -> dict[str, Any]:
    return {item: value for item, value in flat(plain(recipe), "") if item != "name"}


def _section(item: str) -> str:
    first, _, rest = item.partition(".")
    if first in _PARTS:
        return "parts"
    if first == "stages":
        return "stages"
    if first == "evaluate":
        return "evaluations"
    return WHERE if first == "trainer" and rest.split(".")[0] in HARDWARE else "options"


def _counts(one: Recipe | RunFolder, other: Recipe | RunFolder) -> list[tuple[str, Any, Any]]:
    """Return of each part its shape, how many parameters it has, and how many some stage trains."""
    found = []
    sides = [{part.kind: part for part in _described(side)} for side in (one, other)]
    for kind in _PARTS:
        shapes = [side[kind].shape if kind in side else {} for side in sides]
        for name in dict.fromkeys([*shapes[0], *shapes[1]]):
            found.append((f"{kind} {name}", shapes[0].get(name), shapes[1].get(name)))
        for name in ("parameters", "trainable"):
            pair = [getattr(side.get(kind), name, None) for side in sides]
            found.append((f"{kind} {name}", pair[0], pair[1]))
    return found


def _described(side: Recipe | RunFolder) -> list[Description]:
    if isinstance(side, RunFolder):
        return describe(side.recipe, side.assets if side.has_assets else None)
    return describe(side)


def _of_locks(locks: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Differing]]:
    """Yield what differs in what runs were locked to: data, and versions of what trained them."""
    for section in ("data", "versions"):
        sides = [_held(lock, section) for lock in locks]
        for item in dict.fromkeys([*sides[0], *sides[1]]):
            pair = [side.get(item) for side in sides]
            if pair[0] != pair[1]:
                yield section, Differing(item, *pair)
    sources = [lock.get("source", {}) for lock in locks]
    files = [name for name in {**sources[0], **sources[1]} if sources[0].get(name) != sources[1].get(name)]
    if files:
        yield "versions", Differing(f"kikimimi's own code: {counted(len(files), 'file')}", None, None)


def _held(lock: Mapping[str, Any], section: str) -> dict[str, Any]:
    if section == "data":
        return {item: str(value)[:12] for item, value in flat(lock.get("data", {}), "")}
    plugins = dict(flat(lock.get("plugins", {}), ""))
    versions = {
        str(name): str(plugins.get(f"{item.removesuffix('.distribution')}.version"))
        for item, name in plugins.items()
        if item.endswith(".distribution")
    }
    weights = {item: str(value)[:12] for item, value in plugins.items() if ".weights.sha256." in item}
    libraries = dict(flat(lock.get("libraries", {}), ""))
    return {"python": lock.get("python"), **libraries, **versions, **weights}


def _is_same_data(item: str, locks: Sequence[Mapping[str, Any]]) -> bool:
    """Whether shards of an option lie elsewhere, and are the same."""
    place = item.removesuffix(".shards")
    digests = [lock.get("data", {}).get(place) for lock in locks]
    return item.endswith(".shards") and len(digests) == 2 and digests[0] == digests[1] is not None


def _scores(one: RunFolder, other: RunFolder) -> list[ScoreDifference]:
    one, other = as_scored(one), as_scored(other)
    found = []
    for name in one.recipe.evaluate:
        if name not in other.recipe.evaluate:
            continue
        sides = [(run, read_scorings(run.evaluation(name))) for run in (one, other)]
        newest = [(run, record[-1]) for run, record in sides if record]
        scored = [
            (run, scoring, scoring["systems"][run.recipe.name])
            for run, scoring in newest
            if run.recipe.name in scoring["systems"]
        ]
        if len(scored) == 2:
            (a, a_scoring, a_system), (b, b_scoring, b_system) = scored
            values = (Score.from_json(a_system["score"]), Score.from_json(b_system["score"]))
            why = _apart(a_scoring, b_scoring)
            comparison = None
            if not why:
                comparison, why = _compared(name, a, a_system["predictions"], b, b_system["predictions"])
            found.append(ScoreDifference(name, *values, comparison, why))
    return found


def _apart(one: Scoring, other: Scoring) -> str:
    """Return why two scorings cannot be compared; empty where they can."""
    if one["data"] != other["data"]:
        return "of other clips"
    sides = [settings_in(scoring) for scoring in (one, other)]
    for option in ("task", "metric", "normaliser"):
        if sides[0].get(option) != sides[1].get(option):
            return f"with another {option}"
    return ""


def _compared(name: str, a: RunFolder, a_is: Any, b: RunFolder, b_is: Any) -> tuple[Comparison | None, str]:
    """Return the paired comparison, or why there is none."""
    one, other = clip_details(a, name, a_is), clip_details(b, name, b_is)
    if one is None or other is None:
        return None, "predictions are gone, or the metric goes by more than two texts"
    keys = [key for key in one.details if key in other.details]
    groups = None
    if (by := a.recipe.evaluate[name].interval_by) is not None:
        try:
            _, held = clip_groups(a, name, by)
            groups = [held[key] for key in keys]
        except (KikimimiError, OSError, KeyError):
            return None, f"the data that tells groups by {by} is gone"
    first, second = ([side.details[key] for key in keys] for side in (one, other))
    comparison = compare(one.metric, first, second, groups)
    return comparison, "" if comparison else "there is too little to draw from"

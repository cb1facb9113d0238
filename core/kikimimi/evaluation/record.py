"""Which settings of an evaluation gave which scores: kept for every setting that was ever scored.

``record.json`` of an evaluation's folder. The recipe of a run stays as it was trained; what was added or
changed afterwards stands here.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from kikimimi.console.terminal import json_text, say
from kikimimi.contracts import registry
from kikimimi.errors import RequestError, RunError
from kikimimi.evaluation.predictions import Identity
from kikimimi.evaluation.score import ScoreValue, check_score
from kikimimi.files.reading import MEBIBYTE, damaged, file_there, paths_in, read_json
from kikimimi.files.writing import scratch_folder, whole_file, writing
from kikimimi.files.yaml_text import parse_yaml
from kikimimi.recipe import Evaluation, Recipe, load_evaluations, load_recipe
from kikimimi.recipe.show import digest, dump_plain, plain
from kikimimi.run.drift import HARDWARE, recipe_change
from kikimimi.run.folder import RunFolder

RECORD = "record.json"
_LARGEST = 64 * MEBIBYTE
RECORD_REMEDY = "Restore it from a copy, or delete it: 'kikimimi evaluate' scores the predictions again"
"""What people can do where the record is damaged."""


class ScoredSystem(TypedDict):
    """A system's score, and what its predictions depend on."""

    predictions: Identity
    score: dict[str, ScoreValue]


class Scoring(TypedDict):
    """One setting of an evaluation, and what it gave.

    Attributes:
        sha256: Hash of the settings, as they are written here.
        settings: The section of the recipe, as YAML.
        data: Digest of the data's indexes.
        versions: Versions of kikimimi, and of the distributions that the plugins are from.
        scored: Time, with its zone.
        command: Command line.
        systems: Score of each system.
    """

    sha256: str
    settings: str
    data: str
    versions: dict[str, str]
    scored: str
    command: list[str]
    systems: dict[str, ScoredSystem]


def read_scorings(folder: Path) -> list[Scoring]:
    """Return the scorings of an evaluation, the newest last; empty where there is none.

    Raises:
        DamagedError: The file is damaged, or its settings are not as they were written.
    """
    path = folder / RECORD
    if not file_there(path, RECORD_REMEDY):
        return []
    found: list[Scoring] = read_json(path, list[Scoring], limit=_LARGEST, remedy=RECORD_REMEDY)
    for number, scoring in enumerate(found, start=1):
        if digest(scoring["settings"]) != scoring["sha256"]:
            what = f"settings {number} are not as they were written: their SHA-256 differs"
            raise damaged(path, what, RECORD_REMEDY)
        for system, one in scoring["systems"].items():
            try:
                check_score(one["score"])
            except ValueError as error:
                raise damaged(
                    path, f"settings {number}: {system!r} is no score: {error}", RECORD_REMEDY
                ) from error
    return found


def values_of(scoring: Scoring) -> dict[str, dict[str, Any]]:
    """Return the scores of a scoring, as ``scores.json`` holds them."""
    return {system: one["score"] for system, one in scoring["systems"].items()}


def settings_of(evaluation: Evaluation) -> str:
    """Return the settings of an evaluation as a record holds them."""
    return dump_plain(plain(evaluation))


def find_scoring(record: Sequence[Scoring], evaluation: Evaluation, data: str) -> Scoring | None:
    """Return what was scored with these settings on this data, if anything was."""
    wanted = plain(evaluation)
    return next((one for one in record if one["data"] == data and settings_in(one) == wanted), None)


def settings_in(scoring: Scoring) -> dict[str, Any]:
    """Return the settings of a scoring as YAML's own types; options that came later are as they were then."""
    held: dict[str, Any] = parse_yaml(scoring["settings"])
    for option in fields(Evaluation):
        if option.name not in held and option.default is not MISSING:
            held[option.name] = plain(option.metadata.get("before", option.default))
        elif option.name not in held and option.default_factory is not MISSING:
            held[option.name] = plain(option.default_factory())
    return {option.name: held.pop(option.name) for option in fields(Evaluation) if option.name in held} | held


def keep_scoring(
    folder: Path, evaluation: Evaluation, data: str, systems: Mapping[str, ScoredSystem]
) -> None:
    """Write what settings gave, in place of what they gave before.

    Raises:
        DamagedError: The record is damaged.
    """
    record, settings = read_scorings(folder), settings_of(evaluation)
    before = find_scoring(record, evaluation, data)
    scoring: Scoring = {
        "sha256": digest(settings),
        "settings": settings,
        "data": data,
        "versions": _versions(evaluation),
        "scored": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": sys.argv,
        "systems": dict(systems),
    }
    if before is not None:
        same = all(before[name] == scoring[name] for name in ("versions", "systems"))
        scoring = before if same else scoring  # when a score was first there stays known
    record = [*(one for one in record if one is not before), scoring]
    with whole_file(folder / RECORD) as unfinished:
        unfinished.write_text(json_text(record, indent=2) + "\n", encoding="utf-8")


def _versions(evaluation: Evaluation) -> dict[str, str]:
    used = {
        "task": evaluation.task.name,
        "metric": evaluation.metric.name,
        "normaliser": evaluation.normaliser,
    }
    found = {kind: registry.find(kind, name) for kind, name in used.items()}
    of_plugins = {kind: f"{plugin.distribution} {plugin.version}" for kind, plugin in found.items()}
    return {"kikimimi": version("kikimimi"), **of_plugins}


def added_names(run: RunFolder) -> list[str]:
    """Return the names of the evaluations that were scored and are not in the run's recipe."""
    names = [path.parent.name for path in paths_in(run.path, f"evaluations/*/{RECORD}")]
    return [name for name in names if name not in run.recipe.evaluate]


def with_added(run: RunFolder) -> RunFolder:
    """Return the run with the evaluations that were added to it, as they were scored last."""
    return _with_recorded(run, added_names(run))


def as_scored(run: RunFolder) -> RunFolder:
    """Return the run with every evaluation, added or not, as it was scored last."""
    return _with_recorded(run, [*run.recipe.evaluate, *added_names(run)])


def _with_recorded(run: RunFolder, names: Sequence[str]) -> RunFolder:
    known: dict[str, str] = {name: settings_of(one) for name, one in run.recipe.evaluate.items()}
    recorded = dict(known)
    for name in names:
        if record := read_scorings(run.evaluation(name)):
            recorded[name] = record[-1]["settings"]
    if recorded == known:
        return run
    sections = {name: parse_yaml(text) for name, text in recorded.items()}
    try:
        return RunFolder(run.path, read_changed(run.recipe, sections))
    except RequestError as error:
        say(
            f"{run.path}: evaluations that were added or changed cannot be read any more: {error}", error=True
        )
        return run


def read_changed(recipe: Recipe, sections: Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe with other evaluations.

    Args:
        recipe: The recipe.
        sections: Its evaluations, as YAML's own types.
        overrides: Changes, ``key.sub=value`` each.

    Raises:
        RecipeError: The evaluations or the changes are wrong.
    """
    with scratch_folder() as folder:
        file = folder / "recipe.yaml"
        with writing(file):
            file.write_text(dump_plain({**plain(recipe), "evaluate": dict(sections)}), encoding="utf-8")
        return load_recipe(file, overrides, trains=False)


def open_changed(
    path: Path, overrides: Sequence[str] = (), source: Path | None = None
) -> tuple[RunFolder, list[str]]:
    """Open a run folder with evaluations added or changed.

    Args:
        path: The run folder.
        overrides: Changes of evaluations, ``evaluate.NAME.metric=wer``, and of where it runs.
        source: A recipe, a file of evaluations or the name of a shipped one, or a run folder. Its evaluations
            stand in place of those of the same name.

    Returns:
        The run, and which evaluations were named: empty where none was.

    Raises:
        RunError: It is no run folder, or what was trained would change.
        RequestError: The source or the changes are wrong.
    """
    run = with_added(RunFolder.open(path))
    sections: dict[str, Any] = {name: plain(one) for name, one in run.recipe.evaluate.items()}
    named: list[str] = []
    if source is not None:
        other = (
            with_added(RunFolder.open(source)).recipe.evaluate
            if source.is_dir()
            else load_evaluations(source)
        )
        if not other:
            raise RequestError(f"{source}: has no evaluation (section 'evaluate')")
        sections |= {name: plain(one) for name, one in other.items()}
        named += other
    if not overrides and source is None:
        return run, named
    wanted = read_changed(run.recipe, sections, overrides)
    kept = replace(wanted, evaluate=run.recipe.evaluate, guards=run.recipe.guards)
    if changed := recipe_change(run.recipe, kept):
        raise RunError(
            f"{path} keeps its recipe ({changed}). Only evaluate.* and guards.* can be added or changed "
            f"here, and where it runs: {', '.join(f'trainer.{name}' for name in HARDWARE)}"
        )
    named += [
        name
        for name in wanted.evaluate
        if any(text.startswith((f"evaluate.{name}.", f"evaluate.{name}=")) for text in overrides)
    ]
    return RunFolder(path, wanted), list(dict.fromkeys(named))

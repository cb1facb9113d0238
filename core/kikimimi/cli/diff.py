"""``kikimimi diff``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from kikimimi.console.terminal import json_text, say, say_json
from kikimimi.errors import RequestError

if TYPE_CHECKING:
    from kikimimi.inspect.difference import Difference, Differing
    from kikimimi.sweeps.sweep_difference import SettingDifference, SweepDifference


def diff(
    one: Path = typer.Argument(..., metavar="ONE", help="A recipe (YAML), a run folder, or a sweep's."),
    other: Path = typer.Argument(..., metavar="OTHER", help="What it is compared with."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Print what differs between two recipes, runs or sweeps in meaning, not in text.

    Resolved options, parameter counts and what trains; of two runs also data, versions, and their scores with
    the paired test; of two sweeps their factors, and scores of the settings that both have.
    """
    from kikimimi.sweeps.sweep_folder import SweepFolder

    if SweepFolder.is_one(one) or SweepFolder.is_one(other):
        _diff_sweeps(one, other, as_json=as_json)
        return
    from kikimimi.inspect.difference import find_difference
    from kikimimi.recipe import load_recipe
    from kikimimi.run.folder import RunFolder
    from kikimimi.sweeps.sweep_file import find_sweep

    for path in (one, other):
        if path.is_file() and find_sweep(path):
            raise RequestError(
                f"{path} is the file of a sweep: sweeps are compared by their folders, such as "
                f"runs/sweeps/{path.stem}"
            )
    sides = [RunFolder.open(path) if path.is_dir() else load_recipe(path) for path in (one, other)]
    found = find_difference(*sides)
    if as_json:
        say_json(_json(found))
        return
    _say(found, one, other)


def _diff_sweeps(one: Path, other: Path, *, as_json: bool) -> None:
    from kikimimi.sweeps.sweep_difference import find_sweep_difference
    from kikimimi.sweeps.sweep_folder import SweepFolder

    for path, beside in ((one, other), (other, one)):
        if not SweepFolder.is_one(path):
            raise RequestError(
                f"{path} is not the folder of a sweep, and {beside} is one: a sweep is compared with a "
                "sweep. Its runs are run folders of their own"
            )
    found = find_sweep_difference(SweepFolder.open(one), SweepFolder.open(other))
    if as_json:
        scores = [*map(asdict, found.scores)]
        say_json({"differs": _items_json(found.items), "scores": scores, "notes": [*found.notes]})
    else:
        _say_sweeps(found, one, other)
    for note in found.notes:
        say(note, error=True)


def _say_sweeps(found: SweepDifference, one: Path, other: Path) -> None:
    if not found.items:
        say(f"{one} and {other} vary the same")
    _say_items(found.items)
    if found.scores:
        say("scores, means over seeds (Holm over all comparisons):")
    for score in found.scores:
        shown = f"{score.one:.2f} -> {score.other:.2f} {score.unit}".rstrip()
        say(f"  {score.setting}, {score.evaluation}: {shown}; {_beside(score)}")


def _beside(score: SettingDifference) -> str:
    notes = "; ".join(score.notes)
    if score.pair is None:
        return f"not compared{f': {notes}' if notes else ''}"
    c = score.pair
    sure = "differs" if c.settled else "the test cannot tell them apart"
    p = "< 0.001" if c.p < 0.001 else f"= {c.p:.3f}"
    said = f"{c.difference:+.2f} ({c.low:+.2f} to {c.high:+.2f}), p {p}: {sure}"
    return f"{said} ({notes})" if notes else said


def _say(found: Difference, one: Path, other: Path) -> None:
    if found.empty:
        say(f"{one} and {other} mean the same")
    _say_items(found.items)
    if found.scores:
        say("scores:")
    for pair in found.scores:
        if pair.comparison is None:
            beside = f"not compared: {pair.why}"
        else:
            c = pair.comparison.reversed()  # from the one to the other, as the values stand
            sure = "differs" if c.significant else "the test cannot tell them apart"
            beside = (
                f"{c.difference:+.2f} ({c.low:+.2f} to {c.high:+.2f}), {c.differ} of {c.count} clips: {sure}"
            )
        say(f"  {pair.evaluation}: {pair.one} -> {pair.other}; {beside}")


def _say_items(sections: Mapping[str, Sequence[Differing]]) -> None:
    for section, items in sections.items():
        say(f"{section}:")
        for item in items:
            if item.one is None and item.other is None:
                say(f"  {item.item}")
            else:
                say(f"  {item.item}: {_shown(item.one)} -> {_shown(item.other)}")


def _items_json(sections: Mapping[str, Sequence[Differing]]) -> dict[str, Any]:
    return {
        section: [{"item": item.item, "one": item.one, "other": item.other} for item in items]
        for section, items in sections.items()
    }


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else json_text(value)


def _json(found: Difference) -> dict[str, Any]:
    return {
        "differs": _items_json(found.items),
        "scores": [
            {
                "evaluation": pair.evaluation,
                "one": pair.one.to_json(),
                "other": pair.other.to_json(),
                "comparison": None if pair.comparison is None else pair.comparison.to_json(),
                "why": pair.why,
            }
            for pair in found.scores
        ],
    }

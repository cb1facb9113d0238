"""``kikimimi diff``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from kikimimi.console.terminal import json_text, say, say_json

if TYPE_CHECKING:
    from kikimimi.inspect.difference import Difference


def diff(
    one: Path = typer.Argument(..., metavar="ONE", help="A recipe (YAML), or a run folder."),
    other: Path = typer.Argument(..., metavar="OTHER", help="What it is compared with."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Print what differs between two recipes or runs in meaning, not in text.

    Resolved options, parameter counts and what trains; of two runs also data, versions, and their scores with
    the paired test.
    """
    from kikimimi.inspect.difference import find_difference
    from kikimimi.recipe import load_recipe
    from kikimimi.run.folder import RunFolder

    sides = [RunFolder.open(path) if path.is_dir() else load_recipe(path) for path in (one, other)]
    found = find_difference(*sides)
    if as_json:
        say_json(_json(found))
        return
    _say(found, one, other)


def _say(found: Difference, one: Path, other: Path) -> None:
    if found.empty:
        say(f"{one} and {other} mean the same")
    for section, items in found.items.items():
        say(f"{section}:")
        for item in items:
            if item.one is None and item.other is None:
                say(f"  {item.item}")
            else:
                say(f"  {item.item}: {_shown(item.one)} -> {_shown(item.other)}")
    if found.scores:
        say("scores:")
    for pair in found.scores:
        if pair.comparison is None:
            beside = f"not compared: {pair.why}"
        else:
            c = pair.comparison
            sure = "differs" if c.significant else "the test cannot tell them apart"
            beside = (
                f"{c.difference:+.2f} ({c.low:+.2f} to {c.high:+.2f}), {c.differ} of {c.count} clips: {sure}"
            )
        say(f"  {pair.evaluation}: {pair.one} -> {pair.other}; {beside}")


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else json_text(value)


def _json(found: Difference) -> dict[str, Any]:
    return {
        "differs": {
            section: [{"item": item.item, "one": item.one, "other": item.other} for item in items]
            for section, items in found.items.items()
        },
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

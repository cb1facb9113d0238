"""What a recipe's components are: where they come from, and how many parameters they have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from kikimimi.contracts import registry
from kikimimi.data.corpus import all_texts, training_corpora
from kikimimi.errors import RequestError
from kikimimi.model.assembly import assemble
from kikimimi.model.trainable import Count, count_parameters
from kikimimi.recipe import Recipe
from kikimimi.recipe.chosen import PARTS, Chosen


@dataclass(frozen=True)
class Description:
    """A component of a recipe.

    Attributes:
        kind: ``encoder``, ``adapter`` or ``llm``.
        name: Registered name.
        distribution: The pip distribution that registers it.
        version: That distribution's version.
        weights: Where its weights come from, or None for a component that is always trained from scratch.
        parameters: How many.
        trainable: How many of them some stage trains.
        problem: Why the counts are not exact yet, or None.
    """

    kind: str
    name: str
    distribution: str
    version: str
    weights: str | None
    parameters: int
    trainable: int
    problem: str | None

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return asdict(self)


def describe(recipe: Recipe, assets: Path | None = None) -> list[Description]:
    """Describe the components; their parameters are counted on the meta device, without any weights.

    Args:
        recipe: Resolved.
        assets: Of a run, where there is one.
    """
    problem = None
    try:
        counts = _count(recipe, assets, all_texts(training_corpora(recipe)) if assets is None else [])
    except RequestError as error:
        # The data is not there yet. A tokenizer of one character gives the sizes of everything but its rows.
        problem = f"a lower bound, without the tokens that the training data will bring: {error}"
        counts = _count(recipe, assets, ["?"])
    descriptions = []
    for part in PARTS:
        chosen = getattr(recipe, part)
        plugin = registry.find(part, chosen.name)
        descriptions.append(
            Description(
                part,
                chosen.name,
                plugin.distribution,
                plugin.version,
                " + ".join(_sources(chosen)) or None,
                counts[part].total,
                counts[part].trainable,
                problem if part == "llm" else None,
            )
        )
    return descriptions


def _sources(chosen: Chosen) -> Iterator[str]:
    """Yield where a plugin's weights come from, and those of plugins nested in it."""
    yield from chosen.sources().values()
    for plugin in chosen.nested().values():
        yield from _sources(plugin)


def _count(recipe: Recipe, assets: Path | None, texts: Iterable[str]) -> dict[str, Count]:
    with torch.device("meta"):
        model = assemble(recipe, texts=lambda: texts, assets=assets, load_weights=False)
    return count_parameters(model, recipe)


def as_comments(components: list[Description]) -> str:
    """Return one YAML comment line per component: the recipe that follows stays loadable."""
    rows = [("part", "name", "distribution", "parameters", "trainable", "weights")]
    for item in components:
        bound = ">= " if item.problem else ""
        rows.append(
            (
                item.kind,
                item.name,
                f"{item.distribution} {item.version}",
                f"{bound}{item.parameters:,}",
                f"{bound}{item.trainable:,}" if item.trainable else "0",
                item.weights or "from scratch",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if column in (3, 4) else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=False))
        ]
        lines.append("# " + "  ".join([*cells, row[-1]]))
    lines += [f"# {item.kind}: {line}" for item in components for line in (item.problem or "").splitlines()]
    return "\n".join(lines)

"""What a recipe's components are: where they come from, and how many parameters they have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from kikimimi import plugins
from kikimimi.data.corpus import Corpus
from kikimimi.errors import KikimimiError
from kikimimi.model.assembly import PARTS, Count, assemble, count_parameters
from kikimimi.recipe import Recipe


@dataclass(frozen=True)
class Description:
    """A component of a recipe.

    Attributes:
        kind: ``encoder``, ``adapter`` or ``llm``.
        name: Registered name.
        distribution: The pip distribution that registers it.
        version: That distribution's version.
        weights: Where its weights come from, or None for a component that is always trained from scratch.
        parameters: How many, or None where they cannot be counted yet.
        trainable: How many of them some stage trains, or None.
        problem: Why they cannot be counted, or None.
    """

    kind: str
    name: str
    distribution: str
    version: str
    weights: str | None
    parameters: int | None
    trainable: int | None
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
    counts: dict[str, Count] = {}
    problem: str | None = None
    try:
        with torch.device("meta"):
            model = assemble(
                recipe, texts=None if assets else lambda: _texts(recipe), assets=assets, load_weights=False
            )
        counts = count_parameters(model, recipe)
    except KikimimiError as error:
        problem = str(error)
    descriptions = []
    for part in PARTS:
        chosen = getattr(recipe, part)
        plugin = plugins.find(part, chosen.name)
        count = counts.get(part)
        descriptions.append(
            Description(
                part,
                chosen.name,
                plugin.distribution,
                plugin.version,
                getattr(chosen.config, "weights", None),
                count.total if count else None,
                count.trainable if count else None,
                problem,
            )
        )
    return descriptions


def _texts(recipe: Recipe) -> Iterator[str]:
    for stage in recipe.stages.values():
        for name, dataset in stage.data.items():
            yield from Corpus.open(name, dataset).texts()


def as_comments(components: list[Description]) -> str:
    """Return one YAML comment line per component: the recipe that follows stays loadable."""
    rows = [("part", "name", "distribution", "weights", "parameters", "trainable")]
    rows += [
        (
            item.kind,
            item.name,
            f"{item.distribution} {item.version}",
            item.weights or "from scratch",
            _number(item.parameters),
            _number(item.trainable),
        )
        for item in components
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(w) if i > 3 else cell.ljust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("# " + "  ".join(cells).rstrip())
    problems = dict.fromkeys(item.problem for item in components if item.problem)
    lines += [f"# parameters are not counted: {line}" for p in problems for line in p.splitlines()]
    return "\n".join(lines)


def _number(value: int | None) -> str:
    return "?" if value is None else f"{value:,}"

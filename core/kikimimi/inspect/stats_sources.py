"""Which shards are to be measured: patterns, or what a recipe trains on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kikimimi.data.shards.shards import Shards
from kikimimi.errors import RequestError
from kikimimi.recipe import load_recipe


def find_shards(sources: Sequence[str]) -> dict[str, list[Shards]]:
    """Return datasets by name: one of all patterns together, or those of a recipe's stages.

    A recipe's dataset that several stages read under one name is one dataset; where its shards differ from
    stage to stage, each is called after its stage, too.

    Args:
        sources: Patterns of shards; or one recipe (YAML), or one run folder.

    Raises:
        RequestError: Nothing is named, a recipe stands among shards, or a shard or its index is missing.
    """
    recipes = [source for source in sources if _is_recipe(source)]
    if recipes and len(sources) > 1:
        raise RequestError(
            f"{recipes[0]} is a recipe, and {len(sources) - 1} more are named: name a recipe alone, or shards"
        )
    if not recipes:
        if not sources:
            raise RequestError("no shards are named")
        name = sources[0] if len(sources) == 1 else f"{sources[0]} and {len(sources) - 1} more"
        return {name: [Shards(source, source) for source in sources]}
    path = Path(recipes[0])
    recipe = load_recipe(path / "recipe.yaml" if path.is_dir() else path)
    patterns: dict[str, dict[str, str]] = {}
    for stage, options in recipe.stages.items():
        for dataset, source in options.data.items():
            patterns.setdefault(dataset, {}).setdefault(source.shards, f"{stage}/{dataset}")
    return {
        dataset if len(found) == 1 else name: [Shards(dataset, pattern)]
        for dataset, found in patterns.items()
        for pattern, name in found.items()
    }


def _is_recipe(source: str) -> bool:
    path = Path(source)
    return path.suffix in (".yaml", ".yml") or (path / "recipe.yaml").is_file()

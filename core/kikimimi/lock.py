"""What a run was made of: plugins, weights and data, by version and hash."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from kikimimi import plugins
from kikimimi.recipe.chosen import PARTS
from kikimimi.weights import WEIGHT_PATTERNS, find_weights

if TYPE_CHECKING:
    from kikimimi.data.corpus import Corpus
    from kikimimi.recipe import Chosen, Recipe

LIBRARIES = ("kikimimi", "torch", "pytorch-lightning", "transformers", "peft", "webdataset", "numpy")


def lock(recipe: Recipe, corpora: list[Corpus]) -> dict[str, Any]:
    """Return the record that stands in a run folder as ``lock.json``.

    Args:
        recipe: Resolved.
        corpora: Every dataset that the stages train on.
    """
    return {
        "recipe": recipe.digest,
        "command": sys.argv,
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in LIBRARIES},
        "plugins": {part: plugin_lock(getattr(recipe, part)) for part in PARTS},
        "data": {corpus.name: corpus.shards.digest for corpus in corpora},
    }


def plugin_lock(chosen: Chosen) -> dict[str, Any]:
    """Return a component's provenance: distribution, version, and the hash of its weights."""
    plugin = plugins.find(chosen.kind, chosen.name)
    return {
        "name": chosen.name,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "weights": None,
        **{option: weights_lock(source) for option, source in chosen.sources().items()},
        **{option: plugin_lock(plugin) for option, plugin in chosen.nested().items()},
    }


def weights_lock(source: str | None) -> dict[str, Any] | None:
    """Return what pins a weights source: the Hub's commit, or the SHA-256 of each weights file."""
    if source is None:
        return None
    files = find_weights(source)
    if files is None:
        return {"source": source}
    if files.revision is not None:
        return {"source": source, "revision": files.revision}
    return {"source": source, "sha256": {name: files.sha256(name) for name in files.names(*WEIGHT_PATTERNS)}}

"""The blocks of a model: what is sharded, gathered and recomputed as one."""

from __future__ import annotations

from torch import nn

from kikimimi.model.speech_lm import SpeechLM
from kikimimi.recipe.chosen import PARTS


def find_blocks(model: SpeechLM) -> list[nn.Module]:
    """Return the blocks that the parts name (`Component.shard_classes`), in order; none lies in another."""
    classes = tuple(cls for part in PARTS for cls in getattr(model, part).shard_classes())
    found: list[nn.Module] = []
    inside: set[nn.Module] = set()
    for module in model.modules():
        if type(module) in classes and module not in inside:
            found.append(module)
            inside.update(module.modules())
    return found

"""Low-rank adaptation of any component, through peft."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from kikimimi.errors import RecipeError, listing

if TYPE_CHECKING:
    from kikimimi.recipe import LoRA


def add_lora(component: nn.Module, lora: LoRA, *, where: str) -> None:
    """Put low-rank matrices beside the linear layers whose names end with one of `lora.targets`.

    Source: Hu et al. 2021, arXiv 2106.09685; peft's implementation, in place.

    Args:
        component: What to adapt; it keeps its class.
        lora: Rank, scale, dropout and targets.
        where: The recipe's key, for messages.

    Raises:
        RecipeError: No layer has such a name.
    """
    linears = {name.rsplit(".", 1)[-1] for name, m in component.named_modules() if isinstance(m, nn.Linear)}
    missing = [target for target in lora.targets if target not in linears]
    if missing:
        raise RecipeError(
            [
                f"{where}.lora.targets: no linear layer is called {', '.join(missing)}. "
                f"Layers: {listing(linears)}"
            ]
        )
    alpha: Any = lora.alpha  # peft annotates an int; it only divides by the rank
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets),
    )
    with warnings.catch_warnings():
        # peft remarks on tied embeddings that it leaves alone here.
        warnings.simplefilter("ignore")
        inject_adapter_in_model(config, component)

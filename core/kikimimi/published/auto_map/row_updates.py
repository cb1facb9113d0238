"""Low-rank updates of the text model that act in some rows of a batch alone: those with audio."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class RowGate:
    """Knows in which rows updates act.

    A row's first call holds its placeholders; the cache keeps what was found for the calls that follow.
    """

    def __init__(self, audio_token_id: int) -> None:
        self._audio_token_id = audio_token_id
        self._rows: Any = None

    def ask(self, input_ids: Any, cache: Any) -> None:
        """Look in which rows there is audio.

        Args:
            input_ids: (B, L).
            cache: What earlier calls have left, or None.

        Raises:
            ValueError: There are embeddings alone, which do not tell, or a cache of other calls.
        """
        if input_ids is None:
            raise ValueError("updates act in rows with audio alone, which input_ids tell: embeddings do not")
        rows = (input_ids == self._audio_token_id).any(dim=1)
        if cache is not None:
            before = getattr(cache, "rows_with_audio", None)
            if before is None and cache.get_seq_length():
                raise ValueError(
                    "updates act in rows with audio alone, and this cache tells none: give a new one"
                )
            rows = rows if before is None else rows | before
            cache.rows_with_audio = rows
        self._rows = rows

    def __call__(self, layer: Any, inputs: Any, output: Tensor) -> Tensor:
        """Add a layer's update (B, L, width) to its output in those rows; a forward hook."""
        update = layer.update_out(layer.update_in(inputs[0].to(layer.update_in.weight.dtype)))
        update = torch.where(self._rows[:, None, None], update, 0.0) * layer.update_scale
        updated: Tensor = output + update.to(output.dtype)
        return updated


def add_updates(text_model: nn.Module, updates: dict[str, Any], audio_token_id: int) -> RowGate:
    """Put two matrices beside each linear layer that is updated.

    Args:
        text_model: The model.
        updates: `rank`, `scale`, and `targets`: last names of the layers.
        audio_token_id: Id that stands where audio tokens go.
    """
    gate = RowGate(audio_token_id)
    layers: list[Any] = [
        module
        for name, module in text_model.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in updates["targets"]
    ]
    for layer in layers:
        layer.update_in = nn.Linear(layer.in_features, updates["rank"], bias=False)
        layer.update_out = nn.Linear(updates["rank"], layer.out_features, bias=False)
        layer.update_scale = updates["scale"]
        layer.register_forward_hook(gate)
    return gate

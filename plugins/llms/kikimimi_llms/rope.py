"""Rotary embeddings whose frequencies depend on how long a sequence is: each sequence gets its own.

LongRoPE (Ding et al. 2024, arXiv 2402.13753: Phi-3, Phi-4-mini) has one set of factors for sequences up to
the length of pre-training and one for longer ones; dynamic NTK scaling has a base for every length above it.
transformers (`modeling_rope_utils.dynamic_rope_update`) goes by the largest position of a whole batch, with
dynamic NTK also of earlier batches: a short conversation would not have the logits that it has alone.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class PerSequence:
    """The forward pass of a rotary embedding; takes the place of its method.

    Args:
        rotary: A rotary embedding of transformers, of one type or of one for each type of layer.
    """

    def __init__(self, rotary: Any) -> None:
        self._rotary = rotary

    def __call__(
        self, x: Tensor, position_ids: Tensor, layer_type: str | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return cosines and sines of (B, N) positions, which restart at 0 with every sequence."""
        options = {} if layer_type is None else {"layer_type": layer_type}
        kind = _kind(self._rotary, layer_type)
        rotate: Callable[..., tuple[Tensor, Tensor]] = type(self._rotary).forward
        if position_ids.is_meta:  # operations are counted, whatever the frequencies
            rotate = inspect.unwrap(rotate)
        if kind is None or position_ids.is_meta:
            return rotate(self._rotary, x, position_ids, **options)
        known = _known_length(self._rotary, kind, layer_type)
        lengths = _lengths(position_ids)
        # LongRoPE tells two kinds of sequences apart, dynamic NTK every length that is not known.
        marks = lengths.clamp(min=known) if kind == "dynamic" else lengths > known  # (B, N)
        cos = sin = torch.empty(0)
        for number, mark in enumerate(torch.unique(marks).tolist()):
            here = marks == mark
            if kind == "dynamic":
                _forget(self._rotary, "" if layer_type is None else f"{layer_type}_")
            made = rotate(self._rotary, x, position_ids.where(here, 0), **options)
            if number == 0:
                cos, sin = made
            else:
                cos, sin = (
                    torch.where(here[..., None], new, old) for new, old in zip(made, (cos, sin), strict=True)
                )
        return cos, sin


def rope_per_sequence(model: nn.Module) -> bool:
    """Let every rotary embedding of a model of transformers go by the lengths of single sequences.

    Returns:
        Whether there is one whose frequencies depend on them.
    """
    found = [module for module in model.modules() if _length_dependent(module)]
    for module in found:
        module.forward = PerSequence(module)
    return bool(found)


def switching_length(model: nn.Module) -> int | None:
    """Return the longest sequence [positions] that has LongRoPE's short factors; None where nothing switches.

    The context of a model with dynamic NTK scaling ends where the scaling would begin.
    """
    lengths = [
        _known_length(module, "longrope", layer_type)
        for module in model.modules()
        if _length_dependent(module)
        for layer_type in _layer_types(module)
        if _kind(module, layer_type) == "longrope"
    ]
    return min(lengths, default=None)


def _layer_types(module: Any) -> list[str | None]:
    types = module.rope_type
    return list(types) if isinstance(types, dict) else [None]


def _kind(module: Any, layer_type: str | None) -> str | None:
    """Return ``longrope`` or ``dynamic``, or None for a type that does not depend on lengths."""
    name = module.rope_type if layer_type is None else module.rope_type[layer_type]
    if name == "longrope":
        return "longrope"
    return "dynamic" if "dynamic" in name else None


def _length_dependent(module: Any) -> bool:
    if not hasattr(module, "rope_type"):
        return False
    return any(_kind(module, layer_type) is not None for layer_type in _layer_types(module))


def _known_length(module: Any, kind: str, layer_type: str | None) -> int:
    """Return the longest sequence [positions] whose frequencies are those of pre-training."""
    if kind == "dynamic":
        longest: int = module.original_max_seq_len
        return longest
    options = module.config.rope_parameters
    known: int = (options if layer_type is None else options[layer_type])["original_max_position_embeddings"]
    return known


def _forget(module: Any, prefix: str) -> None:
    """Take back what the longest batch so far has left."""
    setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)
    original: Tensor = getattr(module, f"{prefix}original_inv_freq")
    setattr(module, f"{prefix}inv_freq", original.to(getattr(module, f"{prefix}inv_freq").device))


def _lengths(positions: Tensor) -> Tensor:
    """Return for each of (B, N) positions how long its sequence is, as far as it is there."""
    starts = positions == 0
    starts[:, 0] = True
    owner = starts.flatten().cumsum(0) - 1  # (B N)
    longest = torch.zeros_like(owner).scatter_reduce_(0, owner, positions.flatten(), "amax")
    return longest[owner].view_as(positions) + 1

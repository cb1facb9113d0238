"""Activation checkpointing: what happens inside a block is computed again in the backward pass, not kept.

Chen et al. 2016 (arXiv 1604.06174), through torch's own, which puts the random numbers back. No module is
wrapped, so that parameters keep the names that recipes and checkpoints know. Running statistics (batch norm)
count a batch once, however often it is computed.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from kikimimi.model.lora import AudioGate

_Buffer = tuple[nn.Module, str, Tensor]
"""A module, the name of one of its buffers, and its values."""


class Recomputed:
    """The forward pass of a block; takes the place of its method."""

    def __init__(self, block: nn.Module, gate: AudioGate | None) -> None:
        self._block, self._gate = block, gate
        self._forward = block.forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the block, keeping its input alone where a backward pass may come."""
        if not (torch.is_grad_enabled() and self._takes_part(args, kwargs)):
            return self._forward(*args, **kwargs)
        return checkpoint(self._forward, *args, use_reentrant=False, context_fn=self._contexts, **kwargs)

    def _takes_part(self, args: Any, kwargs: Any) -> bool:
        """Whether a backward pass will come: nothing of a frozen encoder is kept in any case."""
        trained = any(parameter.requires_grad for parameter in self._block.parameters())
        given = (value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor))
        return trained or any(value.requires_grad for value in given)

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Return the contexts of the two passes: the second finds all state as the first did."""
        modes = [(module, module.training) for module in self._block.modules()]
        gate = None if self._gate is None else self._gate.state()
        before = [(module, name, buffer.clone()) for module, name, buffer in self._statistics()]
        return nullcontext(), self._as_it_was(modes, gate, before)

    def _statistics(self) -> list[_Buffer]:
        """Return the buffers that a pass may change: what is saved of the modules that train."""
        return [
            (module, name, buffer)
            for module in self._block.modules()
            if module.training
            for name, buffer in module.named_buffers(recurse=False)
            if name not in module._non_persistent_buffers_set
        ]

    @contextmanager
    def _as_it_was(
        self, modes: list[tuple[nn.Module, bool]], gate: Any, before: list[_Buffer]
    ) -> Iterator[None]:
        now = [(module, module.training) for module, _ in modes]
        gate_now = None if self._gate is None else self._gate.state()
        kept = [(module, name, module.get_buffer(name)) for module, name, _ in before]
        self._set(modes, gate)
        _put(before)
        try:
            yield
        finally:
            _put(kept)
            self._set(now, gate_now)

    def _set(self, modes: list[tuple[nn.Module, bool]], gate: Any) -> None:
        for module, training in modes:
            module.training = training
        if self._gate is not None:
            self._gate.set(*gate)


def _put(buffers: list[_Buffer]) -> None:
    """Put buffers in their places: their values the backward pass may still have to see."""
    for module, name, buffer in buffers:
        module._buffers[name] = buffer


def recompute(blocks: list[nn.Module], gate: AudioGate | None) -> None:
    """Let blocks be computed again in the backward pass."""
    for block in blocks:
        block.forward = Recomputed(block, gate)

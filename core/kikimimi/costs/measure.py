"""One pass of a component on the meta device: its operations, and what it keeps for the backward pass."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx.experimental import _config

from kikimimi.costs.meta_mode import FlopCount, OnMeta
from kikimimi.costs.stacks import find_stacks, shortened


@dataclass(frozen=True)
class Pass:
    """What one forward pass, and the backward pass after it, take.

    Attributes:
        forward: Operations.
        backward: Operations; 0 where nothing needs a gradient.
        saved: Activations kept between the two [bytes].
        copies: Weights kept in half precision between the two [bytes].
    """

    forward: int
    backward: int
    saved: int
    copies: int

    def plus(self, other: Pass, times: int = 1) -> Pass:
        """Return this and another one so many times."""
        return Pass(*(getattr(self, n) + times * getattr(other, n) for n in _FIELDS))


_FIELDS = ("forward", "backward", "saved", "copies")


def measure(module: nn.Module, *args: Any, half: torch.dtype | None) -> Pass:
    """Like `measure_pass`, faster where the component holds many blocks of one kind: up to three are run.

    Where the third adds what the second did, so does each further one. A component of which that is not so
    (convolutions that halve the length), or that does not run with fewer blocks, is run as it is.
    """
    stacks = find_stacks(module)
    if not stacks:
        return measure_pass(module, *args, half=half)
    try:
        with shortened(stacks, {}):
            total = base = measure_pass(module, *args, half=half)
        for number, stack in enumerate(stacks):
            with shortened(stacks, {number: 2}):
                two = measure_pass(module, *args, half=half)
            with shortened(stacks, {number: 3}):
                three = measure_pass(module, *args, half=half)
            each = two.plus(base, -1)
            if three.plus(two, -1) != each:
                return measure_pass(module, *args, half=half)
            total = total.plus(each, stack.count - 1)
    except Exception:  # noqa: BLE001 - anybody's code, which may count on all of its blocks
        return measure_pass(module, *args, half=half)
    return total


def measure_pass(module: nn.Module, *args: Any, half: torch.dtype | None) -> Pass:
    """Run a component on the meta device, whatever device it is on; it is left as it was.

    Args:
        module: The component; which of its parameters require gradients counts.
        args: Of its forward pass: values on the meta device, lengths on the CPU.
        half: What autocast computes in, or None.

    Raises:
        Exception: The component does not run on the meta device; of any kind.
    """
    standing = {name: _on_meta(p, p.requires_grad) for name, p in module.named_parameters()}
    standing |= {name: _on_meta(buffer, False) for name, buffer in module.named_buffers()}
    weights = {tensor.untyped_storage()._cdata for tensor in standing.values()}
    kept: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage
        return tensor

    count = FlopCount()
    # What is selected by a mask is everything: one sequence at a time is run, without padding.
    settings: Any = _config
    no_padding = settings.patch(meta_nonzero_assume_all_nonzero=True)
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with _random_numbers_kept(), _augmentation_off(module), no_padding, torch.enable_grad(), count:
        with OnMeta(count, half) as mode, hooks:
            outputs = list(_tensors(functional_call(module, standing, args)))
        forward = count.flops
        total = sum((output.float().sum() for output in outputs if output.requires_grad), torch.zeros(()))
        if total.requires_grad:
            total.backward()  # type: ignore[no-untyped-call]  # torch's has no types
    copies = sum(storage.nbytes() for key, storage in kept.items() if key in mode.cast_storages)
    saved = sum(storage.nbytes() for storage in kept.values()) - copies
    return Pass(forward, count.flops - forward, saved, copies)


def _on_meta(tensor: Tensor, requires_grad: bool) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta", requires_grad=requires_grad)


def _tensors(output: Any) -> Iterator[Tensor]:
    """Yield what a component returns that a loss can be made of."""
    if isinstance(output, Tensor):
        yield output
        return
    yield getattr(output, "tokens", output).values
    yield from getattr(output, "losses", {}).values()


@contextmanager
def _random_numbers_kept() -> Iterator[None]:
    """Put all random generators back: a measurement must not change what a run draws."""
    numbers, arrays = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(numbers)
            np.random.set_state(arrays)


@contextmanager
def _augmentation_off(module: nn.Module) -> Iterator[None]:
    """Let the input be as it is: masks are drawn by length, on the CPU, and cost nothing."""
    augmentation = getattr(module, "augmentation", None)
    training = augmentation is not None and augmentation.training
    if augmentation is not None:
        augmentation.eval()
    try:
        yield
    finally:
        if augmentation is not None:
            augmentation.train(training)

"""One pass of a component on the meta device: its operations, and what it keeps for the backward pass.

Torch is made to behave there as on a GPU.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx.experimental import _config
from torch.overrides import TorchFunctionMode

from kikimimi.costs.flop_count import FlopCount


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


def measure_pass(module: nn.Module, *args: Any, half: torch.dtype | None) -> Pass:
    """Run a component on the meta device, whatever device it is on; it is left as it was.

    Args:
        module: The component; which of its parameters require gradients counts.
        args: The arguments of its forward pass: values on the meta device, lengths on the CPU.
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
    augmentation = getattr(module, "augmentation", None) or nn.Identity()
    training = augmentation.training
    augmentation.eval()
    try:
        yield
    finally:
        augmentation.train(training)


_HALF = frozenset(
    {
        F.linear, F.bilinear, torch.conv1d, torch.conv2d, torch.conv3d, torch.conv_transpose1d,
        torch.conv_transpose2d, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, Tensor.mm,
        torch.bmm, Tensor.bmm, torch.addmm, torch.baddbmm, torch.einsum,
    }
)  # fmt: skip
"""What autocast runs in half precision."""
_FULL = frozenset(
    {
        F.layer_norm, torch.layer_norm, F.group_norm, torch.group_norm, F.softmax, torch.softmax,
        Tensor.softmax, F.log_softmax, torch.log_softmax, Tensor.log_softmax, F.cross_entropy, torch.exp,
        Tensor.exp, torch.log, Tensor.log, torch.pow, Tensor.pow, Tensor.__pow__, torch.rsqrt, Tensor.rsqrt,
    }
)  # fmt: skip
"""What autocast runs in fp32, as it does on CUDA."""


_GROUPED = {getattr(F, "grouped_mm", None), getattr(torch, "_grouped_mm", None)} - {None}
"""Rows times one of several matrices each (experts); older releases of torch lack one or both."""


class OnMeta(TorchFunctionMode):
    """Fused attention, which keeps no scores; experts; CTC loss and autocast, which the meta device lacks.

    Args:
        count: Where attention's operations are counted: two products forward, up to four backward. What fused
            kernels compute again is not counted.
        half: The type that autocast computes in; None where there is no autocast.

    Attributes:
        cast_storages: What holds weights in half precision, by identity.
    """

    def __init__(self, count: FlopCount, half: torch.dtype | None) -> None:
        super().__init__()
        self._count = count
        self._half = half
        self._casts: dict[int, tuple[Tensor, Tensor]] = {}
        self.cast_storages: set[int] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (F.ctc_loss, torch.ctc_loss):
            return args[0].sum()
        if func in (Tensor.all, torch.all) and len(args) == 1 and args[0].is_meta:
            # Of one sequence without padding, all positions are real.
            return torch.tensor(True)
        if func is F.scaled_dot_product_attention:
            return self._attention(*(self._lower(value) for value in args[:3]), *args[3:], **kwargs)
        if func in _GROUPED:
            # Each row meets one matrix, whichever; on this device the kernel takes half precision alone.
            return args[0] @ args[1][0]
        if self._half is not None and func in _HALF:
            args = [self._lower(value) for value in args]
            kwargs = {name: self._lower(value) for name, value in kwargs.items()}
        elif self._half is not None and func in _FULL:
            args = [_raise(value) for value in args]
        return func(*args, **kwargs)

    def _lower(self, value: Any) -> Any:
        if self._half is None or not isinstance(value, Tensor) or value.dtype != torch.float32:
            return value
        if not value.is_leaf or value.dim() == 0:
            return value.to(self._half)
        # A weight is converted once, however often it is used; it is kept so that its identity stays its own.
        if id(value) not in self._casts:
            lowered = value.to(self._half)
            self._casts[id(value)] = (value, lowered)
            self.cast_storages.add(lowered.untyped_storage()._cdata)
        return self._casts[id(value)][1]

    def _attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        *rest: Any,  # what changes no shape
        **options: Any,
    ) -> Tensor:
        mixed: Tensor = _Attention.apply(query, key, value, attn_mask, self._count)
        return mixed


def _raise(value: Any) -> Any:
    half = isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16)
    return value.float() if half else value


class _Attention(torch.autograd.Function):
    """Shapes of fused attention: (B, heads, queries, width); keys and values may have fewer heads."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, count: FlopCount
    ) -> Tensor:
        *outer, queries, width = query.shape
        pairs = math.prod(outer) * queries * key.shape[-2]
        ctx.scores, ctx.mixing, ctx.count = 2 * pairs * width, 2 * pairs * value.shape[-1], count
        count.flops += ctx.scores + ctx.mixing
        out = query.new_empty(*outer, queries, value.shape[-1])
        ctx.save_for_backward(query, key, value, mask, out, query.new_empty(*outer, queries).float())
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        needs = ctx.needs_input_grad
        through = ctx.mixing if any(needs[i] for i in (0, 1, 3)) else 0
        ctx.count.flops += through + ctx.scores * (needs[0] + needs[1]) + ctx.mixing * needs[2]
        given = ctx.saved_tensors[:4]
        return *(torch.empty_like(t) if n else None for t, n in zip(given, needs, strict=False)), None

"""How torch behaves while a component runs on the meta device, so that what is counted is what a GPU does."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

_HALF = frozenset(
    {
        F.linear,
        F.bilinear,
        torch.conv1d,
        torch.conv2d,
        torch.conv3d,
        torch.conv_transpose1d,
        torch.conv_transpose2d,
        torch.matmul,
        Tensor.matmul,
        Tensor.__matmul__,
        torch.mm,
        Tensor.mm,
        torch.bmm,
        Tensor.bmm,
        torch.addmm,
        torch.baddbmm,
        torch.einsum,
    }
)
"""What autocast runs in half precision."""
_FULL = frozenset(
    {
        F.layer_norm,
        torch.layer_norm,
        F.group_norm,
        torch.group_norm,
        F.softmax,
        torch.softmax,
        Tensor.softmax,
        F.log_softmax,
        torch.log_softmax,
        Tensor.log_softmax,
        F.cross_entropy,
        torch.exp,
        Tensor.exp,
        torch.log,
        Tensor.log,
        torch.pow,
        Tensor.pow,
        Tensor.__pow__,
        torch.rsqrt,
        Tensor.rsqrt,
    }
)
"""What autocast runs in fp32, as it does on CUDA."""


class FlopCount(TorchDispatchMode):  # type: ignore[no-untyped-call]  # its metaclass has no types
    """Counts floating point operations, two for a multiply-add, by torch's own formulas.

    Attributes:
        flops: Counted so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        return out


class OnMeta(TorchFunctionMode):
    """Fused attention, which keeps no scores; CTC loss and autocast, which the meta device lacks.

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
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
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
        pairs = queries * key.shape[-2]
        for size in outer:
            pairs *= size
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

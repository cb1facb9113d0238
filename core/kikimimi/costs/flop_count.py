"""Floating point operations by torch's own formulas; blocks of a model repeat each other's calls."""

from collections.abc import Hashable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class FlopCount(TorchDispatchMode):  # type: ignore[no-untyped-call]  # its metaclass has no types
    """Counts floating point operations, two for a multiply-add, by torch's own formulas.

    Attributes:
        flops: Counted so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # nor has its constructor
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        call = _call(func, args, kwargs)
        if call in _COUNTED:
            made, flops = _COUNTED[call]
            out = _again(made)
        else:
            out = func(*args, **kwargs)
            formula = flop_registry.get(func._overloadpacket)
            flops = 0 if formula is None else formula(*args, **kwargs, out_val=out)
            if call is not None:
                with suppress(TypeError):
                    _COUNTED[call] = _described(out), flops
        self.flops += flops
        return out


_COUNTED: dict[Hashable, tuple[Any, int]] = {}
"""Shapes and operations of calls that make new tensors: blocks of a model repeat each other's calls."""


def _call(func: Any, args: Any, kwargs: Any) -> Hashable:
    """Return all that the result depends on; None where that is more than shapes, or it is no new tensor."""
    returns = func._schema.returns
    if any(str(one.type) != "Tensor" or one.alias_info is not None for one in returns) or not returns:
        return None
    try:
        key = func, _described(args), _described(tuple(kwargs.items()))
        hash(key)
    except TypeError:
        return None
    return key


def _described(value: Any) -> Any:
    """Return a value with the shape, the strides and the type of each tensor of the meta device in its place.

    Raises:
        TypeError: A tensor has values.
    """
    if isinstance(value, Tensor):
        if not value.is_meta:
            raise TypeError("its values may count")
        return Tensor, value.shape, value.stride(), value.dtype
    if isinstance(value, tuple | list):
        return type(value), *map(_described, value)
    return type(value), value


def _again(made: Any) -> Any:
    kind, *rest = made
    if kind is Tensor:
        shape, strides, dtype = rest
        return torch.empty_strided(shape, strides, dtype=dtype, device="meta")
    return kind(map(_again, rest)) if kind in (tuple, list) else rest[0]

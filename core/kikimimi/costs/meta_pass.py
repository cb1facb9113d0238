"""One pass of a component on the meta device: its operations, and what it keeps for the backward pass.

Torch is made to behave there as on a GPU; of many blocks of one kind three tell what all cost.
"""

from __future__ import annotations

import math
import random
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx.experimental import _config
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


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
        return Pass(*(a + times * b for a, b in zip(astuple(self), astuple(other), strict=True)))


def measure_pass(module: nn.Module, *args: Any, half: torch.dtype | None) -> Pass:
    """Like `measure_whole`, faster where the component holds many blocks of one kind: up to three are run.

    Where the third adds what the second did, so does each further one. A component of which that is not so
    (convolutions that halve the length), or that does not run with fewer blocks, is run as it is.
    """
    stacks = find_stacks(module)
    if not stacks:
        return measure_whole(module, *args, half=half)
    try:
        with blocks_left_out(stacks, {}):
            total = base = measure_whole(module, *args, half=half)
        for number, stack in enumerate(stacks):
            with blocks_left_out(stacks, {number: 2}):
                two = measure_whole(module, *args, half=half)
            with blocks_left_out(stacks, {number: 3}):
                three = measure_whole(module, *args, half=half)
            each = two.plus(base, -1)
            if three.plus(two, -1) != each:
                return measure_whole(module, *args, half=half)
            total = total.plus(each, stack.count - 1)
    except Exception:  # noqa: BLE001 - anybody's code, which may count on all of its blocks
        return measure_whole(module, *args, half=half)
    return total


def measure_whole(module: nn.Module, *args: Any, half: torch.dtype | None) -> Pass:
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


LEAST = 6
"""Fewer blocks than these are run as they are."""


@dataclass(frozen=True)
class Stack:
    """Blocks with the same parameters, of which the same are trained.

    Attributes:
        modules: What holds them, and possibly others.
        first: Position of the first one.
        count: How many.
    """

    modules: nn.ModuleList
    first: int
    count: int


def find_stacks(component: nn.Module) -> list[Stack]:
    """Return the longest stack of each list of modules in a component."""
    stacks = []
    for module in component.modules():
        if isinstance(module, nn.ModuleList) and len(module) >= LEAST:
            kinds = [_kind(block) for block in module]
            runs = [list(run) for _, run in groupby(range(len(module)), kinds.__getitem__)]
            longest = max(runs, key=len)
            if len(longest) >= LEAST:
                stacks.append(Stack(module, longest[0], len(longest)))
    inner = {id(part) for stack in stacks for block in stack.modules for part in block.modules()}
    return [stack for stack in stacks if id(stack.modules) not in inner]


def _kind(block: nn.Module) -> tuple[object, ...]:
    parameters = [(name, p.shape, p.dtype, p.requires_grad) for name, p in block.named_parameters()]
    return type(block), block.training, *parameters


@contextmanager
def blocks_left_out(stacks: Sequence[Stack], keep: Mapping[int, int]) -> Iterator[None]:
    """Leave blocks out of stacks for a while.

    Args:
        stacks: All stacks of a component.
        keep: How many blocks stay, by the number of the stack; one where it is not there.
    """
    whole = [dict(stack.modules._modules) for stack in stacks]
    try:
        for number, stack in enumerate(stacks):
            left_out = range(stack.first + keep.get(number, 1), stack.first + stack.count)
            blocks = [block for i, block in enumerate(stack.modules) if i not in left_out]
            stack.modules._modules = {str(i): block for i, block in enumerate(blocks)}
        yield
    finally:
        for stack, blocks_before in zip(stacks, whole, strict=True):
            stack.modules._modules = blocks_before


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

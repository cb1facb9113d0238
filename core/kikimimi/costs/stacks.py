"""Blocks of one kind that stand one after the other in a component, of which three tell what all cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby

from torch import nn

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
def shortened(stacks: Sequence[Stack], keep: Mapping[int, int]) -> Iterator[None]:
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

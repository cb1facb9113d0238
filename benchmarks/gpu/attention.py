"""Attention over a pack: sequence by sequence, as kikimimi runs it, and what could run it in one go."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kikimimi.model.attention import packed_attention

from .clock import forget_peak, peak_memory, seconds
from .size import Size
from .subject import Subject

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(1, heads, N, head width) queries, and keys and values with fewer heads, to (1, N, heads, head width)."""


def attention(subject: Subject) -> dict[str, Any]:
    """Time of a forward pass and of both, for packs of many short and of few long sequences."""
    size, device = subject.size, subject.device
    found: dict[str, Any] = {}
    for name, lengths in packs(size.positions).items():
        query, key, value = _inputs(size, device)
        expected = by_sequence(lengths)(query, key, value).detach().float()
        methods: dict[str, Any] = {}
        found[name] = {"lengths": lengths, "methods": methods}
        for method, make in METHODS.items():
            try:
                attend = make(lengths, device)
                methods[method] = _measured(attend, (query, key, value), expected, subject)
            except Exception as error:  # noqa: BLE001 - what this build of torch cannot do is a result, too
                methods[method] = {"error": f"{type(error).__name__}: {error}"[:2000]}
            subject.keep(found)  # what is compiled may take longer than there is time
    return found


def packs(positions: int) -> dict[str, list[int]]:
    """Return lengths of sequences that fill a pack: 12 s of speech each, two halves, and a mixture."""
    short = positions // 12
    mixed = [positions // share for share in (2, 8, 8, 16, 16, 32, 32)]
    return {
        "short": [short] * 11 + [positions - 11 * short],
        "long": [positions // 2, positions - positions // 2],
        "mixed": [*mixed, positions - sum(mixed)],
    }


def by_sequence(lengths: list[int], device: torch.device | None = None) -> Attend:
    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return packed_attention(nn.Module(), query, key, value, None, sequence_lengths=lengths)[0]

    return attend


def dense_mask(lengths: list[int], device: torch.device) -> Attend:
    owner = _owner(lengths, device)
    mask = (owner[:, None] == owner) & torch.ones(len(owner), len(owner), device=device).tril().bool()

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        made = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)
        return made.transpose(1, 2)

    return attend


def nested(lengths: list[int], device: torch.device) -> Attend:
    offsets = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], device=device)

    def jagged(values: Tensor, heads: int) -> Tensor:
        rows = (
            values[0].transpose(0, 1).repeat_interleave(heads // values.shape[1], dim=1)
        )  # (N, heads, width)
        return torch.nested.nested_tensor_from_jagged(rows, offsets).transpose(1, 2)

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        heads = query.shape[1]
        q, k, v = (jagged(values, heads) for values in (query, key, value))
        made = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return made.transpose(1, 2).values()[None]

    return attend


def varlen(lengths: list[int], device: torch.device) -> Attend:
    from torch.nn.attention import varlen as module

    run: Any = module.varlen_attn
    ends = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], device=device, dtype=torch.int32)
    names = inspect.signature(run).parameters
    causal: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in names else {"is_causal": True}

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        heads = query.shape[1]
        rows = [
            values[0].transpose(0, 1).repeat_interleave(heads // values.shape[1], dim=1).contiguous()
            for values in (query, key, value)
        ]
        made: Tensor = run(*rows, ends, ends, max(lengths), max(lengths), **causal)
        return made[None]

    return attend


def flex(lengths: list[int], device: torch.device) -> Attend:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    owner = _owner(lengths, device)
    total = len(owner)

    def allowed(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return (owner[q] == owner[kv]) & (q >= kv)

    blocks = create_block_mask(allowed, None, None, total, total, device=str(device))
    run: Any = torch.compile(flex_attention) if device.type == "cuda" else flex_attention

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        made: Tensor = run(query, key, value, block_mask=blocks, enable_gqa=True)
        return made.transpose(1, 2)

    return attend


METHODS: dict[str, Callable[[list[int], torch.device], Attend]] = {
    "by_sequence": by_sequence,
    "dense_mask": dense_mask,
    "nested": nested,
    "varlen": varlen,
    "flex": flex,
}


def _measured(
    attend: Attend, inputs: tuple[Tensor, Tensor, Tensor], expected: Tensor, subject: Subject
) -> dict[str, Any]:
    device, repeats = subject.device, subject.size.repeats
    given = [one.detach() for one in inputs]
    difference = (attend(*given).float() - expected).abs().max()
    forward = seconds(device, lambda: attend(*given), repeats)

    def both() -> None:
        torch.autograd.grad(attend(*inputs).float().sum(), inputs)

    result: dict[str, Any] = {"forward_seconds": forward, "difference": float(difference)}
    try:
        forget_peak(device)
        result |= {"both_seconds": seconds(device, both, repeats), "peak_memory": peak_memory(device)}
    except Exception as error:  # noqa: BLE001 - some have no backward pass on some devices
        result["error"] = f"backward: {type(error).__name__}: {error}"[:2000]
    return result


def _inputs(size: Size, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    heads = (size.num_heads, size.num_kv_heads, size.num_kv_heads)
    query, key, value = (
        torch.randn(1, number, size.positions, size.head_dim, device=device, dtype=torch.bfloat16)
        for number in heads
    )
    return query.requires_grad_(), key.requires_grad_(), value.requires_grad_()


def _owner(lengths: list[int], device: torch.device) -> Tensor:
    """Return (N,) the sequence that each position belongs to."""
    numbers = torch.arange(len(lengths), device=device)
    return numbers.repeat_interleave(torch.tensor(lengths, device=device))

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kikimimi.model.attention import packed_attention

LENGTHS = [7, 1, 5]


def heads(seed: int = 0, *, count: int = 4) -> Tensor:
    return torch.randn(1, count, sum(LENGTHS), 8, generator=torch.Generator().manual_seed(seed))


def by_hand(
    query: Tensor, key: Tensor, value: Tensor, *, window: int | None = None, softcap: float | None = None
) -> Tensor:
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    output = torch.zeros_like(query)
    start = 0
    for length in LENGTHS:
        for i in range(start, start + length):
            first = start if window is None else max(start, i - window + 1)
            for head in range(query.shape[1]):
                scores = key[0, head, first : i + 1] @ query[0, head, i] * 8**-0.5
                if softcap is not None:
                    scores = softcap * torch.tanh(scores / softcap)
                output[0, head, i] = scores.softmax(0) @ value[0, head, first : i + 1]
        start += length
    return output.transpose(1, 2)


@pytest.mark.parametrize("window", [None, 3, 100])
@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("key_heads", [4, 2])
def test_a_pack_equals_attention_by_hand(window: int | None, softcap: float | None, key_heads: int) -> None:
    query, key, value = heads(0), heads(1, count=key_heads), heads(2, count=key_heads)
    found, weights = packed_attention(
        nn.Module(), query, key, value, None, sliding_window=window, softcap=softcap, sequence_lengths=LENGTHS
    )
    assert weights is None
    torch.testing.assert_close(
        found, by_hand(query, key, value, window=window, softcap=softcap), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("kind", ["none", "bool", "additive"])
def test_capped_scores_outside_a_pack(kind: str) -> None:
    query, key, value = (heads(seed)[:, :, :7] for seed in range(3))
    allowed = torch.ones(7, 7, dtype=torch.bool).tril()[None, None]
    additive = torch.zeros(1, 1, 7, 7).masked_fill(~allowed, -1e9)
    mask = {"none": None, "bool": allowed, "additive": additive}[kind]
    found, _ = packed_attention(nn.Module(), query, key, value, mask, softcap=0.7)
    expected, _ = packed_attention(nn.Module(), query, key, value, None, softcap=0.7, sequence_lengths=[7])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    # one new query sees every key, as in generation with a cache
    last, _ = packed_attention(nn.Module(), query[:, :, -1:], key, value, None, softcap=0.7)
    torch.testing.assert_close(last, expected[:, -1:], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"s_aux": torch.zeros(4)}, "Module uses attention sinks, which are not supported"),
        ({"position_bias": torch.zeros(1)}, "Module uses position biases"),
    ],
)
def test_what_is_not_computed_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(NotImplementedError, match=message):
        packed_attention(nn.Module(), heads(), heads(), heads(), None, sequence_lengths=LENGTHS, **given)


def test_a_pack_without_its_lengths_is_refused() -> None:
    empty = torch.empty(1, 1, 0, 0, dtype=torch.bool)
    with pytest.raises(NotImplementedError, match="is not told the lengths of a pack"):
        packed_attention(nn.Module(), heads(), heads(), heads(), empty)

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kikimimi import AdapterContext, CharacterVocabulary, Padded
from kikimimi.testing import parametrize_checks
from kikimimi_adapters.alignformer import AlignFormerAdapter, number_windows
from kikimimi_adapters.ctc_head import CTCHead
from kikimimi_adapters.qformer import QFormerLayer

SMALL = {"hidden_dim": 16, "num_heads": 2, "ffn_dim": 32}
BLANK = 4


def build(**options: Any) -> AlignFormerAdapter:
    torch.manual_seed(0)
    context = AdapterContext(
        in_dim=5, out_dim=6, frame_rate=50.0, vocabulary=CharacterVocabulary("abc"), texts=lambda: ["abcd"]
    )
    adapter = AlignFormerAdapter(AlignFormerAdapter.Config(**{**SMALL, **options}), context)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return adapter.eval()


def forced(**options: Any) -> AlignFormerAdapter:
    """Return an adapter whose head reads the label off the frame."""
    adapter = build(**options)
    with torch.no_grad():
        adapter.ctc.head.weight.copy_(torch.eye(5))
        adapter.ctc.head.bias.zero_()
    return adapter


def frames_of(labels: str) -> Tensor:
    """Return frames with these labels (`_` is blank), each a little different."""
    at = torch.tensor(["?abc_".index(label) for label in labels])
    noise = torch.rand(len(at), 5, generator=torch.Generator().manual_seed(len(at)))
    return torch.nn.functional.one_hot(at, 5) * 3.0 + noise


@parametrize_checks(
    AlignFormerAdapter,
    characters=AlignFormerAdapter.Config(vocabulary="characters", num_layers=1, dropout=0.0),
)
def test_contract(check: Any) -> None:
    check()


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("__aa_b__", [0, 0, 0, 0, 1, 1, 1, 1]),  # blanks belong to the label after them, or to the last one
        ("abc", [0, 1, 2]),
        ("a_a", [0, 1, 1]),  # a blank parts equal labels
        ("aab", [0, 0, 1]),
        ("_____", [0, 0, 0, 0, 0]),
        ("c", [0]),
        ("_", [0]),
    ],
)
def test_windows_by_hand(labels: str, expected: list[int]) -> None:
    # What stands past the length continues the last run, or ends it: neither matters.
    for after in ("_", labels[-1], "a"):
        at = torch.tensor([["?abc_".index(label) for label in labels + after * 3]])
        real = torch.arange(at.shape[1])[None] < len(labels)
        windows, lengths = number_windows(at, real, BLANK)
        assert windows[0, : len(labels)].tolist() == expected
        assert lengths.tolist() == [max(expected) + 1]


CLIPS = {
    "__aa_b__c": ["__aa", "_b", "__c"],
    "_" * 40 + "ab" + "_" * 9: ["_" * 40 + "a", "b" + "_" * 9],  # sizes far apart
    "____": ["____"],
    "a": ["a"],
}


@pytest.mark.parametrize("garbage", [0.0, float("nan")])
def test_equals_the_q_former_on_each_window_by_itself(garbage: float) -> None:
    adapter = forced()
    batch = Padded.stack([frames_of(labels) for labels in CLIPS])
    dirty = Padded(batch.values.masked_fill(~batch.mask()[..., None], garbage), batch.lengths)
    with torch.no_grad():
        tokens = adapter(dirty).tokens.unstack()
        for labels, found in zip(CLIPS, tokens, strict=True):
            windows = torch.split(frames_of(labels), [len(window) for window in CLIPS[labels]])
            alone = [
                adapter.proj(
                    adapter.qformer(
                        adapter.query, [(window[None], torch.ones(1, len(window), dtype=torch.bool))]
                    )
                )[0, 0]
                for window in windows
            ]
            torch.testing.assert_close(found, torch.stack(alone), rtol=0, atol=1e-5)


def test_every_layer_is_called_once_however_many_windows_there_are() -> None:
    # Under FSDP each call gathers the layer's parameters from all ranks, whose clips differ.
    adapter = forced()
    calls: list[int] = []
    for number, layer in enumerate(adapter.qformer.encoder.layer):
        layer.register_forward_hook(lambda *_, number=number: calls.append(number))
    adapter(Padded.stack([frames_of(labels) for labels in CLIPS]))
    assert calls == [0, 1]


def test_tokens_keep_the_order_of_the_labels() -> None:
    adapter = forced()
    with torch.no_grad():
        both = adapter(Padded.stack([frames_of("___aabc")])).tokens.values[0]
        assert len({tuple(token.tolist()) for token in both}) == 3
        first = adapter(Padded.stack([frames_of("___aabc")[:5]])).tokens.values[0]
    torch.testing.assert_close(both[:1], first, rtol=0, atol=1e-5)


def test_the_loss_is_the_ctc_heads() -> None:
    adapter = build(loss_weight=2.0)
    clips = [torch.randn(9, 5), torch.randn(2, 5), torch.randn(7, 5)]
    out = adapter(Padded.stack(clips), ["abc", "abc", None])
    assert out.counts == {"ctc_infeasible": 1, "ctc_without_transcript": 1}
    expected = torch.nn.functional.ctc_loss(
        adapter.ctc.head(clips[0]).log_softmax(-1)[:, None],
        torch.tensor([[1, 2, 3]]),
        torch.tensor([9]),
        torch.tensor([3]),
        blank=BLANK,
    )
    torch.testing.assert_close(out.losses["ctc"], 2 * expected)
    assert adapter(Padded.stack(clips)).losses == {}


def test_the_windows_give_the_head_no_gradient() -> None:
    adapter = build()
    adapter(Padded.stack([torch.randn(9, 5)])).tokens.values.square().sum().backward()
    assert adapter.ctc.head.weight.grad is None
    assert adapter.query.grad is not None


def test_labels_are_the_llms_tokens_unless_told_otherwise(tmp_path: Path) -> None:
    assert build().ctc.head.out_features == 3 + 1 + 1
    characters = build(vocabulary="characters")
    assert characters.ctc.head.out_features == 4 + 1 + 1
    characters.save_assets(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["ctc_vocabulary.json"]


def test_full_size() -> None:
    with torch.device("meta"):
        context = AdapterContext(in_dim=1280, out_dim=4096, frame_rate=50.0)
        adapter = AlignFormerAdapter(AlignFormerAdapter.Config(vocabulary="bytes"), context)
    sizes = {name: sum(p.numel() for p in child.parameters()) for name, child in adapter.named_children()}
    layer = 6 * (768 * 768 + 768) + 2 * (1280 * 768 + 768) + 768 * 3072 * 2 + 3072 + 768 + 3 * 2 * 768
    assert sizes == {
        "ctc": 1280 * 257 + 257,
        "qformer": 2 * layer + 2 * 768,
        "proj": 768 * 4096 + 4096,
    }


def test_tiny_config_keeps_the_structure() -> None:
    config = AlignFormerAdapter.Config(num_layers=1, loss_weight=0.5)
    tiny = AlignFormerAdapter.tiny_config(config)
    assert (tiny.num_layers, tiny.hidden_dim, tiny.loss_weight, tiny.vocabulary) == (1, 32, 0.5, "bytes")


def test_shard_classes() -> None:
    assert build().shard_classes() == {CTCHead, QFormerLayer}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocabulary": "phones"}, "vocabulary: 'phones' is not one of"),
        ({"num_heads": 5}, r"num_heads \(5\) must divide hidden_dim \(768\)"),
        ({"num_layers": 0}, "num_layers: must be at least 1, not 0"),
        ({"dropout": -0.1}, "dropout: must be at least 0 and below 1, not -0.1"),
        ({"freeze_head": True}, "freeze_head needs head_weights"),
    ],
)
def test_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AlignFormerAdapter.Config(**options)

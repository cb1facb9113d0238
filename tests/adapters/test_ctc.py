from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kikimimi import AdapterContext, Padded
from kikimimi.testing import parametrize_checks
from kikimimi_adapters.ctc import CTCAdapter, group_runs
from kikimimi_adapters.ctc_head import CTCHead
from kikimimi_adapters.mlp import MLP

TEXTS = ["abc", "cab"]
BLANK = 4
"""Of a head over a, b, c: 0 stands for an unknown character, 1 to 3 for these."""


def context(in_dim: int = 5, out_dim: int = 5, **known: Any) -> AdapterContext:
    given: dict[str, Any] = {"texts": lambda: TEXTS, **known}
    return AdapterContext(in_dim=in_dim, out_dim=out_dim, frame_rate=50.0, **given)


def build(known: AdapterContext | None = None, **options: Any) -> CTCAdapter:
    torch.manual_seed(0)
    return CTCAdapter(CTCAdapter.Config(**options), known or context()).eval()


def forced(**options: Any) -> CTCAdapter:
    """Return an adapter whose head reads the label off the frame (one-hot) and that copies averages."""
    adapter = build(**options)
    (proj,) = adapter.proj
    with torch.no_grad():
        for layer in (adapter.ctc.head, proj):
            assert isinstance(layer, torch.nn.Linear)
            layer.weight.copy_(torch.eye(5))
            layer.bias.zero_()
    return adapter


def frames_of(labels: str) -> Tensor:
    """Return frames with these labels (`_` is blank), the k-th of size k + 1."""
    at = ["?abc_".index(label) for label in labels]
    return torch.nn.functional.one_hot(torch.tensor(at), 5) * (torch.arange(len(at)) + 1.0)[:, None]


def sized(*values: dict[str, float]) -> list[list[float]]:
    return [[token.get(label, 0.0) for label in "?abc_"] for token in values]


@parametrize_checks(
    CTCAdapter,
    non_blank=CTCAdapter.Config(),
    average=CTCAdapter.Config(mode="average", num_layers=2),
)
def test_contract(check: Any) -> None:
    check()


def test_average_makes_a_token_of_every_run() -> None:
    out = forced(mode="average")(Padded.stack([frames_of("__aab_b")])).tokens
    expected = sized({"_": 1.5}, {"a": 3.5}, {"b": 5.0}, {"_": 6.0}, {"b": 7.0})
    assert out.values[0].tolist() == expected
    assert out.lengths.tolist() == [5]


def test_non_blank_drops_blanks_and_keeps_what_they_separate_apart() -> None:
    out = forced()(Padded.stack([frames_of("__aab_b")])).tokens
    assert out.values[0].tolist() == sized({"a": 3.5}, {"b": 5.0}, {"b": 7.0})
    assert out.lengths.tolist() == [3]


@pytest.mark.parametrize("mode", ["average", "non_blank"])
def test_a_clip_of_blanks_is_one_token_the_average_of_all_its_frames(mode: str) -> None:
    out = forced(mode=mode)(Padded.stack([frames_of("___"), frames_of("_")])).tokens
    assert out.lengths.tolist() == [1, 1]
    assert out.values[:, 0].tolist() == sized({"_": 2.0}, {"_": 1.0})


def test_a_batch_of_unequal_lengths() -> None:
    adapter = forced()
    batch = Padded.stack([frames_of("a_bb_c"), frames_of("__"), frames_of("bbb")])
    dirty = Padded(batch.values.masked_fill(~batch.mask()[..., None], float("nan")), batch.lengths)
    out = adapter(dirty).tokens
    assert out.lengths.tolist() == [3, 1, 1]
    first, second, third = out.unstack()
    assert first.tolist() == sized({"a": 1.0}, {"b": 3.5}, {"c": 6.0})
    assert second.tolist() == sized({"_": 1.5})
    assert third.tolist() == sized({"b": 2.0})


def test_as_many_tokens_as_frames_at_most() -> None:
    adapter = forced()
    out = adapter(Padded.stack([frames_of("abcabc")])).tokens
    assert out.lengths.tolist() == [adapter.max_tokens(6)] == [6]


def test_groups_by_hand() -> None:
    labels = torch.tensor([[4, 1, 1, 4, 1, 2], [4, 4, 4, 1, 1, 1]])
    real = torch.tensor([[True] * 6, [True] * 3 + [False] * 3])
    groups, lengths = group_runs(labels, real, BLANK)
    assert groups[0].tolist() == [-1, 0, 0, -1, 1, 2]
    assert groups[1].tolist() == [0, 0, 0, -1, -1, -1]
    assert lengths.tolist() == [3, 1]


def test_the_gradient_passes_through_averages_and_not_through_the_choice_of_runs() -> None:
    adapter = build()
    frames = torch.randn(9, 5, requires_grad=True)
    adapter(Padded.stack([frames])).tokens.values.square().sum().backward()
    assert frames.grad is not None
    assert frames.grad.any()
    assert adapter.ctc.head.weight.grad is None


def by_torch(adapter: CTCAdapter, clips: list[Tensor], targets: list[list[int]]) -> Tensor:
    """Score clips with torch's loss, one padded batch."""
    scores = torch.nn.utils.rnn.pad_sequence([adapter.ctc.head(clip) for clip in clips]).log_softmax(-1)
    return torch.nn.functional.ctc_loss(
        scores,
        torch.nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids in targets], batch_first=True),
        torch.tensor([len(clip) for clip in clips]),
        torch.tensor([len(ids) for ids in targets]),
        blank=BLANK,
    )


def test_the_loss_is_torchs() -> None:
    adapter = build(loss_weight=0.3)
    clips = [torch.randn(length, 5) for length in (9, 14, 6)]
    out = adapter(Padded.stack(clips), ["abc", "cabba", "z"])
    expected = 0.3 * by_torch(adapter, clips, [[1, 2, 3], [3, 1, 2, 2, 1], [0]])
    torch.testing.assert_close(out.losses["ctc"], expected)
    assert out.counts == {"ctc_without_transcript": 0, "ctc_infeasible": 0}


def test_a_loss_worked_out_by_hand() -> None:
    # Two frames, even odds for 5 labels, target a: aa, a_, _a out of 25 paths, over one label.
    adapter = build()
    with torch.no_grad():
        adapter.ctc.head.weight.zero_()
        adapter.ctc.head.bias.zero_()
    out = adapter(Padded.stack([torch.randn(2, 5)]), ["a"])
    assert out.losses["ctc"].item() == pytest.approx(-torch.tensor(3 / 25).log().item())


def test_clips_that_cannot_be_aligned_are_left_out_and_counted() -> None:
    adapter = build()
    clips = [torch.randn(length, 5) for length in (9, 3, 4, 8, 4)]
    # "aab" needs a blank between its equal labels: 4 frames, and the second clip has 3.
    out = adapter(Padded.stack(clips), ["abc", "aab", "abcab", None, "aab"])
    assert out.counts == {"ctc_without_transcript": 1, "ctc_infeasible": 2}
    expected = by_torch(adapter, [clips[0], clips[4]], [[1, 2, 3], [1, 1, 2]])
    torch.testing.assert_close(out.losses["ctc"], expected)


def test_the_loss_of_a_batch_is_the_mean_over_its_clips() -> None:
    adapter = build()
    clips, texts = [torch.randn(length, 5) for length in (9, 14, 6)], ["abc", "ca", ""]
    batch = Padded.stack(clips)
    dirty = Padded(batch.values.masked_fill(~batch.mask()[..., None], float("nan")), batch.lengths)
    together = adapter(dirty, texts).losses["ctc"]
    alone = [
        adapter(Padded.stack([clip]), [text]).losses["ctc"] for clip, text in zip(clips, texts, strict=True)
    ]
    torch.testing.assert_close(together, torch.stack(alone).mean())


def test_no_clip_with_a_loss_gives_a_zero_that_reaches_the_head() -> None:
    adapter = build()
    out = adapter(Padded.stack([torch.randn(2, 5), torch.randn(3, 5)]), [None, "abcabc"])
    assert out.counts == {"ctc_without_transcript": 1, "ctc_infeasible": 1}
    assert out.losses["ctc"].item() == 0.0
    out.losses["ctc"].backward()
    assert adapter.ctc.head.weight.grad is not None
    assert not adapter.ctc.head.weight.grad.any()


def test_without_transcripts_there_is_no_loss() -> None:
    adapter = build()
    out = adapter(Padded.stack([torch.randn(6, 5)]))
    assert (out.losses, out.counts) == ({}, {})


@pytest.mark.parametrize("train", [False, True])
def test_tokens_do_not_depend_on_transcripts(train: bool) -> None:
    adapter = build().train(train)
    batch = Padded.stack([torch.randn(9, 5), torch.randn(4, 5)])
    with_text, without = adapter(batch, ["abc", "b"]).tokens, adapter(batch).tokens
    assert torch.equal(with_text.values, without.values)
    assert torch.equal(with_text.lengths, without.lengths)


def test_the_head_learns_to_spell() -> None:
    adapter = build().train()
    frames = torch.randn(12, 5)
    optimiser = torch.optim.Adam(adapter.ctc.parameters(), lr=0.1)
    for _ in range(150):
        optimiser.zero_grad()
        adapter(Padded.stack([frames]), ["abc"]).losses["ctc"].backward()
        optimiser.step()
    out = adapter.eval()(Padded.stack([frames]))
    assert out.tokens.lengths.tolist() == [3]


def test_tiny_config_needs_no_data() -> None:
    config = CTCAdapter.Config(mode="average", num_layers=2, loss_weight=0.5)
    tiny = CTCAdapter.tiny_config(config)
    assert tiny == replace(config, vocabulary="bytes", hidden_dim=32)
    head = CTCAdapter.Config(vocabulary="head", head_weights="org/name", freeze_head=True, loss_weight=0.0)
    assert CTCAdapter.tiny_config(head) == CTCAdapter.Config(vocabulary="bytes")


def test_shard_classes() -> None:
    assert build().shard_classes() == {CTCHead, MLP}


def test_two_layers() -> None:
    linears = [m for m in build(num_layers=2, hidden_dim=7).proj if isinstance(m, torch.nn.Linear)]
    assert [(m.in_features, m.out_features, m.bias is not None) for m in linears] == [
        (5, 7, True),
        (7, 5, True),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "sum"}, "mode: 'sum' is not one of"),
        ({"vocabulary": "words"}, "vocabulary: 'words' is not one of"),
        ({"loss_weight": -1.0}, "loss_weight: must be at least 0, not -1.0"),
        ({"vocabulary": "head"}, "vocabulary: head needs head_weights"),
        ({"head_weights": "org/name"}, "head_weights brings its own labels: set vocabulary: head"),
        ({"freeze_head": True}, "freeze_head needs head_weights"),
        ({"loss_weight": 0.0}, "loss_weight: 0 needs freeze_head"),
        ({"num_layers": 0}, "num_layers: must be at least 1, not 0"),
        ({"num_layers": 2, "hidden_dim": 0}, "hidden_dim: must be at least 1, not 0"),
        ({"hidden_dim": 8}, "hidden_dim is read only with num_layers of 2 or more"),
    ],
)
def test_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CTCAdapter.Config(**options)

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kikimimi import AdapterContext, CharacterVocabulary, Padded
from kikimimi.testing import parametrize_checks
from kikimimi_adapters.cif import CIFAdapter, FrameWeights, integrate
from kikimimi_adapters.mlp import MLP


def build(in_dim: int = 3, out_dim: int = 3, **options: Any) -> CIFAdapter:
    torch.manual_seed(0)
    context = AdapterContext(in_dim=in_dim, out_dim=out_dim, frame_rate=50.0)
    return CIFAdapter(CIFAdapter.Config(**{"vocabulary": "characters", **options}), context).eval()


def forced(**options: Any) -> CIFAdapter:
    """Return an adapter that reads each frame's weight off its first value and copies what it adds up."""
    adapter = build(kernel_size=1, **options)
    (proj,) = adapter.proj
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.zero_()
        # A frame's first value is above 0, so that ReLU lets it pass; 10 is taken off again.
        adapter.weights.conv.weight[0, 0] = 1.0
        adapter.weights.conv.bias[0] = 10.0  # type: ignore[index]
        adapter.weights.linear.weight[0, 0] = 1.0
        adapter.weights.linear.bias[0] = -10.0
        assert isinstance(proj, torch.nn.Linear)
        proj.weight.copy_(torch.eye(3))
    return adapter


def frames_of(*weights: float) -> Tensor:
    """Return frames of these weights; the other values number them."""
    at = torch.tensor(weights)
    number = torch.arange(len(weights)) + 1.0
    return torch.stack([at.logit(), number, number**2], dim=1)


def by_loop(frames: list[list[float]], weights: list[float], tail: float, most: int) -> list[list[float]]:
    """Integrate and fire as the paper tells it, frame by frame."""
    tokens: list[list[float]] = []
    collected, state = 0.0, [0.0] * len(frames[0])
    for frame, weight in zip(frames, weights, strict=True):
        while collected + weight >= 1.0 - 1e-9:
            used = 1.0 - collected
            tokens.append([s + used * f for s, f in zip(state, frame, strict=True)])
            weight -= used
            collected, state = 0.0, [0.0] * len(frame)
        collected += weight
        state = [s + weight * f for s, f in zip(state, frame, strict=True)]
    if collected >= tail or not tokens:
        tokens.append([s / collected for s in state])
    return tokens[:most]


@parametrize_checks(
    CIFAdapter,
    two_layers=CIFAdapter.Config(num_layers=2, kernel_size=5, tail_threshold=0.9),
)
def test_contract(check: Any) -> None:
    check()


def test_by_hand() -> None:
    # 0.6 + 0.4 fire; 0.7 + 0.3 of the next, whose other 0.6 + 0.4 of the last fire; 0.1 is left.
    out = forced()(Padded.stack([frames_of(0.6, 0.4, 0.7, 0.9, 0.5)])).tokens
    assert out.lengths.tolist() == [3]
    numbers = [0.6 * 1 + 0.4 * 2, 0.7 * 3 + 0.3 * 4, 0.6 * 4 + 0.4 * 5]
    torch.testing.assert_close(out.values[0, :, 1], torch.tensor(numbers))


@pytest.mark.parametrize(
    ("weights", "threshold", "expected"),
    [
        ((0.9, 0.7), 0.5, [0.9 * 1 + 0.1 * 2, 2.0]),  # 0.6 left: fires, as one whole frame
        ((0.9, 0.5), 0.5, [0.9 * 1 + 0.1 * 2]),  # 0.4 left
        ((0.9, 0.5), 0.3, [0.9 * 1 + 0.1 * 2, 2.0]),
        ((0.9, 0.7), 0.7, [0.9 * 1 + 0.1 * 2]),
        ((0.1, 0.3), 0.5, [(0.1 * 1 + 0.3 * 2) / 0.4]),  # never fires: one token all the same
        ((0.01,), 0.5, [1.0]),
    ],
)
def test_the_tail(weights: tuple[float, ...], threshold: float, expected: list[float]) -> None:
    out = forced(tail_threshold=threshold)(Padded.stack([frames_of(*weights)])).tokens
    assert out.lengths.tolist() == [len(expected)]
    torch.testing.assert_close(out.values[0, :, 1], torch.tensor(expected))


@pytest.mark.parametrize("scale", [0.02, 0.3, 0.9])
def test_equals_the_loop_over_frames(scale: float) -> None:
    adapter = forced()
    generator = torch.Generator().manual_seed(5)
    clips = [
        frames_of(*(torch.rand(length, generator=generator) * scale).tolist()) for length in (50, 1, 17, 120)
    ]
    batch = Padded.stack(clips)
    dirty = Padded(batch.values.masked_fill(~batch.mask()[..., None], float("nan")), batch.lengths)
    for clip, found in zip(clips, adapter(dirty).tokens.unstack(), strict=True):
        weights = clip[:, 0].double().sigmoid().tolist()
        expected = by_loop(clip.tolist(), weights, 0.5, len(clip))
        torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=1e-5)


def test_frames_that_weigh_more_than_a_token_fire_several_times() -> None:
    frames = torch.randn(4, 2, dtype=torch.float64)
    weights = torch.tensor([[0.2, 2.5, 0.1, 1.2]], dtype=torch.float64)
    found = integrate(frames[None], weights, 4)[0]
    expected = by_loop(frames.tolist(), weights[0].tolist(), 0.5, 4)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(found[1], frames[1])


def test_gradients_equal_finite_differences() -> None:
    generator = torch.Generator().manual_seed(1)
    frames = torch.randn(2, 9, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    weights = torch.rand(2, 9, dtype=torch.float64, generator=generator, requires_grad=True)
    tokens = int(weights.detach().sum(1).min())
    assert tokens >= 2
    assert torch.autograd.gradcheck(lambda f, w: integrate(f, w, tokens), (frames, weights))


@pytest.mark.parametrize("train", [False, True])
def test_gradients_of_the_whole_adapter_equal_finite_differences(train: bool) -> None:
    adapter = build().double().train(train)
    generator = torch.Generator().manual_seed(3)
    frames = torch.randn(2, 6, 3, dtype=torch.float64, generator=generator, requires_grad=True)

    def run(values: Tensor) -> tuple[Tensor, Tensor]:
        out = adapter(Padded(values, torch.tensor([6, 4])), ["ab", "abc"])
        return torch.cat(out.tokens.unstack()), out.losses["quantity"].double()

    # The loss is in float32, which finite differences cannot follow as finely.
    assert torch.autograd.gradcheck(lambda f: run(f)[0], (frames,))
    assert torch.autograd.gradcheck(lambda f: run(f)[1], (frames,), eps=1e-2, atol=1e-3, rtol=1e-2)


def test_training_scales_the_weights_to_the_transcript() -> None:
    adapter = forced().train()
    clips = [frames_of(0.3, 0.4, 0.2, 0.5, 0.6), frames_of(0.3, 0.4, 0.2)]
    out = adapter(Padded.stack(clips), ["abcd", "a"])
    assert out.tokens.lengths.tolist() == [4, 1]
    for clip, number, found in zip(clips, (4, 1), out.tokens.unstack(), strict=True):
        weights = clip[:, 0].double().sigmoid()
        scaled = (weights * number / weights.sum()).tolist()
        torch.testing.assert_close(found, torch.tensor(by_loop(clip.tolist(), scaled, 0.5, number)))


def test_as_many_tokens_as_frames_can_be_asked_for() -> None:
    adapter = forced().train()
    clip = frames_of(0.01, 0.9, 0.01, 0.9)
    out = adapter(Padded.stack([clip]), ["abcd"])
    assert out.tokens.lengths.tolist() == [adapter.max_tokens(4)] == [4]
    weights = clip[:, 0].double().sigmoid()
    expected = by_loop(clip.tolist(), (weights * 4 / weights.sum()).tolist(), 0.5, 4)
    torch.testing.assert_close(out.tokens.values[0], torch.tensor(expected))


def test_clips_that_cannot_be_scaled_are_as_in_eval_mode_and_counted() -> None:
    adapter = forced().train()
    clips = [frames_of(0.6, 0.5, 0.7), frames_of(0.6, 0.5, 0.7), frames_of(0.6, 0.5, 0.7)]
    out = adapter(Padded.stack(clips), ["abcd", None, ""])
    assert out.counts == {"cif_too_long": 1, "cif_without_transcript": 1}
    expected = adapter.eval()(Padded.stack(clips)).tokens
    assert torch.equal(out.tokens.values, expected.values)
    assert out.tokens.lengths.tolist() == expected.lengths.tolist() == [2, 2, 2]
    # The empty transcript alone has a loss: 1.8 weights for no token.
    assert out.losses["quantity"].item() == pytest.approx(1.8)


@pytest.mark.parametrize("train", [False, True])
def test_the_quantity_loss_by_hand(train: bool) -> None:
    adapter = forced(loss_weight=0.5).train(train)
    clips = [frames_of(0.6, 0.4, 0.7, 0.9, 0.5), frames_of(0.2, 0.3), frames_of(0.6)]
    out = adapter(Padded.stack(clips), ["ab", "ab", None])
    # |3.1 - 2| and |0.5 - 2|, over the two clips that have one.
    assert out.losses["quantity"].item() == pytest.approx(0.5 * (1.1 + 1.5) / 2)


def test_the_loss_of_a_batch_is_the_mean_over_its_clips() -> None:
    adapter = build()
    clips, texts = [torch.randn(length, 3) for length in (9, 14, 6)], ["abc", "cabba", ""]
    batch = Padded.stack(clips)
    dirty = Padded(batch.values.masked_fill(~batch.mask()[..., None], float("nan")), batch.lengths)
    alone = [
        adapter(Padded.stack([clip]), [text]).losses["quantity"]
        for clip, text in zip(clips, texts, strict=True)
    ]
    torch.testing.assert_close(adapter(dirty, texts).losses["quantity"], torch.stack(alone).mean())


def test_no_clip_with_a_loss_gives_a_zero_that_reaches_the_weights() -> None:
    adapter = build()
    out = adapter(Padded.stack([torch.randn(2, 3)]), [None])
    assert out.losses["quantity"].item() == 0.0
    out.losses["quantity"].backward()
    assert adapter.weights.linear.weight.grad is not None
    assert not adapter.weights.linear.weight.grad.any()


def test_without_transcripts_or_weight_there_is_no_loss() -> None:
    batch = Padded.stack([torch.randn(6, 3)])
    assert build()(batch).losses == {}
    assert build()(batch).counts == {}
    assert build(loss_weight=0.0)(batch, ["a"]).losses == {}


def test_in_eval_mode_tokens_do_not_depend_on_transcripts() -> None:
    adapter = build()
    batch = Padded.stack([torch.randn(9, 3), torch.randn(4, 3)])
    told, untold = adapter(batch, ["abc", "b"]).tokens, adapter(batch).tokens
    assert torch.equal(told.values, untold.values)
    assert torch.equal(told.lengths, untold.lengths)


def test_weights_that_round_to_one_fire_once_per_frame() -> None:
    adapter = forced()
    frames = torch.cat([torch.full((7, 1), 50.0), torch.arange(14.0).view(7, 2)], dim=1)
    out = adapter(Padded.stack([frames])).tokens
    assert out.lengths.tolist() == [7]
    torch.testing.assert_close(out.values[0], frames)


def test_the_weights_learn_the_quantity() -> None:
    adapter = build().train()
    frames = torch.randn(20, 3)
    optimiser = torch.optim.Adam(adapter.parameters(), lr=0.05)
    for _ in range(100):
        optimiser.zero_grad()
        adapter(Padded.stack([frames]), ["abc"]).losses["quantity"].backward()
        optimiser.step()
    assert adapter.eval()(Padded.stack([frames])).tokens.lengths.tolist() == [3]


def test_long_clips_lose_no_digits() -> None:
    adapter = forced()
    with torch.no_grad():
        adapter.weights.linear.weight.zero_()
        adapter.weights.linear.bias.fill_(-0.8)  # 0.31 for every frame
    frames = (torch.arange(3000.0) % 7 - 3.0)[:, None].repeat(1, 3)
    found = adapter(Padded.stack([frames])).tokens.values[0]
    weight = torch.tensor(-0.8).double().sigmoid().item()
    expected = by_loop(frames.tolist(), [weight] * 3000, 0.5, 3000)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=2e-6)


def test_what_a_token_is() -> None:
    text = "聞き耳 a"
    context = AdapterContext(in_dim=3, out_dim=3, frame_rate=50.0, vocabulary=CharacterVocabulary("a"))
    for vocabulary, expected in (("characters", 5), ("bytes", 11), ("llm", 5)):
        adapter = CIFAdapter(CIFAdapter.Config(vocabulary=vocabulary), context).train()  # type: ignore[arg-type]
        assert adapter(Padded.stack([torch.randn(20, 3)]), [text]).tokens.lengths.tolist() == [expected]


def test_refuses_an_llms_tokens_without_an_llm() -> None:
    with pytest.raises(ValueError, match="vocabulary: llm needs an LLM, and there is none here"):
        build(vocabulary="llm")


def test_layers() -> None:
    adapter = build(in_dim=4, out_dim=6, num_layers=2, hidden_dim=5, kernel_size=7)
    linears = [m for m in adapter.proj if isinstance(m, torch.nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linears] == [(4, 5), (5, 6)]
    assert adapter.weights.conv.weight.shape == (4, 4, 7)
    assert adapter.shard_classes() == {FrameWeights, MLP}


def test_the_convolution_sees_zeros_around_a_clip() -> None:
    adapter = build(kernel_size=5)
    clips = [torch.randn(length, 3) for length in (1, 2, 3, 12)]
    batch = Padded.stack(clips)
    dirty = Padded(batch.values.masked_fill(~batch.mask()[..., None], float("nan")), batch.lengths)
    for clip, found in zip(clips, adapter(dirty).tokens.unstack(), strict=True):
        torch.testing.assert_close(found, adapter(Padded.stack([clip])).tokens.values[0])


def test_tiny_config_keeps_the_structure() -> None:
    config = CIFAdapter.Config(num_layers=3, kernel_size=5, tail_threshold=0.4, loss_weight=0.1)
    tiny = CIFAdapter.tiny_config(config)
    assert (tiny.num_layers, tiny.hidden_dim, tiny.kernel_size, tiny.vocabulary) == (3, 32, 5, "bytes")
    assert (tiny.tail_threshold, tiny.loss_weight) == (0.4, 0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocabulary": "words"}, "vocabulary: 'words' is not one of"),
        ({"loss_weight": -0.5}, "loss_weight: must be at least 0, not -0.5"),
        ({"kernel_size": 4}, "kernel_size: must be at least 1 and odd, not 4"),
        ({"tail_threshold": 0.0}, "tail_threshold: must be above 0 and at most 1, not 0.0"),
        ({"num_layers": 0}, "num_layers: must be at least 1, not 0"),
        ({"hidden_dim": 8}, "hidden_dim is read only with num_layers of 2 or more"),
    ],
)
def test_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CIFAdapter.Config(**options)

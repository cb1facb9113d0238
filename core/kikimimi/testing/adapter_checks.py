"""Checks of adapters."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from kikimimi.interfaces import Adapter, AdapterContext, AdapterOutput, Padded
from kikimimi.testing.contract import expect, expect_finite
from kikimimi.testing.subject import PaddedSubject

# Two widths that differ, both with many divisors: attention heads fit into either.
CONTEXT = AdapterContext(in_dim=32, out_dim=48, frame_rate=50.0)


class AdapterSubject(PaddedSubject):
    """An adapter under test; its inputs are random frames."""

    def construct(self) -> Adapter:
        """Build the tiny adapter between an encoder 32 wide and an LLM 48 wide."""
        return cast(Adapter, self.component(self.config, CONTEXT))

    def sequences(self, part: Any) -> list[Tensor]:
        """Return frames of four clips, in the dtype of the weights: one has a single frame."""
        dtype = next(part.parameters()).dtype
        return [frames(length).to(dtype) for length in (13, 40, 1, 26)]

    def run(self, part: Any, batch: Padded) -> tuple[Padded, dict[str, Tensor]]:
        """Adapt."""
        output = part(batch)
        return output.tokens, output.losses


def frames(num_frames: int) -> Tensor:
    """Return (F, E) random frames, always the same."""
    generator = torch.Generator().manual_seed(num_frames)
    return torch.randn(num_frames, CONTEXT.in_dim, generator=generator)


def lengths_keep_max_tokens(subject: AdapterSubject) -> None:
    """Each clip of F frames becomes 1 to `max_tokens(F)` tokens of the LLM's width."""
    adapter = subject.build()
    lengths = [*range(1, 34), 100, 257]
    with torch.no_grad():
        output = adapter(Padded.stack([frames(length) for length in lengths]))
    expect(isinstance(output, AdapterOutput), f"expected an AdapterOutput, found {type(output).__name__}")
    tokens = output.tokens
    expect(
        tokens.lengths.dtype == torch.int64 and tokens.values.dim() == 3,
        f"expected (B, T, D) tokens with int64 lengths, found {tuple(tokens.values.shape)} with "
        f"{tokens.lengths.dtype}",
    )
    expect(
        tokens.values.shape[2] == CONTEXT.out_dim,
        f"expected tokens of out_dim = {CONTEXT.out_dim} values, found {tokens.values.shape[2]}",
    )
    for num_frames, found in zip(lengths, tokens.lengths.tolist(), strict=True):
        allowed = adapter.max_tokens(num_frames)
        expect(
            1 <= found <= allowed,
            f"{num_frames} frames: expected 1 to max_tokens = {allowed} tokens, found {found}",
        )
    longest = int(tokens.lengths.max())
    expect(
        tokens.values.shape[1] >= longest,
        f"expected room for {longest} tokens, found {tokens.values.shape[1]}",
    )


def losses_are_scalars(subject: AdapterSubject) -> None:
    """Auxiliary losses are finite scalars by name."""
    adapter = subject.build()
    with torch.no_grad():
        losses = adapter(Padded.stack(subject.sequences(adapter))).losses
    for name, loss in losses.items():
        expect(loss.dim() == 0, f"loss '{name}': expected a scalar, found shape {tuple(loss.shape)}")
        expect_finite(loss, f"loss '{name}'")


def gradients_pass_to_the_frames(subject: AdapterSubject) -> None:
    """A frozen adapter passes a gradient on to every clip's frames, and none to the padding."""
    adapter = subject.build().requires_grad_(False)
    clean = Padded.stack(subject.sequences(adapter))
    batch = Padded(clean.values.requires_grad_(), clean.lengths)
    subject.loss_of(adapter, batch).backward()  # type: ignore[no-untyped-call]
    gradient = batch.values.grad
    expect(gradient is not None, "expected a gradient in the frames, found none")
    assert gradient is not None
    expect_finite(gradient, "gradient of the frames")
    for number, clip in enumerate(Padded(gradient, batch.lengths).unstack()):
        expect(bool(clip.any()), f"expected a gradient in the frames of clip {number}, found none")
    expect(not gradient[~batch.mask()].any(), "expected no gradient past the lengths, found one")

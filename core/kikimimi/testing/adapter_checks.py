"""Checks of adapters."""

import tempfile
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from kikimimi.contracts.component import Adapter, AdapterContext, AdapterOutput, Padded
from kikimimi.contracts.vocabulary import BytesVocabulary
from kikimimi.testing.component_checks import (
    EXACT,
    batch_changes_nothing,
    expect_same_shapes,
    gradients_reach_every_parameter,
    padding_changes_nothing,
)
from kikimimi.testing.subject import (
    ContractError,
    PaddedSubject,
    check_named,
    expect,
    expect_all_close,
    expect_close,
    expect_finite,
    expect_padded,
    expect_type,
    in_every_way,
)

WITHOUT, WITH = "without transcripts", "with transcripts"
TRANSCRIPTS: dict[int, str | None] = {13: "おはようございます", 40: "hi", 1: None, 26: "は"}
"""What is said in a clip, by its frames: more than it has room for, little, nothing known, little."""


def said_texts() -> list[str]:
    """Return the texts that an adapter's own vocabulary is built from; a function of a module pickles."""
    return [text for text in TRANSCRIPTS.values() if text is not None]


# Two widths that differ, both with many divisors: attention heads fit into either.
CONTEXT = AdapterContext(
    in_dim=32, out_dim=48, frame_rate=50.0, vocabulary=BytesVocabulary(), texts=said_texts
)
NUMBERS_OF_LAYERS = (1, 2)
"""Numbers of encoder layers side by side that an adapter is built for, or refuses."""


class AdapterSubject(PaddedSubject):
    """An adapter under test; its inputs are random frames.

    Transcripts go in where the adapter uses them, but for the way that goes without.
    """

    def __init__(self, component: type[Any], config: Any = None, *, num_layers: int | None = None) -> None:
        super().__init__(component, config)
        self._num_layers = num_layers

    @cached_property
    def context(self) -> AdapterContext:
        """Encoder 32 wide, of one layer or of as many as the adapter takes, and LLM 48 wide."""
        return replace(CONTEXT, num_concat_layers=self._num_layers or self.taken()[0])

    def taken(self) -> list[int]:
        """Return the numbers of encoder layers that the adapter takes.

        Raises:
            ValueError: It refuses all of them.
        """
        found, refusal = [], ValueError("no number of layers was tried")
        for num_layers in NUMBERS_OF_LAYERS:
            try:
                with torch.device("meta"):
                    self.component(self.config, replace(CONTEXT, num_concat_layers=num_layers))
            except ValueError as error:
                refusal = error
            else:
                found.append(num_layers)
        if not found:
            raise refusal
        return found

    def construct(self) -> Adapter:
        """Build the tiny adapter in its context."""
        return cast(Adapter, self.component(self.config, self.context))

    def ways(self) -> tuple[str, ...]:
        """Return with and without transcripts, where the adapter uses them."""
        return (WITHOUT, WITH) if self.build().uses_transcripts else ("",)

    def sequences(self, part: Any) -> list[Tensor]:
        """Return frames of four clips, in the dtype of the weights: one has a single frame."""
        dtype = next(part.parameters()).dtype
        return [frames(length).to(dtype) for length in TRANSCRIPTS]

    def run(self, part: Any, batch: Padded) -> tuple[Padded, dict[str, Tensor]]:
        """Adapt."""
        output = self.adapt(part, batch, [TRANSCRIPTS.get(length) for length in batch.lengths.tolist()])
        return output.tokens, output.losses

    def adapt(self, part: Any, batch: Padded, transcripts: list[str | None]) -> AdapterOutput:
        """Call the adapter, with the transcripts where it uses them and is to be told."""
        tells = part.uses_transcripts and self.way != WITHOUT
        output: AdapterOutput = part(batch, transcripts) if tells else part(batch)
        expect_type(output, AdapterOutput, "expected an AdapterOutput")
        expect_type(output.tokens, Padded, "tokens: expected a kikimimi.Padded")
        return output


def frames(num_frames: int) -> Tensor:
    """Return (F, E) random frames, always the same."""
    generator = torch.Generator().manual_seed(num_frames)
    return torch.randn(num_frames, CONTEXT.in_dim, generator=generator)


@in_every_way
def lengths_keep_max_tokens(subject: AdapterSubject) -> None:
    """Each clip of F frames becomes 1 to `max_tokens(F)` tokens of the LLM's width, in training too."""
    adapter = subject.build()
    lengths = [*range(1, 34), 100, 257]
    batch = Padded.stack([frames(length) for length in lengths])
    told: list[str | None] = [None, "", "hi", "これは長い文字起こしです。" * 3]
    transcripts = (told * len(lengths))[: len(lengths)]
    for mode in ("in eval mode", "in train mode"):
        adapter.train(mode == "in train mode")
        with torch.no_grad():
            tokens = subject.adapt(adapter, batch, transcripts).tokens
        expect_padded(tokens, "(B, T, D) tokens", "tokens", ("out_dim", CONTEXT.out_dim), f"{mode}: ")
        for num_frames, found in zip(lengths, tokens.lengths.tolist(), strict=True):
            allowed = adapter.max_tokens(num_frames)
            expect(type(allowed) is int, f"max_tokens: expected an int, found {allowed!r}")
            expect(
                1 <= found <= allowed,
                f"{mode}: {num_frames} frames: expected 1 to max_tokens = {allowed} tokens, found {found}",
            )
        for clip in tokens.unstack():
            expect_finite(clip, f"{mode}: tokens of a clip")


def max_tokens_is_exact(subject: AdapterSubject) -> None:
    """Where the number of tokens does not depend on what is in the frames, it is `max_tokens`."""
    adapter = subject.build()
    lengths = [1, 2, 3, 7, 16, 25, 40, 100]
    found: list[list[int]] = []
    with torch.no_grad():
        for content in (
            torch.zeros_like,
            torch.ones_like,
            torch.Tensor.clone,
            torch.sign,
            lambda one: 4 * one,
        ):
            batch = Padded.stack([content(frames(length)) for length in lengths])
            found.append(subject.adapt(adapter, batch, [None] * len(lengths)).tokens.lengths.tolist())
    if any(numbers != found[0] for numbers in found):
        return  # the content decides, and it is a bound
    allowed = [adapter.max_tokens(length) for length in lengths]
    expect(
        found[0] == allowed,
        f"max_tokens: {lengths} frames of any content became {found[0]} tokens; expected it to say so, found "
        f"{allowed}",
    )


@in_every_way
def losses_are_scalars(subject: AdapterSubject) -> None:
    """Auxiliary losses are finite scalars by name, and counts whole numbers by name."""
    adapter = subject.build()
    batch = Padded.stack(subject.sequences(adapter))
    said = list(TRANSCRIPTS.values())
    for mode in ("in eval mode", "in train mode"):
        adapter.train(mode == "in train mode")
        unknown: list[str | None] = [None] * len(said)
        for what, transcripts in {"": said, " and no text known": unknown}.items():
            with torch.no_grad():
                output = subject.adapt(adapter, batch, transcripts)
            for name, loss in output.losses.items():
                where = f"{mode}{what}: loss '{name}'"
                expect_type(loss, Tensor, f"{where}: expected a tensor")
                expect(loss.dim() == 0, f"{where}: expected a scalar, found shape {tuple(loss.shape)}")
                expect_finite(loss, where)
            for name, count in output.counts.items():
                where = f"{mode}{what}: count '{name}'"
                expect(type(count) is int, f"{where}: expected an int, found {type(count).__name__}")


@in_every_way
def gradients_pass_to_the_frames(subject: AdapterSubject) -> None:
    """A frozen adapter passes a gradient on to every clip's frames, and none to the padding."""
    adapter = subject.build().requires_grad_(False)
    clean = Padded.stack(subject.sequences(adapter))
    batch = Padded(clean.values.requires_grad_(), clean.lengths)
    loss = subject.loss_of(adapter, batch)
    if loss.requires_grad:
        loss.backward()  # type: ignore[no-untyped-call]
    gradient = batch.values.grad
    if gradient is None:
        raise ContractError("expected a gradient in the frames, found none")
    expect_finite(gradient, "gradient of the frames")
    for number, clip in enumerate(Padded(gradient, batch.lengths).unstack()):
        expect(bool(clip.any()), f"expected a gradient in the frames of clip {number}, found none")
    expect(not gradient[~batch.mask()].any(), "expected no gradient past the lengths, found one")


@in_every_way
def losses_are_means_over_units(subject: AdapterSubject) -> None:
    """Clips apart, weighted by the number of their `units`, have the loss of all as their mean."""
    adapter = subject.build()
    sequences, said = subject.sequences(adapter), list(TRANSCRIPTS.values())

    def adapted(part: slice) -> tuple[dict[str, Tensor], int]:
        clips = sequences[part]
        with torch.no_grad():
            losses = subject.adapt(adapter, Padded.stack(clips), said[part]).losses
        return losses, adapter.units([len(clip) for clip in clips], said[part]).number

    for mode in ("in eval mode", "in train mode"):
        adapter.train(mode == "in train mode")
        (whole, number), *parts = (adapted(part) for part in (slice(None), slice(0, 1), slice(1, None)))
        if whole:
            numbers = [of for _, of in parts]
            expect(
                number == sum(numbers),
                f"{mode}: units: expected as many in a batch as in its parts, {numbers}, found {number}",
            )
        for name, loss in whole.items():
            sums = torch.stack([losses[name] * of for losses, of in parts]).sum()
            what = f"{mode}: loss '{name}', against the mean over the units of its parts"
            expect_close(loss, sums / max(number, 1), what)


def transcripts_change_no_tokens(subject: AdapterSubject) -> None:
    """In eval mode the tokens are the same, whatever the transcripts say and whether there are any."""
    adapter = subject.build()
    if not adapter.uses_transcripts:
        return
    batch = Padded.stack(subject.sequences(adapter))
    with torch.no_grad():
        expected = adapter(batch).tokens
        for what, transcripts in {
            "with transcripts": list(TRANSCRIPTS.values()),
            "with others": ["a longer text than before"] * len(TRANSCRIPTS),
            "with None for each": [None] * len(TRANSCRIPTS),
        }.items():
            found = adapter(batch, transcripts).tokens
            expect(
                torch.equal(found.lengths, expected.lengths),
                f"{what}: expected {expected.lengths.tolist()} tokens as without, "
                f"found {found.lengths.tolist()}",
            )
            expect_all_close(found.unstack(), expected.unstack(), f"{what}, against none: tokens of clip")


def several_layers_are_taken_or_refused(subject: AdapterSubject) -> None:
    """Frames of two encoder layers side by side keep the contract as well, or a ValueError refuses them."""
    for num_layers in subject.taken():
        other = AdapterSubject(subject.component, subject.given, num_layers=num_layers)
        for check in (
            lengths_keep_max_tokens,
            batch_changes_nothing,
            padding_changes_nothing,
            gradients_reach_every_parameter,
        ):
            try:
                check(other)
            except ContractError as error:
                raise ContractError(f"num_concat_layers={num_layers}: {check.__name__}: {error}") from error


@check_named("assets_restore")
def adapter_assets_restore(subject: AdapterSubject) -> None:
    """What `save_assets` wrote rebuilds, without the training texts, an adapter that the weights fit."""
    adapter = subject.build()
    with tempfile.TemporaryDirectory() as folder:
        adapter.save_assets(Path(folder))
        again = subject.component(subject.config, replace(subject.context, texts=None, assets=Path(folder)))
    state = adapter.state_dict()
    expect_same_shapes(again.state_dict(), state, "expected the same tensors as before save_assets")
    again.load_state_dict(state)
    batch = Padded.stack(subject.sequences(adapter))
    with torch.no_grad():
        found, losses = subject.run(again.eval(), batch)
        expected, wanted = subject.run(adapter, batch)
    expect_all_close(found.unstack(), expected.unstack(), "rebuilt from its assets: clip", EXACT)
    for name, loss in wanted.items():
        expect_close(losses[name], loss, f"rebuilt from its assets: loss '{name}'", EXACT)

"""Checks of encoders."""

import math
from contextlib import suppress
from typing import Any, cast

import torch
from torch import Tensor, nn

from kikimimi.contracts.component import Encoder, Padded
from kikimimi.data.stream import MIN_SECONDS
from kikimimi.errors import AudioError
from kikimimi.testing.subject import (
    PaddedSubject,
    expect,
    expect_finite,
    expect_no_error,
    expect_padded,
    expect_raised,
    expect_type,
    gradients_of,
)

LONG_SECONDS = 31.0
"""Clip that an encoder takes unless its bound is lower [s]: a little more than Whisper's window."""
BOUND_SECONDS = 60.0
"""Clips of `max_seconds` are tried up to here [s]: longer ones would take the memory of a large machine."""
_TRIES = 20
"""Times that an augmentation is tried before it counts as one that does nothing."""


class EncoderSubject(PaddedSubject):
    """An encoder under test; its inputs are tones in noise."""

    def construct(self) -> Encoder:
        """Build the tiny encoder."""
        return cast(Encoder, self.component(self.config))

    def sequences(self, part: Any) -> list[Tensor]:
        """Return four clips of 0.05 to 1 s."""
        return [waveform(round(seconds * part.sample_rate)) for seconds in (0.31, 1.0, 0.05, 0.7)]

    def run(self, part: Any, batch: Padded) -> tuple[Padded, dict[str, Tensor]]:
        """Encode."""
        output: Padded = part(batch)
        expect_type(output, Padded, "expected a kikimimi.Padded")
        return output, {}


def waveform(num_samples: int) -> Tensor:
    """Return (S,) a tone in noise, always the same."""
    time = torch.arange(num_samples) / 16000
    noise = torch.randn(num_samples, generator=torch.Generator().manual_seed(num_samples))
    return 0.2 * torch.sin(2 * math.pi * 220 * time) + 0.02 * noise


def num_frames_is_exact(subject: EncoderSubject) -> None:
    """The output has `num_frames(S)` frames for every length S, at least 1, and `dim` values in each."""
    encoder = subject.build()
    rate = encoder.sample_rate
    lengths = [rate // 40 + extra for extra in (0, 1)]
    lengths += [rate // 4 + step for step in range(-2, 3)] + [rate // 2 + 123, rate]
    with torch.no_grad():
        output = encoder(Padded.stack([waveform(length) for length in lengths]))
    expect_type(output, Padded, "expected a kikimimi.Padded")
    expect_padded(output, "(B, F, E) values", "frames", ("`dim`", encoder.dim))
    for samples, found in zip(lengths, output.lengths.tolist(), strict=True):
        expected = encoder.num_frames(samples)
        expect(type(expected) is int, f"num_frames: expected an int, found {expected!r}")
        expect(
            expected == found and found >= 1,
            f"{samples} samples: num_frames says {expected}, forward gives {found} frames",
        )


def frame_rate_is_true(subject: EncoderSubject) -> None:
    """Over a long clip `num_frames` agrees with `frame_rate`, but for two frames at the edges."""
    encoder = subject.build()
    expect(encoder.sample_rate > 0, f"expected a sample_rate above 0, found {encoder.sample_rate}")
    seconds = min(encoder.max_seconds or LONG_SECONDS, LONG_SECONDS)
    found = encoder.num_frames(int(seconds * encoder.sample_rate))
    expect(
        abs(found - seconds * encoder.frame_rate) <= 2,
        f"frame_rate is {encoder.frame_rate} Hz, so that {seconds:g} s have about "
        f"{seconds * encoder.frame_rate:.1f} frames, but num_frames says {found}",
    )


def any_clip_works(subject: EncoderSubject) -> None:
    """The shortest clip that data may hold, silence, and full scale give finite frames."""
    encoder = subject.build()
    rate = encoder.sample_rate
    clips = {
        f"{MIN_SECONDS} s": waveform(math.ceil(MIN_SECONDS * rate)),
        "0.05 s": waveform(rate // 20),
        "0.5 s of silence": torch.zeros(rate // 2),
        "0.5 s of full scale": waveform(rate // 2).sign(),
    }
    for what, clip in clips.items():
        _expect_frames(encoder, clip, what)


def longest_clip_works(subject: EncoderSubject) -> None:
    """A clip of 31 s works, and one of `max_seconds`; what is longer than that raises an AudioError."""
    encoder = subject.build()
    bound, rate = encoder.max_seconds, encoder.sample_rate
    expect(bound is None or bound > 0, f"expected max_seconds above 0 or None, found {bound}")
    if bound is None or bound >= LONG_SECONDS:
        _expect_frames(encoder, waveform(int(LONG_SECONDS * rate)), f"{LONG_SECONDS} s")
    if bound is None:
        return
    longest = int(bound * rate)
    seconds = f"{bound:g} s (max_seconds)"
    if bound <= BOUND_SECONDS:
        _expect_frames(encoder, waveform(longest), seconds)
    for samples in {longest + rate, int(LONG_SECONDS * rate)}:
        if samples > longest:
            what = f"a clip of {samples / rate:g} s, longer than {seconds}"
            with suppress(AudioError), expect_raised(AudioError, what), torch.no_grad():
                encoder(Padded.stack([waveform(samples), waveform(rate)]))


def layers_divide_the_width(subject: EncoderSubject) -> None:
    """`num_concat_layers` is at least 1 and divides `dim`: each of the layers side by side is as wide."""
    encoder = subject.build()
    number = encoder.num_concat_layers
    expect(
        type(number) is int and number >= 1 and encoder.dim % number == 0,
        f"expected num_concat_layers of at least 1 that divides dim = {encoder.dim}, found {number!r}",
    )


def augmentation_is_for_training(subject: EncoderSubject) -> None:
    """An `augmentation` does nothing in eval mode; in train mode it changes frames, but no lengths."""
    encoder = subject.build()
    augmentation = encoder.augmentation
    if augmentation is None:
        return
    expect_type(augmentation, nn.Module, "augmentation: expected a torch.nn.Module or None")
    batch = Padded.stack(subject.sequences(encoder))
    changes: list[bool] = []

    def compare(module: nn.Module, arguments: Any, result: Any) -> None:
        given, made = (item.values if isinstance(item, Padded) else item for item in (arguments[0], result))
        changes.append(not torch.equal(made, given))

    called = list(augmentation) if isinstance(augmentation, nn.ModuleList) else [augmentation]
    with torch.no_grad():
        handles = [module.register_forward_hook(compare) for module in called]
        expected = encoder(batch)
        for handle in handles:
            handle.remove()
        expect(bool(changes), "augmentation: expected the encoder to call it, found that it does not")
        expect(not any(changes), "augmentation in eval mode: expected its input as it is, found it changed")
        augmentation.train()  # the encoder around it may be frozen, and is in eval mode then
        different = False
        for _ in range(_TRIES):
            found = encoder(batch)
            expect(
                torch.equal(found.lengths, expected.lengths),
                f"augmentation in train mode: expected output lengths {expected.lengths.tolist()}, "
                f"found {found.lengths.tolist()}",
            )
            for number, (frames, plain) in enumerate(zip(found.unstack(), expected.unstack(), strict=True)):
                expect_finite(frames, f"augmentation in train mode: clip {number}")
                different = different or not torch.equal(frames, plain)
    expect(
        different, f"augmentation in train mode: expected other frames within {_TRIES} draws, found the same"
    )


def downstream_weights_train_alone(subject: EncoderSubject) -> None:
    """What is learnt downstream (`downstream_names`) has a gradient where all else is frozen, in fp32 as well
    before weights in bf16, and no source fills it.
    """
    for dtype in (torch.float32, torch.bfloat16):
        encoder = subject.build().to(dtype)
        parameters = dict(encoder.named_parameters())
        names = encoder.downstream_names()
        strange = sorted(names - parameters.keys())
        expect(not strange, f"downstream_names: expected names of parameters, found {', '.join(strange)}")
        sourced = sorted(names & encoder.pretrained_names())
        expect(not sourced, f"downstream_names: expected none of a source, found {', '.join(sourced)}")
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in names)
            if name in names:
                parameter.data = parameter.data.float()
        if not names:
            return
        loss = subject.loss(encoder, subject.sequences(encoder))
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        found = gradients_of(encoder)
        without = sorted(name for name in names if name not in found or not found[name].any())
        expect(
            not without,
            f"downstream_names, all else frozen and {dtype}: expected a gradient, found none in "
            f"{', '.join(without)}",
        )


def _expect_frames(encoder: Any, clip: Tensor, what: str) -> None:
    with expect_no_error(f"a clip of {what}: expected frames"), torch.no_grad():
        frames = encoder(Padded.stack([clip])).unstack()[0]
    expect(len(frames) >= 1, f"a clip of {what}: expected at least one frame, found none")
    expect_finite(frames, f"a clip of {what}")

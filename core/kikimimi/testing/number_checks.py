"""Checks of any component: number formats, the device that it computes on, and input that is all alike."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from kikimimi.console.words import listing
from kikimimi.contracts.component import Padded
from kikimimi.model.trainable import named_tensors
from kikimimi.testing.subject import (
    PaddedSubject,
    Subject,
    expect,
    expect_all_close,
    expect_finite,
    expect_on_device,
    gradients_of,
    in_every_way,
    tensors_in,
)

FLAT = {"zeros": 0.0, "ones": 1.0, "values of 1e-6": 1e-6}
"""Inputs without any variance, by name."""


@in_every_way
def bf16_runs(subject: Subject) -> None:
    """Under autocast to bfloat16, and with bfloat16 weights, outputs and gradients are finite."""
    for name, weights in (("under autocast", torch.float32), ("with bfloat16 weights", torch.bfloat16)):
        part = subject.build().to(weights)
        with torch.autocast("cpu", torch.bfloat16, enabled=weights is torch.float32):
            sequences = subject.sequences(part)[:2]
            for number, output in enumerate(subject.outputs(part, sequences)):
                expect_finite(output, f"sequence {number} {name} to bfloat16")
            subject.loss(part, sequences).backward()  # type: ignore[no-untyped-call]
        gradients_of(part, f" {name} to bfloat16")


@in_every_way
def fp16_runs(subject: Subject) -> None:
    """Under autocast to float16, whose largest value is 65,504, outputs are finite: masks as well."""
    part = subject.build()
    with torch.no_grad(), torch.autocast("cpu", torch.float16):
        for number, output in enumerate(subject.outputs(part, subject.sequences(part))):
            expect_finite(output, f"sequence {number} under autocast to float16")


@in_every_way
def dtype_and_device_are_kept(subject: Subject) -> None:
    """The output has the dtype of the weights, float32 or bfloat16, and stays on their device."""
    for dtype in (torch.float32, torch.bfloat16):
        for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
            part = subject.build().to(device, dtype)
            sequences = [sequence.to(device) for sequence in subject.sequences(part)]
            with torch.no_grad():
                outputs = subject.outputs(part, sequences)
            for number, output in enumerate(outputs):
                expect(
                    output.dtype == dtype and output.device.type == device,
                    f"sequence {number}, weights {dtype} on {device}: expected the output likewise, found "
                    f"{output.dtype} on {output.device.type}",
                )
                expect_finite(output, f"sequence {number}, weights {dtype} on {device}")


def buffers_survive_half_precision(subject: Subject) -> None:
    """What a constructor computes (filters, windows) is not rounded by `.to(torch.bfloat16)`.

    Weights and persistent buffers come back from a checkpoint; what else a component holds does not, and
    has to be as exact as it was. `kikimimi.full_precision` and buffers that are made again in the forward
    pass are two ways.
    """
    part, other = subject.build(), subject.build().to(torch.bfloat16).to(torch.float32)
    with torch.no_grad():
        for name, tensor in named_tensors(part).items():
            named_tensors(other)[name].copy_(tensor)
        sequences = subject.sequences(part)
        expect_all_close(
            subject.outputs(other, sequences),
            subject.outputs(part, sequences),
            "filters and other buffers after .to(torch.bfloat16) and back, weights restored: sequence",
        )


def tensors_are_registered(subject: Subject) -> None:
    """Every tensor is a parameter or a buffer: what else holds one is not moved, and not copied."""
    part = subject.build()
    for when in ("built", "run in train mode"):
        if when != "built":
            subject.loss(part.train(), subject.sequences(part))
        strays = [where for where, _ in _strays(part, subject.component)]
        expect(
            not strays,
            f"once it is {when}: expected every tensor to be a parameter or a buffer (`register_buffer`), "
            f"found others in {listing(strays)}",
        )


def _strays(part: nn.Module, component: type[Any]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors that the plugin's own modules hold in attributes, with their dotted names."""
    package = component.__module__.partition(".")[0]
    for name, module in part.named_modules():
        if type(module).__module__.partition(".")[0] == package:
            for attribute, value in vars(module).items():
                if attribute not in ("_parameters", "_buffers", "_modules"):
                    yield from tensors_in(value, f"{name}.{attribute}".lstrip("."))


def runs_where_its_weights_are(subject: Subject) -> None:
    """Moved to another device, it makes no tensor elsewhere: the meta device shows it on any machine.

    What else does not run there (an operation whose result depends on values) is no matter.
    """
    part = subject.build()
    sequences = [sequence.to("meta") for sequence in subject.sequences(part)]
    part.to("meta")
    with torch.no_grad(), expect_on_device("on the device of its weights"):
        subject.outputs(part, sequences)


@in_every_way
def flat_input_is_finite(subject: PaddedSubject) -> None:
    """Sequences of zeros and of one value over and over have finite outputs and gradients, no NaN."""
    part = subject.build().train()
    for what, value in FLAT.items():
        part.zero_grad(set_to_none=True)
        batch = Padded.stack([torch.full_like(one, value) for one in subject.sequences(part)])
        output, _ = subject.run(part, batch)
        for number, one in enumerate(output.unstack()):
            expect_finite(one, f"{what}: sequence {number}")
        subject.loss_of(part, batch).backward()  # type: ignore[no-untyped-call]
        gradients_of(part, f" for a batch of {what}")

"""Checks of what training needs: gradients, a falling loss, half precision."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from kikimimi.testing.contract import expect, expect_finite
from kikimimi.testing.subject import Subject, in_every_way

LEARNING_RATE = 1e-3
NUDGE = 0.02
"""Noise added to the weights, so that layers that start at zero hide no gradient."""


def gradients_reach_every_parameter(subject: Subject) -> None:
    """The loss gives each parameter that can be trained a finite gradient that is not zero."""
    part = subject.build()
    _nudge(part)
    if getattr(part, "augmentation", None) is not None:
        part.augmentation.train()  # its parameters (a learned mask) have no part in the output otherwise
    subject.loss(part, subject.sequences(part)).backward()  # type: ignore[no-untyped-call]
    trainable = {name: p for name, p in part.named_parameters() if p.requires_grad}
    expect(bool(trainable), "expected parameters that can be trained, found none")
    without = [name for name, p in trainable.items() if p.grad is None or not p.grad.any()]
    expect(not without, f"expected a gradient in every parameter, found none in {', '.join(without)}")
    for name, parameter in trainable.items():
        assert parameter.grad is not None
        expect_finite(parameter.grad, f"gradient of {name}")


def gradients_stay_out_of_frozen_parameters(subject: Subject) -> None:
    """With every second parameter frozen, the others alone get a gradient."""
    part = subject.build()
    names = [name for name, p in part.named_parameters() if p.requires_grad]
    wanted = set(names[::2])
    for name, parameter in part.named_parameters():
        parameter.requires_grad_(name in wanted)
    part.train()
    subject.loss(part, subject.sequences(part)).backward()  # type: ignore[no-untyped-call]
    found = {name for name, p in part.named_parameters() if p.grad is not None}
    expect(
        found == wanted,
        f"expected gradients in {', '.join(sorted(wanted))} alone, as only they were not frozen; "
        f"found them in {', '.join(sorted(found)) or 'none'}",
    )


def a_step_lowers_the_loss(subject: Subject) -> None:
    """One step of AdamW towards a fixed target, in train mode, lowers the loss."""
    part = subject.build()
    before, after = take_step(subject, part)
    expect(after < before, f"expected one step of AdamW to lower the loss of {before:.6f}, found {after:.6f}")


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
        for parameter_name, parameter in part.named_parameters():
            if parameter.grad is not None:
                expect_finite(parameter.grad, f"gradient of {parameter_name} {name} to bfloat16")


@in_every_way
def dtype_and_device_are_kept(subject: Subject) -> None:
    """The output has the dtype of the weights, float32 or bfloat16, and stays on their device."""
    for dtype in (torch.float32, torch.bfloat16):
        for device in _devices():
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


def _devices() -> list[str]:
    return ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def take_step(subject: Subject, part: Any) -> tuple[float, float]:
    """Take one step of AdamW; return the loss in eval mode before and after it."""
    sequences = subject.sequences(part)
    optimiser = torch.optim.AdamW([p for p in part.parameters() if p.requires_grad], lr=LEARNING_RATE)
    with torch.no_grad():
        before = float(subject.loss(part.eval(), sequences))
    subject.loss(part.train(), sequences).backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    part.zero_grad(set_to_none=True)
    with torch.no_grad():
        return before, float(subject.loss(part.eval(), sequences))


def _nudge(part: nn.Module) -> None:
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in part.parameters():
            if parameter.requires_grad:
                parameter.add_(NUDGE * torch.randn(parameter.shape, generator=generator))

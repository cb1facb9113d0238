"""Parity: bf16 against fp32, and this device against a CPU, on shapes that are small at any size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kikimimi.model.speech_lm import SpeechLM
from kikimimi.model.trainable import freeze_all_but, trainable_names

from .size import SIZES
from .subject import Subject


def parity(subject: Subject) -> dict[str, Any]:
    """Loss and gradients of one micro-batch, of the same weights: fp32 on a CPU and here, bf16 here."""
    small = replace(subject, size=SIZES["tiny"])
    here = small.model("lora").float()
    there = replace(small, device=torch.device("cpu")).model("lora").float()
    there.load_state_dict({name: tensor.cpu() for name, tensor in here.state_dict().items()})
    names = _freeze(small, here)
    _freeze(small, there)
    full, half = (_step(small, here, precision) for precision in (torch.float32, torch.bfloat16))
    cpu = _step(replace(small, device=torch.device("cpu")), there, torch.float32)
    return {
        "trained": len(names),
        "loss": {"fp32_cpu": cpu[0], "fp32": full[0], "bf16": half[0]},
        "fp32_against_cpu": _compared(full, cpu),
        "bf16_against_fp32": _compared(half, full),
    }


def _freeze(subject: Subject, model: SpeechLM) -> list[str]:
    stage = subject.recipe("lora").stages["lora"]
    found = trainable_names(model, stage, where="stages.lora")
    names = [name for group in found.values() for name in group]
    freeze_all_but(model.eval(), names)
    return names


def _step(subject: Subject, model: SpeechLM, precision: torch.dtype) -> tuple[float, list[Tensor]]:
    device = subject.device
    model.eval().zero_grad()
    half = precision != torch.float32
    with torch.autocast(device.type, precision, enabled=half):
        scored = model(subject.batch(model, "lora").to(device))
        loss = F.cross_entropy(scored.logits.float(), scored.targets)
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad.float().cpu() for p in model.parameters() if p.grad is not None]
    return float(loss.detach()), gradients


def _compared(
    found: tuple[float, Sequence[Tensor]], expected: tuple[float, Sequence[Tensor]]
) -> dict[str, float]:
    """Return how far a loss is off, relative to it, and the gradients, relative to their norm."""
    ours, theirs = (torch.cat([one.flatten() for one in side[1]]) for side in (found, expected))
    return {
        "loss": abs(found[0] - expected[0]) / abs(expected[0]),
        "gradient": float((ours - theirs).norm() / theirs.norm()),
    }

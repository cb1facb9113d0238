"""Operations that training needs, by the field's rule of thumb, and the rates that they are compared with."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from kikimimi.costs.matrix_rate import matrix_rate
from kikimimi.model.speech_lm import SpeechLM
from kikimimi.planning.gpus import GPUS
from kikimimi.planning.workload import MicroBatch

FORWARD, BACKWARD_THROUGH, BACKWARD_INTO = 2, 2, 2
"""Operations for each parameter and position: a forward pass; a backward pass through activations; and one
into weights, where these train. A frozen LLM that gradients pass through takes 4, one that trains 6."""


def step_operations(model: SpeechLM, shape: MicroBatch) -> float:
    """Return the operations of a micro-batch in the matrices. Attention's own products are left out."""
    audio, positions = shape.clips * shape.tokens, shape.clips * (shape.prompt + shape.answer)
    frames, targets = shape.clips * shape.frames, shape.clips * shape.answer
    llm: Any = model.llm.model
    embeddings, head = llm.get_input_embeddings(), llm.get_output_embeddings()
    # An embedding is looked up, and the head works at targets alone.
    apart = {id(p) for part in (embeddings, head) for p in part.parameters()}
    layers = [p for p in llm.parameters() if id(p) not in apart]
    return (
        FORWARD * _count(model.encoder.parameters(), trains=None) * frames
        + (FORWARD + BACKWARD_INTO) * _count(model.adapter.parameters(), trains=None) * audio
        + (FORWARD + BACKWARD_THROUGH) * _count(layers, trains=False) * positions
        + (FORWARD + BACKWARD_THROUGH + BACKWARD_INTO) * _count(layers, trains=True) * positions
        + (FORWARD + BACKWARD_THROUGH) * _count(head.parameters(), trains=None) * targets
    )


def _count(parameters: object, *, trains: bool | None) -> int:
    """Return the numbers in matrices, of those that train, of those that do not, or of all."""
    found: list[nn.Parameter] = list(parameters)  # type: ignore[call-overload]
    return sum(p.numel() for p in found if p.dim() > 1 and trains in (None, p.requires_grad))


def rates(device: torch.device) -> dict[str, float | str | None]:
    """Return the rates of matrix products in bf16 [FLOP/s]: measured, and by the card's data sheet."""
    name = torch.cuda.get_device_name(device).lower() if device.type == "cuda" else ""
    sheet = next(
        (card for card in sorted(GPUS, key=len, reverse=True) if card in name.replace(" ", "")), None
    )
    return {
        "measured": matrix_rate(device, "bf16"),
        "data_sheet": None if sheet is None else GPUS[sheet].half,
        "data_sheet_of": sheet,
    }

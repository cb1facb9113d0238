"""Generation: prompts with a clip each, continued together with a cache."""

from __future__ import annotations

from typing import Any

import torch

from kikimimi.contracts.generation import Generation

from .clock import forget_peak, peak_memory, seconds
from .subject import Subject


def generation(subject: Subject) -> dict[str, Any]:
    """Time of encoding and packing, and of answering; tokens per second of all prompts together."""
    size, device = subject.size, subject.device
    model = subject.model("adapter").eval()
    prompts = subject.prompts(model)
    wanted = Generation(max_new_tokens=size.new_tokens)
    answers: list[list[int]] = []
    forget_peak(device)
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
        packing = seconds(device, lambda: model.pack(prompts), size.repeats, warm_up=1)

        def answer() -> None:
            answers[:] = model.generate_ids(prompts, wanted)

        whole = seconds(device, answer, min(3, size.repeats), warm_up=1)
    number = sum(map(len, answers))
    return {
        "prompts": size.prompts,
        "new_tokens": number,
        "packing_seconds": packing,
        "seconds": whole,
        "tokens_per_second": number / whole,
        "peak_memory": peak_memory(device),
    }

"""A speech LLM whose adapter averages frames that a CTC head gives one label."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kikimimi.published.auto_map.configuration_speech_lm import SpeechModelConfig
from kikimimi.published.auto_map.modeling_heard import (
    HeardSpeechModel,
    HeardSpeechModelForCausalLM,
    text_projection,
)


class LabelledRuns(nn.Module):
    """The adapter `ctc`.

    Args:
        config: `adapter_config` of the whole.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.blank_id = config["blank_id"] if config["mode"] == "non_blank" else None
        self.ctc: Any = nn.ModuleDict({"head": nn.Linear(config["in_dim"], config["num_labels"])})
        self.proj = text_projection(config, config["in_dim"])

    def forward(self, frames: Tensor) -> list[Tensor]:
        """Adapt (n, F, E) to (T, D) for each clip."""
        frames = frames.to(self.ctc["head"].weight.dtype)
        labels = self.ctc["head"](frames).argmax(-1)
        return [self.proj(self._average(*clip)) for clip in zip(frames, labels, strict=True)]

    def _average(self, frames: Tensor, labels: Tensor) -> Tensor:
        """Average each run of (F, E) frames with one label, in fp32."""
        kept = torch.ones_like(labels, dtype=torch.bool)
        if self.blank_id is not None and bool((labels != self.blank_id).any()):
            kept = labels != self.blank_id
        first = kept.clone()
        first[1:] &= labels[1:] != labels[:-1]
        groups = (first.cumsum(0) - 1)[kept]
        sizes = groups.bincount()
        sums = frames.new_zeros(len(sizes), frames.shape[1], dtype=torch.float32)
        means = sums.index_add(0, groups, frames[kept].float()) / sizes[:, None]
        return means.to(frames.dtype)


class CTCSpeechModelConfig(SpeechModelConfig):
    """Settings with adapter `ctc`: a type of their own, as transformers finds models by it."""

    model_type = "kikimimi_ctc"

    def __init__(self, **kwargs: Any) -> None:  # without one, transformers makes a dataclass of it
        super().__init__(**kwargs)


class CTCSpeechModel(HeardSpeechModel):
    """With adapter `ctc`, without a head."""

    config_class = CTCSpeechModelConfig
    adapter_class = LabelledRuns


class CTCSpeechModelForCausalLM(HeardSpeechModelForCausalLM):
    """With adapter `ctc`, with a head."""

    config_class = CTCSpeechModelConfig
    adapter_class = LabelledRuns

"""A speech LLM whose adapter lets a query read each window that a CTC head cuts out of the clip."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

from kikimimi.published.auto_map.configuration_speech_lm import SpeechModelConfig
from kikimimi.published.auto_map.modeling_heard import HeardSpeechModel, HeardSpeechModelForCausalLM
from kikimimi.published.auto_map.modeling_qformer import QueryTransformer


class LabelledWindows(nn.Module):
    """The adapter `alignformer`.

    Args:
        config: `adapter_config` of the whole.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.blank_id = config["blank_id"]
        self.ctc: Any = nn.ModuleDict({"head": nn.Linear(config["in_dim"], config["num_labels"])})
        self.query = nn.Parameter(torch.zeros(1, 1, config["hidden_dim"]))
        one_source = {"num_concat_layers": 1, "cross_attention_frequency": 1, "query_norm": True}
        self.qformer = QueryTransformer(config | one_source)
        self.proj = nn.Linear(config["hidden_dim"], config["out_dim"])

    def forward(self, frames: Tensor) -> list[Tensor]:
        """Adapt (n, F, E) to (T, D) for each clip."""
        frames = frames.to(self.query.dtype)
        labels = self.ctc["head"](frames).argmax(-1)
        return [self.proj(self._read(*clip)) for clip in zip(frames, labels, strict=True)]

    def _read(self, frames: Tensor, labels: Tensor) -> Tensor:
        """Read (F, E) frames, window by window, into (T, H).

        A window ends where a run of one label that is not blank does; the last takes what is left.
        """
        goes_on = torch.zeros_like(labels, dtype=torch.bool)
        goes_on[:-1] = labels[1:] == labels[:-1]
        ends = ((labels != self.blank_id) & ~goes_on).nonzero()[:, 0].tolist()
        starts = [0, *(end + 1 for end in ends[:-1])]
        bounds = list(zip(starts, [*starts[1:], len(frames)], strict=True))
        alike: dict[int, list[int]] = defaultdict(list)
        for number, (start, end) in enumerate(bounds):
            alike[end - start].append(number)
        read: dict[int, Tensor] = {}
        for numbers in alike.values():
            windows = torch.stack([frames[slice(*bounds[number])] for number in numbers])
            queries = self.qformer(self.query.expand(len(numbers), -1, -1), windows)
            read.update(zip(numbers, queries[:, 0], strict=True))
        return torch.stack([read[number] for number in range(len(bounds))])


class AlignFormerSpeechModelConfig(SpeechModelConfig):
    """Settings with adapter `alignformer`: a type of their own, as transformers finds models by it."""

    model_type = "kikimimi_alignformer"

    def __init__(self, **kwargs: Any) -> None:  # without one, transformers makes a dataclass of it
        super().__init__(**kwargs)


class AlignFormerSpeechModel(HeardSpeechModel):
    """With adapter `alignformer`, without a head."""

    config_class = AlignFormerSpeechModelConfig
    adapter_class = LabelledWindows


class AlignFormerSpeechModelForCausalLM(HeardSpeechModelForCausalLM):
    """With adapter `alignformer`, with a head."""

    config_class = AlignFormerSpeechModelConfig
    adapter_class = LabelledWindows

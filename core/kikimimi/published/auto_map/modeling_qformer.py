"""A speech LLM whose adapter lets learned queries read frames, of each window or of the whole clip."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Blip2QFormerConfig
from transformers.models.blip_2.modeling_blip_2 import Blip2QFormerLayer

from kikimimi.published.auto_map.configuration_speech_lm import SpeechModelConfig
from kikimimi.published.auto_map.modeling_speech_lm import BareSpeechModel, BareSpeechModelForCausalLM


class QueryLayer(Blip2QFormerLayer):  # type: ignore[misc]
    """Self-attention of the queries, cross-attention to frames, feed-forward; post-norm."""

    def forward(self, hidden: Tensor, frames: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Transform (N, Q, H) queries that look at (N, K, E) frames."""
        hidden = _look(self.attention, hidden, hidden)
        if self.has_cross_attention:
            hidden = _look(self.crossattention, hidden, frames)
        out: Tensor = self.output_query(self.intermediate_query(hidden), hidden)
        return out


def _look(block: Any, hidden: Tensor, source: Tensor) -> Tensor:
    inner = block.attention
    # (N, length, E) -> (N, heads, length, E / heads)
    parts = (inner.query(hidden), inner.key(source), inner.value(source))
    query, key, value = (
        part.unflatten(-1, (inner.num_attention_heads, -1)).transpose(1, 2) for part in parts
    )
    mixed = F.scaled_dot_product_attention(query, key, value)
    out: Tensor = block.output(mixed.transpose(1, 2).flatten(2), hidden)
    return out


class QueryTransformer(nn.Module):
    """The layers, and the norm of what goes in."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        sizes = Blip2QFormerConfig(
            hidden_size=config["hidden_dim"],
            encoder_hidden_size=config["in_dim"] // config["num_concat_layers"],
            num_attention_heads=config["num_heads"],
            intermediate_size=config["ffn_dim"],
            cross_attention_frequency=config["cross_attention_frequency"],
            attention_probs_dropout_prob=0.0,
            hidden_dropout_prob=0.0,
            layer_norm_eps=1e-12,
            use_qformer_text_input=False,
        )
        self.layernorm = nn.LayerNorm(config["hidden_dim"], eps=1e-12) if config["query_norm"] else None
        layers = nn.ModuleList(QueryLayer(sizes, number) for number in range(config["num_layers"]))
        self.encoder: Any = nn.ModuleDict({"layer": layers})

    def forward(self, queries: Tensor, frames: Tensor) -> Tensor:
        """Let (N, Q, H) queries read (N, K, E) frames."""
        if self.layernorm is not None:
            queries = self.layernorm(queries)
        for layer in self.encoder["layer"]:
            queries = layer(queries, frames)
        return queries


class WindowQueries(nn.Module):
    """The adapter `qformer`.

    Args:
        config: `adapter_config` of the whole.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.settings = config
        layers, queries, hidden = config["num_concat_layers"], config["num_queries"], config["hidden_dim"]
        self.queries = nn.Parameter(torch.zeros(layers, queries, hidden))
        self.tap_weights = nn.Parameter(torch.zeros(queries, layers)) if layers > 1 else None
        self.qformer = QueryTransformer(config)
        self.norm = nn.LayerNorm(hidden) if config["output_norm"] else None
        self.proj = nn.Linear(hidden, config["out_dim"])

    def forward(self, frames: Tensor) -> Tensor:
        """Adapt (n, F, E) to (n, windows x queries, D)."""
        frames = frames.to(self.queries.dtype)
        length = frames.shape[1]
        window = self.settings["window"] or length
        whole = length // window * window
        read = []
        if whole:
            # (n, F, E) -> (n x windows, window, E)
            windows = self._read(frames[:, :whole].reshape(-1, window, frames.shape[2]))
            read.append(windows.view(len(frames), -1, *windows.shape[1:]))
        if length > whole and not (whole and self.settings["remainder"] == "drop"):
            rest = frames[:, whole:]
            if self.settings["remainder"] == "pad":
                rest = F.pad(rest, (0, 0, 0, window - rest.shape[1]))
            read.append(self._read(rest)[:, None])
        queries = torch.cat(read, dim=1).flatten(1, 2)  # (n, windows, Q, H) -> (n, windows x Q, H)
        tokens: Tensor = self.proj(queries if self.norm is None else self.norm(queries))
        return tokens

    def _read(self, windows: Tensor) -> Tensor:
        """Read (N, K, layers x E) frames into (N, Q, H)."""
        count, size, _ = windows.shape
        layers = len(self.queries)
        frames = windows.view(count, size, layers, -1).transpose(1, 2).flatten(0, 1)
        read: Tensor = self.qformer(self.queries.repeat(count, 1, 1), frames)
        if self.tap_weights is None:
            return read
        shares = self.tap_weights.float().softmax(-1).T[..., None]  # (layers, Q, 1)
        return (read.view(count, layers, *read.shape[1:]) * shares.to(read.dtype)).sum(1)


class QFormerSpeechModelConfig(SpeechModelConfig):
    """Settings with adapter `qformer`: a type of their own, as transformers finds models by it."""

    model_type = "kikimimi_qformer"

    def __init__(self, **kwargs: Any) -> None:  # without one, transformers makes a dataclass of it
        super().__init__(**kwargs)


class QFormerSpeechModel(BareSpeechModel):
    """With adapter `qformer`, without a head."""

    config_class = QFormerSpeechModelConfig
    adapter_class = WindowQueries


class QFormerSpeechModelForCausalLM(BareSpeechModelForCausalLM):
    """With adapter `qformer`, with a head."""

    config_class = QFormerSpeechModelConfig
    adapter_class = WindowQueries

"""WavLM."""

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import WavLMConfig
from transformers.models.wavlm.modeling_wavlm import WavLMAttention

from kikimimi_encoders.ssl.family import SSLConfig, SSLEncoder
from kikimimi_encoders.ssl.model import new_layer


class GatedAttention(WavLMAttention):  # type: ignore[misc]
    """transformers' `WavLMAttention` in one fused call, which takes padding without a deprecation warning."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_bias: Tensor | None = None,
        index: int = 0,
        **options: Any,
    ) -> tuple[Tensor, None, Any]:
        """Attend with a relative position bias that each query gates (Chen et al. 2022, section 3.1).

        Args:
            hidden_states: (B, F, E).
            attention_mask: (B, 1, 1, F) bool, true where a frame is real.
            position_bias: (heads, F, F) from the first layer; None in the first layer.
            index: Unused; transformers' layers pass it.
            options: Unused as well.

        Returns:
            (B, F, E), no attention weights, and the position bias.
        """
        if position_bias is None:
            position_bias = self.compute_bias(hidden_states.shape[1], hidden_states.shape[1])
        # (B, F, E) -> (B, heads, F, width)
        query, key, value = (
            projection(hidden_states).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        parts = hidden_states.view(*hidden_states.shape[:2], self.num_heads, -1).transpose(1, 2)
        gates = self.gru_rel_pos_linear(parts)
        # (B, heads, F, 8) -> (B, heads, F, 1) twice
        gate, reset = gates.unflatten(-1, (2, 4)).sum(-1).sigmoid().chunk(2, dim=-1)
        bias = (gate * (reset * self.gru_rel_pos_const - 1.0) + 2.0) * position_bias
        if attention_mask is not None:
            bias = bias.masked_fill(~attention_mask, float("-inf"))
        mixed = F.scaled_dot_product_attention(
            query, key, value, bias.to(query.dtype), dropout_p=self.dropout if self.training else 0.0
        )
        return self.out_proj(mixed.transpose(1, 2).flatten(2)), None, position_bias


class WavLMEncoder(SSLEncoder):
    """WavLM (Chen et al. 2022, arXiv 2110.13900), equal to transformers' `WavLMModel`."""

    @dataclass(kw_only=True, frozen=True)
    class Config(SSLConfig):
        """Options of the `wavlm` encoder."""

        weights: str = "microsoft/wavlm-base-plus"
        """A WavLM of transformers: a Hub id, a folder, `package:...`; or `random`."""

    name = "wavlm"
    config_class = WavLMConfig
    conv_bias = False

    def normalises(self, hf_config: Any) -> bool:
        """Whether it is the large model, for which alone the authors normalised clips."""
        large: bool = hf_config.feat_extract_norm == "layer"
        return large

    def layer(self, hf_config: Any, number: int) -> nn.Module:
        """Build the layer of a number; the first has the table of positions for all."""
        built: Any = new_layer(hf_config, has_relative_position_bias=number == 0)
        built.attention = GatedAttention(
            embed_dim=hf_config.hidden_size,
            num_heads=hf_config.num_attention_heads,
            dropout=hf_config.attention_dropout,
            num_buckets=hf_config.num_buckets,
            max_distance=hf_config.max_bucket_distance,
            has_relative_position_bias=number == 0,
        )
        layer: nn.Module = built
        return layer

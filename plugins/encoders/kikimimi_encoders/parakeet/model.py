"""Parakeet's network: convolutional subsampling and Conformer blocks."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.parakeet.modeling_parakeet import (
    ParakeetEncoderBlock,
    ParakeetEncoderConvolutionModule,
    ParakeetEncoderSubsamplingConv2D,
)

from kikimimi import Padded
from kikimimi_encoders.batch_norm import norm_real_frames


class ConvolutionModule(ParakeetEncoderConvolutionModule):  # type: ignore[misc]
    """transformers' convolution module, whose batch norm counts real frames only while it trains."""

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Convolve (B, F, E); a frame is real where the (B, 1, F, F) mask lets it attend to itself."""
        # (B, F, E) -> (B, E, F)
        hidden = F.glu(self.pointwise_conv1(hidden_states.transpose(1, 2)), dim=1)
        real = None if attention_mask is None else attention_mask[:, 0].diagonal(dim1=-2, dim2=-1)
        if real is not None:
            hidden = hidden.masked_fill(~real[:, None], 0.0)
        # (B, E, F) -> (B, F, E)
        hidden = norm_real_frames(self.norm, self.depthwise_conv(hidden).transpose(1, 2), real)
        out: Tensor = self.pointwise_conv2(self.activation(hidden).transpose(1, 2))
        return out.transpose(1, 2)


class FastConformer(nn.Module):
    """Convolutional subsampling, then Conformer blocks, up to the highest layer that is read.

    Names of parameters are those of transformers' `ParakeetEncoder`.

    Args:
        config: transformers' config of the encoder.
        last: Highest layer that is read; those above are not built.
    """

    def __init__(self, config: Any, last: int) -> None:
        super().__init__()
        config._attn_implementation = "sdpa"
        self.scale = math.sqrt(config.hidden_size) if config.scale_input else 1.0
        self.dropout = nn.Dropout(config.dropout)
        self.position_dropout = nn.Dropout(config.dropout_positions)
        self.subsampling = ParakeetEncoderSubsamplingConv2D(config)
        self.layers = nn.ModuleList()
        for number in range(last):
            block = ParakeetEncoderBlock(config, number)
            block.conv = ConvolutionModule(config)
            self.layers.append(block)

    def forward(self, mel: Padded, lengths: Sequence[int], layers: Sequence[int]) -> list[Tensor]:
        """Encode.

        Args:
            mel: (B, mels, mel frames) spectrograms with lengths in mel frames, zero past them.
            lengths: Frames of each clip after subsampling.
            layers: Layers whose outputs are wanted, ascending; 0 is what enters the first block.

        Returns:
            The output (B, F, E) of each of `layers`.
        """
        mel_mask = attention = None
        if len(set(mel.lengths.tolist())) > 1:
            steps = torch.arange(mel.values.shape[-1], device=mel.values.device)
            mel_mask = steps < mel.lengths.to(steps.device)[:, None]
        # (B, mels, mel frames) -> (B, F, E)
        hidden = self.subsampling(mel.values.transpose(1, 2), mel_mask) * self.scale
        if len(set(lengths)) > 1:
            counts = torch.tensor(lengths, device=hidden.device)
            real = torch.arange(hidden.shape[1], device=hidden.device) < counts[:, None]
            # (B, F) -> (B, 1, queries, keys)
            attention = (real[:, None] & real[:, :, None])[:, None]
        positions = self.position_dropout(_positions(hidden)).expand(len(hidden), -1, -1)
        hidden = self.dropout(hidden)
        outputs = [hidden] if layers[0] == 0 else []
        for number, layer in enumerate(self.layers, start=1):
            hidden = layer(hidden, attention_mask=attention, position_embeddings=positions)
            if number in layers:
                outputs.append(hidden)
        return outputs


def _positions(hidden: Tensor) -> Tensor:
    """Return (1, 2F-1, E) sines and cosines, interleaved, of distances from F-1 down to 1-F.

    Relative positions of Transformer-XL (Dai et al. 2019, section 3.3), in float32 whatever the weights are.
    """
    frames, dim = hidden.shape[1:]
    distances = torch.arange(frames - 1, -frames, -1, device=hidden.device).float()
    steps = torch.arange(0, dim, 2, device=hidden.device).float() / dim
    angles = distances[:, None] * 10000.0**-steps
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[None].to(hidden.dtype)

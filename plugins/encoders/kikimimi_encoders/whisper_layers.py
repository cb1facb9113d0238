"""The transformer of Whisper's encoder, over clips laid end to end instead of padded."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class WhisperAttention(nn.Module):
    """Self-attention within each clip. Names of parameters as in transformers' `WhisperAttention`."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim, bias=False)
        self.v_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, frames: Tensor, lengths: list[int]) -> Tensor:
        """Attend.

        Args:
            frames: (N, E), clips end to end.
            lengths: Frames of each clip; they add up to N.

        Returns:
            (N, E).
        """
        heads = [
            proj(frames).unflatten(-1, (self.num_heads, -1))
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        ]
        if len(set(lengths)) == 1:
            # (N, heads, width) -> (B, heads, F, width)
            query, key, value = (part.unflatten(0, (len(lengths), -1)).transpose(1, 2) for part in heads)
            mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(0, 1)
        else:
            # One call for each clip costs less than one over the padded batch with a mask.
            clips = zip(*(part.transpose(0, 1).split(lengths, dim=1) for part in heads), strict=True)
            mixed = torch.cat([F.scaled_dot_product_attention(*clip) for clip in clips], dim=1).transpose(
                0, 1
            )
        out: Tensor = self.out_proj(mixed.flatten(1))
        return out


class WhisperEncoderLayer(nn.Module):
    """Pre-norm attention and feed-forward. Names as in transformers' `WhisperEncoderLayer`."""

    def __init__(self, dim: int, num_heads: int, ffn_dim: int) -> None:
        super().__init__()
        self.self_attn = WhisperAttention(dim, num_heads)
        self.self_attn_layer_norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, ffn_dim)
        self.fc2 = nn.Linear(ffn_dim, dim)
        self.final_layer_norm = nn.LayerNorm(dim)

    def forward(self, frames: Tensor, lengths: list[int]) -> Tensor:
        """Transform (N, E) frames of clips of the given lengths."""
        frames = frames + self.self_attn(self.self_attn_layer_norm(frames), lengths)
        frames = frames + self.fc2(F.gelu(self.fc1(self.final_layer_norm(frames))))
        if frames.dtype == torch.float16:
            # The reference does so: large-v3 overflows otherwise.
            limit = torch.finfo(torch.float16).max - 1000
            frames = frames.clamp(-limit, limit)
        return frames


class WhisperTransformer(nn.Module):
    """Convolutions, positions and layers. Names as in transformers' `WhisperEncoder`."""

    def __init__(
        self, *, dim: int, num_layers: int, num_heads: int, ffn_dim: int, num_mels: int, num_positions: int
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(num_mels, dim, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(dim, dim, kernel_size=3, stride=2, padding=1)
        self.embed_positions = nn.Embedding(num_positions, dim)
        with torch.no_grad():
            self.embed_positions.weight.copy_(_sinusoids(num_positions, dim))
        self.embed_positions.requires_grad_(False)
        self.layers = nn.ModuleList(WhisperEncoderLayer(dim, num_heads, ffn_dim) for _ in range(num_layers))
        self.layer_norm = nn.LayerNorm(dim)

    def forward(self, mel: Tensor, mel_lengths: list[int]) -> list[Tensor]:
        """Encode spectrograms.

        Args:
            mel: (B, mels, mel frames) in the dtype of the weights.
            mel_lengths: Mel frames of each clip.

        Returns:
            For each clip (F, E) with F = ceil(mel frames / 2).
        """
        positions = torch.arange(mel.shape[-1], device=mel.device)
        past = (positions >= torch.tensor(mel_lengths, device=mel.device)[:, None])[:, None]
        padded = len(set(mel_lengths)) > 1
        if padded:
            mel = mel.masked_fill(past, 0.0)
        hidden = F.gelu(self.conv1(mel))
        if padded:
            # A clip alone would meet the convolution's zero padding here.
            hidden = hidden.masked_fill(past, 0.0)
        hidden = F.gelu(self.conv2(hidden)).transpose(1, 2)
        lengths = [-(-length // 2) for length in mel_lengths]
        # (B, F, E) -> (N, E)
        frames = torch.cat(
            [
                clip[:length] + self.embed_positions.weight[:length]
                for clip, length in zip(hidden, lengths, strict=True)
            ]
        )
        for layer in self.layers:
            frames = layer(frames, lengths)
        return list(self.layer_norm(frames).split(lengths))


def _sinusoids(length: int, dim: int) -> Tensor:
    """Return (length, dim) sinusoidal positions: sines, then cosines (Radford et al. 2022)."""
    steps = torch.arange(dim // 2) * (-math.log(10000) / (dim // 2 - 1))
    angles = torch.arange(length)[:, None] * steps.exp()
    return torch.cat([angles.sin(), angles.cos()], dim=1)

"""The transformer of Whisper's encoder, over clips laid end to end instead of padded, and its sizes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Annotated, Any, Self

import torch
import torch.nn.functional as F
from annotated_types import Ge, MultipleOf
from torch import Tensor, nn

from kikimimi import LayerCount, PositiveInt, WeightsError
from kikimimi_encoders import pretrained


@dataclass(kw_only=True, frozen=True)
class Sizes(pretrained.Sizes):
    """Sizes of a Whisper encoder with random weights; the defaults are those of Whisper base."""

    dim: Annotated[int, Ge(4), MultipleOf(2)] = 512
    """Width E of the frames; even."""
    num_layers: LayerCount = 6
    """Transformer layers."""
    num_heads: PositiveInt = 8
    """Attention heads; they divide `dim`."""
    ffn_dim: PositiveInt = 2048
    """Inner width of the feed-forward network."""
    num_mels: PositiveInt = 80
    """Mel bands of the spectrogram (80; 128 in large-v3)."""
    num_positions: PositiveInt = 1500
    """Longest clip [frames of 20 ms]."""

    @classmethod
    def of_whisper(cls, config: Mapping[str, Any], source: str) -> Self:
        """Read sizes under their names in transformers' `WhisperConfig`, or in its `VoxtralEncoderConfig`.

        Raises:
            WeightsError: They are missing or impossible, or the model is not a plain Whisper.
        """
        if config.get("activation_function", "gelu") != "gelu" or config.get("scale_embedding", False):
            raise WeightsError(f"{source}: is not a plain Whisper (gelu, embeddings not scaled)")
        return cls.read(config, _NAMES if "encoder_layers" in config else _LATER_NAMES, source)


_NAMES = {
    "dim": "d_model",
    "num_layers": "encoder_layers",
    "num_heads": "encoder_attention_heads",
    "ffn_dim": "encoder_ffn_dim",
    "num_mels": "num_mel_bins",
    "num_positions": "max_source_positions",
}
_LATER_NAMES = {
    **_NAMES,
    "dim": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "ffn_dim": "intermediate_size",
}


class WhisperAttention(nn.Module):
    """Self-attention within each clip. Names of parameters as in transformers' `WhisperAttention`.

    Args:
        dim: Width E of the frames.
        num_heads: Attention heads.
        key_bias: Whether the keys have a bias, as in Qwen3-Omni; Whisper's have none.
    """

    def __init__(self, dim: int, num_heads: int, *, key_bias: bool = False) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim, bias=key_bias)
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
        # One call for each run of equal clips costs less than one over the padded batch with a mask.
        runs = [(length, len(list(run))) for length, run in groupby(lengths)]
        sizes = [length * count for length, count in runs]
        mixed = torch.cat(
            [
                _attended(parts, count)
                for (_, count), *parts in zip(runs, *(part.split(sizes) for part in heads), strict=True)
            ]
        )
        out: Tensor = self.out_proj(mixed.flatten(1))
        return out


def _attended(parts: Sequence[Tensor], count: int) -> Tensor:
    """Attend within each of `count` clips of one length: query, key and value of (N, heads, width) each."""
    # (N, heads, width) -> (count, heads, F, width)
    query, key, value = (torch.unflatten(part, 0, (count, -1)).transpose(1, 2) for part in parts)
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(0, 1)


class WhisperEncoderLayer(nn.Module):
    """Pre-norm attention and feed-forward. Names as in transformers' `WhisperEncoderLayer`.

    Args:
        dim: Width E of the frames.
        num_heads: Attention heads.
        ffn_dim: Inner width of the feed-forward network.
        key_bias: Whether the attention's keys have a bias, as in Qwen3-Omni; Whisper's have none.
    """

    def __init__(self, dim: int, num_heads: int, ffn_dim: int, *, key_bias: bool = False) -> None:
        super().__init__()
        self.self_attn = WhisperAttention(dim, num_heads, key_bias=key_bias)
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
    """Convolutions, positions and layers. Names as in transformers' `WhisperEncoder`.

    Args:
        sizes: Sizes of the whole model.
        last: Layers to build, from the first on. Where these are not all, no norm follows.
        pairs: Average every two frames of a clip after the layers, before the norm (Qwen2-Audio).
        norm: Whether the norm follows the very last layer.
    """

    def __init__(self, sizes: Sizes, last: int, *, pairs: bool, norm: bool = True) -> None:
        super().__init__()
        dim = sizes.dim
        self.pairs = pairs
        self.conv1 = nn.Conv1d(sizes.num_mels, dim, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(dim, dim, kernel_size=3, stride=2, padding=1)
        self.embed_positions = nn.Embedding(sizes.num_positions, dim)
        with torch.no_grad():
            self.embed_positions.weight.copy_(whisper_positions(sizes.num_positions, dim))
        self.embed_positions.requires_grad_(False)
        self.layers = nn.ModuleList(
            WhisperEncoderLayer(dim, sizes.num_heads, sizes.ffn_dim) for _ in range(last)
        )
        self.layer_norm = nn.LayerNorm(dim) if norm and last == sizes.num_layers else None

    def forward(
        self, mel: Tensor, mel_lengths: list[int], lengths: list[int], layers: Sequence[int]
    ) -> list[Tensor]:
        """Encode spectrograms.

        Args:
            mel: (B, mels, mel frames) in the dtype of the weights.
            mel_lengths: Mel frames of each clip that the convolutions see; zeros follow.
            lengths: Frames of each clip that enter the layers, at most half the mel frames, rounded up.
            layers: Numbers of the layers to return, ascending; 0 is what enters the first one.

        Returns:
            The output (N, E) of each of `layers`, clips end to end; N counts frames, or pairs where averaged.
        """
        frames = self._convolve(mel, mel_lengths, lengths)
        outputs = [frames] if layers[0] == 0 else []
        for number, layer in enumerate(self.layers, start=1):
            frames = layer(frames, lengths)
            if number in layers:
                outputs.append(frames)
        if self.pairs:
            outputs = [average_pairs(output, lengths) for output in outputs]
        if self.layer_norm is not None:
            outputs[-1] = self.layer_norm(outputs[-1])
        return outputs

    def _convolve(self, mel: Tensor, mel_lengths: list[int], lengths: list[int]) -> Tensor:
        """Halve the rate and add positions: (B, mels, mel frames) -> (N, E)."""
        hidden = convolve(mel, mel_lengths, self.conv1, self.conv2)
        # (B, F, E) -> (N, E)
        return torch.cat(
            [
                clip[:length] + self.embed_positions.weight[:length]
                for clip, length in zip(hidden, lengths, strict=True)
            ]
        )


def convolve(mel: Tensor, lengths: list[int], conv1: nn.Module, conv2: nn.Module) -> Tensor:
    """Convolve spectrograms twice, each as if it were alone, to half the rate.

    Args:
        mel: (B, mels, mel frames), the longest without padding.
        lengths: Mel frames of each.
        conv1: Convolution that keeps the rate.
        conv2: Convolution that halves it.

    Returns:
        (B, F, E).
    """
    past = past_lengths(lengths, mel)[:, None]
    padded = len(set(lengths)) > 1
    if padded:
        mel = mel.masked_fill(past, 0.0)
    hidden = F.gelu(conv1(mel))
    if padded:
        # A clip alone would meet the convolution's zero padding here.
        hidden = hidden.masked_fill(past, 0.0)
    return F.gelu(conv2(hidden)).transpose(1, 2)


def past_lengths(lengths: list[int], values: Tensor) -> Tensor:
    """Return (B, F) whether each of the F last-dimension positions of `values` is past its row's length."""
    positions = torch.arange(values.shape[-1], device=values.device)
    return positions >= torch.tensor(lengths, device=values.device)[:, None]


def num_pairs(length: int) -> int:
    """Return how many pairs a clip's frames make: an odd last one has no part, unless it is the only one."""
    return max(1, length // 2)


def average_pairs(frames: Tensor, lengths: list[int]) -> Tensor:
    """Average every two frames of each clip.

    Args:
        frames: (N, E), clips end to end.
        lengths: Frames of each clip; they add up to N.

    Returns:
        (sum of `num_pairs`, E), clips end to end.
    """
    if any(length % 2 for length in lengths):
        # A single frame makes a pair with itself.
        paired = [
            clip[: len(clip) // 2 * 2] if len(clip) > 1 else clip.expand(2, -1)
            for clip in torch.split(frames, lengths)
        ]
        frames = torch.cat(paired)
    # (2 N, E) -> (N, 2, E) -> (N, E)
    return frames.reshape(-1, 2, frames.shape[-1]).mean(1)


def whisper_positions(length: int, dim: int) -> Tensor:
    """Return (length, dim) sinusoidal positions: sines, then cosines (Radford et al. 2022)."""
    steps = torch.arange(dim // 2, dtype=torch.float32) * (-math.log(10000) / (dim // 2 - 1))
    angles = torch.arange(length)[:, None] * steps.exp()
    return torch.cat([angles.sin(), angles.cos()], dim=1)

"""Learnt band-pass filters on the waveform, then convolutions over frames."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from kikimimi import ComponentConfig, Encoder, LayerCount, OddInt, Padded, PositiveInt, full_precision

SAMPLE_RATE = 16000
STRIDE = 10
"""Samples from one value of a band to the next."""
HOP = 320
"""Samples of a frame: 20 ms."""
LOWEST_HZ = 50.0
"""Least lower edge of a band, and least width."""


class SincFilters(nn.Module):
    """Band-pass filters on the waveform, each with two edges to learn (SincNet).

    Ravanelli and Bengio 2018, arXiv 1808.00158, equation 4, under a Hamming window (equation 5). The edges
    start evenly on the mel scale (section 2) and are held in kHz, so that a step of an optimiser moves them.
    """

    def __init__(self, num_filters: int, kernel_size: int) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        highest = 2595 * torch.log10(torch.tensor(1 + SAMPLE_RATE / 2 / 700))
        mel = torch.linspace(0, 1, num_filters + 1) * highest
        edges = 0.7 * (10 ** (mel / 2595) - 1)  # kHz
        self.low = nn.Parameter(edges[:-1].clone())
        self.width = nn.Parameter(edges.diff())

    def forward(self, audio: Tensor) -> Tensor:
        """Filter (B, S) to (B, filters, positions), in float32 whatever the edges are."""
        low = LOWEST_HZ / 1000 + self.low.float().abs()
        high = (low + LOWEST_HZ / 1000 + self.width.float().abs()).clamp(max=SAMPLE_RATE / 2000)
        # Made anew each time: nothing that a constructor computes is rounded with the weights.
        half = self.kernel_size // 2
        place = torch.arange(-half, half + 1, device=audio.device) / SAMPLE_RATE * 1000  # ms
        window = torch.hamming_window(self.kernel_size, periodic=False, device=audio.device)
        impulse = low_pass(high, place) - low_pass(low, place)  # (filters, kernel)
        kernel = impulse * window * (1000 / SAMPLE_RATE)
        return functional.conv1d(audio[:, None], kernel[:, None], stride=STRIDE)


def low_pass(edges: Tensor, place: Tensor) -> Tensor:
    """Return impulse responses (filters, kernel) of ideal low-pass filters: edges in kHz, places in ms."""
    return 2 * edges[:, None] * torch.sinc(2 * edges[:, None] * place)


class Block(nn.Module):
    """Depth-wise convolution over seven frames, then a feed-forward network (ConvNeXt, arXiv 2201.03545)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mix = nn.Conv1d(dim, dim, kernel_size=7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.widen = nn.Linear(dim, 4 * dim)
        self.narrow = nn.Linear(4 * dim, dim)

    def forward(self, frames: Tensor, real: Tensor) -> Tensor:
        """Map (B, F, E) to (B, F, E); `real` (B, F, 1) is false past the lengths."""
        mixed = self.mix(frames.masked_fill(~real, 0.0).transpose(1, 2)).transpose(1, 2)
        added: Tensor = self.narrow(functional.gelu(self.widen(self.norm(mixed))))
        return frames + added


class SincNetEncoder(Encoder):
    """Frames of 20 ms from the waveform: the energy in learnt bands, and residual convolutions.

    SincNet (Ravanelli and Bengio 2018, arXiv 1808.00158) with the mean energy of a band over a frame, its
    logarithm and layer normalisation in place of the paper's pooling.
    """

    contract_version = 1

    @dataclass(kw_only=True, frozen=True)
    class Config(ComponentConfig):
        """What a recipe may set."""

        dim: PositiveInt = 256
        """Width E of the frames."""
        num_layers: LayerCount = 6
        """Convolutions."""
        num_filters: PositiveInt = 80
        """Band-pass filters."""
        kernel_size: OddInt = 251
        """Length of a filter [samples]."""

    sample_rate = SAMPLE_RATE
    frame_rate = SAMPLE_RATE / HOP
    max_seconds = None

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.dim = config.dim
        self.filters = SincFilters(config.num_filters, config.kernel_size)
        self.norm = nn.LayerNorm(config.num_filters)
        self.projection = nn.Linear(config.num_filters, config.dim)
        self.blocks = nn.ModuleList(Block(config.dim) for _ in range(config.num_layers))
        self.final_norm = nn.LayerNorm(config.dim)

    @classmethod
    def tiny_config(cls, config: Any | None = None) -> Config:
        """Return `config` with 2 layers of width 32, and 20 filters."""
        return replace(config or cls.Config(), dim=32, num_layers=2, num_filters=20)

    def num_frames(self, num_samples: int) -> int:
        """Return the frames of 20 ms that the clip touches: ceil(S / 320), at least 1."""
        return max(1, -(-num_samples // HOP))

    def forward(self, audio: Padded) -> Padded:
        """Encode (B, S) waveforms at 16 kHz to (B, F, E)."""
        lengths = (-(-audio.lengths // HOP)).clamp(min=1)
        energy = self.log_energy(audio)
        real = Padded(energy, lengths).mask()[..., None]
        frames = self.projection(self.norm(energy.to(self.projection.weight.dtype)))
        for block in self.blocks:
            frames = block(frames, real)
        return Padded(self.final_norm(frames), lengths)

    def log_energy(self, audio: Padded) -> Tensor:
        """Return the logarithm of each band's mean energy over each frame: (B, F, filters), in float32."""
        clips = audio.values.float().masked_fill(~audio.mask(), 0.0)
        half = self.config.kernel_size // 2
        missing = self.num_frames(clips.shape[1]) * HOP - clips.shape[1]
        with full_precision(clips.device):
            # (B, filters, F x HOP / STRIDE)
            bands = self.filters(functional.pad(clips, (half, missing + half)))
            energy = functional.avg_pool1d(bands.square(), HOP // STRIDE)
            return (energy + 1e-6).log().transpose(1, 2)

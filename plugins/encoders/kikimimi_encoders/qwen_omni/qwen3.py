"""The audio encoder of Qwen3-Omni: convolutions over chunks of a second, attention over eight of them."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kikimimi import Padded, PositiveInt
from kikimimi_encoders.log_mel import HOP, log_mel_alone, num_own_mel_frames
from kikimimi_encoders.pretrained import SAMPLE_RATE, PretrainedConfig, PretrainedEncoder
from kikimimi_encoders.qwen_omni import family
from kikimimi_encoders.qwen_omni.family import ChunkedTransformer, OmniEncoder
from kikimimi_encoders.whisper.layers import past_lengths

_AT_ONCE = 500
"""Chunks that are convolved at once: as in transformers, for the memory."""


@dataclass(kw_only=True, frozen=True)
class Sizes(family.Sizes):
    """Sizes of an encoder with random weights; the defaults are those of Qwen3-Omni-30B-A3B."""

    channels: PositiveInt = 480
    """Channels of the convolutions that subsample."""


def halved(length: int) -> int:
    """Return the length after a convolution of width 3 and stride 2 with padding: half, rounded up."""
    return -(-length // 2)


def subsampled(length: int) -> int:
    """Return the length after three such convolutions."""
    return halved(halved(halved(length)))


class Qwen3OmniTransformer(ChunkedTransformer):
    """Names of parameters are those of transformers' `Qwen3OmniMoeAudioEncoder`, without `proj1`, `proj2`.

    Args:
        sizes: Sizes of the whole model.
        last: Layers to build, from the first on. Where these are not all, no norm follows.
    """

    chunk = 100
    window = 104

    def __init__(self, sizes: Sizes, last: int) -> None:
        super().__init__(sizes, last, key_bias=True)
        channels = sizes.channels
        self.conv2d1 = nn.Conv2d(1, channels, 3, 2, padding=1)
        self.conv2d2 = nn.Conv2d(channels, channels, 3, 2, padding=1)
        self.conv2d3 = nn.Conv2d(channels, channels, 3, 2, padding=1)
        self.conv_out = nn.Linear(channels * subsampled(sizes.num_mels), sizes.dim, bias=False)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the convolutions."""
        return self.conv_out.weight.dtype

    def convolve(self, chunks: Tensor, lengths: list[int], whole: list[int]) -> Tensor:
        """Convolve each chunk by itself, to an eighth of the rate.

        In the reference the last chunk of a clip is followed by zeros up to a whole chunk, and what the
        convolutions make of these is seen; a clip below a chunk, alone, is not followed by any.
        """
        chunks = chunks.masked_fill(past_lengths(lengths, chunks)[:, None], 0.0)
        seen = [min(length, self.chunk) for length in whole]
        parts = zip(torch.split(chunks, _AT_ONCE), _split(seen, _AT_ONCE), strict=True)
        return torch.cat([self._convolve(part, lengths) for part, lengths in parts])

    def _convolve(self, chunks: Tensor, lengths: list[int]) -> Tensor:
        """Convolve (C, mels, mel frames), each row as if it ended at its length, to (C, F, E)."""
        hidden = chunks[:, None]
        for convolution in (self.conv2d1, self.conv2d2, self.conv2d3):
            hidden = F.gelu(convolution(hidden))
            lengths = [halved(length) for length in lengths]
            if len(set(lengths)) > 1:
                hidden = hidden.masked_fill(past_lengths(lengths, hidden)[:, None, None], 0.0)
        # (C, channels, bands, F) -> (C, F, channels x bands) -> (C, F, E)
        out: Tensor = self.conv_out(hidden.permute(0, 3, 1, 2).flatten(2))
        return out

    def num_frames(self, num_mel_frames: int) -> int:
        """Return an eighth of the mel frames, rounded up at each of three times."""
        return subsampled(num_mel_frames)

    def pool(self, frames: Tensor, lengths: list[int]) -> Tensor:
        """Return the frames as they are."""
        return frames


def _split(values: list[int], size: int) -> list[list[int]]:
    return [values[start : start + size] for start in range(0, len(values), size)]


class Qwen3OmniEncoder(OmniEncoder):
    """The audio encoder of Qwen3-Omni's thinker, AuT (Xu et al. 2025, arXiv 2509.17765, section 2.2).

    Chunks of 1 s are convolved, each by itself, to 13 frames, with positions that begin anew in each; the
    frames of eight chunks attend to one another in Whisper's layers, whose keys have a bias here; then the
    final norm. It equals what transformers' `Qwen3OmniMoeAudioEncoder` has before its last linear layers,
    `proj1` and `proj2`, which are the adapter (`mlp` with `downsample: 1, hidden_dim: 1280, bias: true`), of
    a clip alone; in a batch of clips below a second the reference lets convolutions see more zeros.

    The spectrogram is Whisper's of the clip alone, without the silence of a window: whole hops of 10 ms, and
    at its end the clip's own reflection. A clip of 200 samples or fewer, which the reference refuses, is
    taken with silence after it.

    Only the layers up to the highest that `layers` names are built, and loaded.
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(PretrainedConfig):
        """Options of the `qwen3_omni` encoder."""

        weights: str = "random"
        """A Qwen3-Omni of transformers (`Qwen/Qwen3-Omni-30B-A3B-Instruct`), whole, its thinker or that one's
        encoder alone: a Hub id, a folder, `package:...`; or `random`."""
        sizes: Sizes | None = None
        """Sizes with `weights: random` (None: the published ones); refused with any other weights."""

    name = "qwen3_omni"
    family = "qwen3_omni_moe"
    transformer = Qwen3OmniTransformer
    sizes_class = Sizes
    # With fewer channels, attention would be more of the whole than it is in any real size.
    tiny_sizes: ClassVar = {**PretrainedEncoder.tiny_sizes, "channels": 24}
    names: ClassVar = {**OmniEncoder.names, "channels": "downsample_hidden_size"}
    expected: ClassVar = {
        "n_window": 50,
        "n_window_infer": 800,
        "activation_function": "gelu",
        "scale_embedding": False,
    }
    adapters = ("proj1.*", "proj2.*")
    stem = "conv2d1"
    frame_rate = SAMPLE_RATE / HOP / Qwen3OmniTransformer.chunk * subsampled(Qwen3OmniTransformer.chunk)

    def num_frames(self, num_samples: int) -> int:
        """Return 13 frames for each second, and an eighth of the mel frames that are left."""
        chunks, rest = divmod(num_own_mel_frames(num_samples), Qwen3OmniTransformer.chunk)
        return chunks * subsampled(Qwen3OmniTransformer.chunk) + subsampled(rest)

    def spectrogram(self, audio: Padded) -> Padded:
        """Compute Whisper's spectrogram of each clip without a window."""
        return log_mel_alone(audio, self.sizes.num_mels)

"""The audio encoder of Qwen2.5-Omni: Whisper's layers, within chunks of two seconds."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from kikimimi import AudioError, Padded
from kikimimi_encoders.log_mel import HOP, log_mel, num_mel_frames
from kikimimi_encoders.pretrained import SAMPLE_RATE, PretrainedConfig
from kikimimi_encoders.qwen_omni.family import ChunkedTransformer, OmniEncoder, Sizes as Sizes
from kikimimi_encoders.whisper.layers import average_pairs, convolve, num_pairs

_LONGEST = 300 * SAMPLE_RATE
"""Samples of the window that the feature extractor fills with silence; it cuts longer clips."""


class Qwen2_5OmniTransformer(ChunkedTransformer):  # noqa: N801 - as transformers writes it
    """Names of parameters are those of transformers' `Qwen2_5OmniAudioEncoder`, without `proj`.

    Args:
        sizes: Sizes of the whole model.
        last: Layers to build, from the first on. Where these are not all, no norm follows.
    """

    chunk = 200
    window = 100

    def __init__(self, sizes: Sizes, last: int) -> None:
        super().__init__(sizes, last, key_bias=False)
        self.conv1 = nn.Conv1d(sizes.num_mels, sizes.dim, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(sizes.dim, sizes.dim, kernel_size=3, stride=2, padding=1)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the convolutions."""
        return self.conv1.weight.dtype

    def convolve(self, chunks: Tensor, lengths: list[int], whole: list[int]) -> Tensor:
        """Convolve each chunk by itself, at half the rate."""
        return convolve(chunks, lengths, self.conv1, self.conv2)

    def num_frames(self, num_mel_frames: int) -> int:
        """Return half the mel frames, rounded up."""
        return -(-num_mel_frames // 2)

    def pool(self, frames: Tensor, lengths: list[int]) -> Tensor:
        """Average every two frames."""
        return average_pairs(frames, lengths)


class Qwen2_5OmniEncoder(OmniEncoder):  # noqa: N801 - as transformers writes it
    """The audio encoder of Qwen2.5-Omni's thinker (Xu et al. 2025, arXiv 2503.20215, section 2.1).

    Whisper large-v3's layers over chunks of 2 s: the convolutions see nothing past a chunk's ends, positions
    begin anew in each, and its frames attend to one another only. Then the mean of every two frames of the
    clip, and the final norm. It equals what transformers' `Qwen2_5OmniAudioEncoder` has before its last
    linear layer, `proj`, which is the adapter (`mlp` with `downsample: 1, num_layers: 1, bias: true`). An odd
    last frame has no part, as there; a clip of a single frame, which has no output there, is that frame here.

    Only the layers up to the highest that `layers` names are built, and loaded.
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(PretrainedConfig):
        """Options of the `qwen2_5_omni` encoder."""

        weights: str = "random"
        """A Qwen2.5-Omni of transformers (`Qwen/Qwen2.5-Omni-7B`), whole, its thinker or that one's encoder
        alone: a Hub id, a folder, `package:...`; or `random`."""
        sizes: Sizes | None = None
        """Sizes with `weights: random` (None: the published ones); refused with any other weights."""

    name = "qwen2_5_omni"
    family = "qwen2_5_omni"
    transformer = Qwen2_5OmniTransformer
    sizes_class = Sizes
    expected: ClassVar = {"n_window": 100, "activation_function": "gelu", "scale_embedding": False}
    adapters = ("proj.*", "audio_bos_eos_token.*")
    stem = "conv1"
    frame_rate = SAMPLE_RATE / HOP / 4
    max_seconds = _LONGEST / SAMPLE_RATE

    def num_frames(self, num_samples: int) -> int:
        """Return half of ceil(ceil(S / 160) / 2), at least 1: the pairs of frames of 20 ms."""
        return num_pairs(-(-num_mel_frames(num_samples) // 2))

    def spectrogram(self, audio: Padded) -> Padded:
        """Compute Whisper's spectrogram of the clip in 300 s of silence, up to the clip's end.

        Raises:
            AudioError: A clip is longer than 300 s.
        """
        samples: list[int] = audio.lengths.tolist()
        for clip, length in enumerate(samples):
            if length > _LONGEST:
                raise AudioError(
                    f"clip {clip} of the batch lasts {length / SAMPLE_RATE:.2f} s ({length} samples), and "
                    f"encoder '{self.name}' takes at most 300 s ({_LONGEST} samples)"
                )
        mel = log_mel(audio, self.sizes.num_mels, _LONGEST, whole_window=False)
        return Padded(mel, torch.tensor([num_mel_frames(length) for length in samples]))

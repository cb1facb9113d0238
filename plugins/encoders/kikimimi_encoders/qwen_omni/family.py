"""What the encoders of the Qwen-Omni thinkers share: their checkpoints, chunks, and layers over windows."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, MultipleOf
from torch import Tensor, nn

from kikimimi import LayerCount, Padded, PositiveInt, WeightsFiles
from kikimimi_encoders import pretrained
from kikimimi_encoders.pretrained import PretrainedConfig, PretrainedEncoder, check_expected, read_config
from kikimimi_encoders.whisper.layers import WhisperEncoderLayer, whisper_positions

_NAMES = {
    "dim": "d_model",
    "num_layers": "encoder_layers",
    "num_heads": "encoder_attention_heads",
    "ffn_dim": "encoder_ffn_dim",
    "num_mels": "num_mel_bins",
}


@dataclass(kw_only=True, frozen=True)
class Sizes(pretrained.Sizes):
    """Sizes of an encoder with random weights; the defaults are those of Qwen2.5-Omni-7B and Qwen3-Omni."""

    dim: Annotated[int, Ge(4), MultipleOf(2)] = 1280
    """Width E of the frames; even."""
    num_layers: LayerCount = 32
    """Transformer layers."""
    num_heads: PositiveInt = 20
    """Attention heads; they divide `dim`."""
    ffn_dim: PositiveInt = 5120
    """Inner width of the feed-forward network."""
    num_mels: PositiveInt = 128
    """Mel bands of the spectrogram."""


class ChunkedTransformer(nn.Module):
    """Convolutions over chunks of a clip, layers over windows of its frames, and the final norm.

    A member builds the convolutions and says how they are applied, and what becomes of a layer's output.

    Args:
        sizes: Sizes of the whole model.
        last: Layers to build, from the first on. Where these are not all, no norm follows.
        key_bias: Whether the attention's keys have a bias.

    Attributes:
        chunk: Mel frames of a chunk; the convolutions do not see past its ends.
        window: Frames that attend to one another.
    """

    chunk: ClassVar[int]
    window: ClassVar[int]

    def __init__(self, sizes: Sizes, last: int, *, key_bias: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            WhisperEncoderLayer(sizes.dim, sizes.num_heads, sizes.ffn_dim, key_bias=key_bias)
            for _ in range(last)
        )
        self.ln_post = nn.LayerNorm(sizes.dim) if last == sizes.num_layers else None

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The dtype of the convolutions, in which spectrograms are taken."""

    @abstractmethod
    def convolve(self, chunks: Tensor, lengths: list[int], whole: list[int]) -> Tensor:
        """Convolve chunks, each as if its clip were alone.

        Args:
            chunks: (C, mels, mel frames), the longest without padding.
            lengths: Mel frames of each chunk.
            whole: Mel frames of the clip that each chunk is of.

        Returns:
            (C, F, E).
        """

    @abstractmethod
    def num_frames(self, num_mel_frames: int) -> int:
        """Return the frames of a chunk that enter the layers."""

    @abstractmethod
    def pool(self, frames: Tensor, lengths: list[int]) -> Tensor:
        """Return what becomes of a layer's output (N, E), clips of these lengths end to end."""

    def forward(self, mel: Padded, layers: Sequence[int]) -> list[Tensor]:
        """Encode (B, mels, mel frames) spectrograms.

        Args:
            mel: Spectrograms with lengths in mel frames.
            layers: Numbers of the layers to return, ascending; 0 is what enters the first one.

        Returns:
            The output (N, E) of each of `layers`, clips end to end.
        """
        clips: list[int] = mel.lengths.tolist()
        pieces = [_pieces(length, self.chunk) for length in clips]
        chunks = _chunks(mel, pieces, self.chunk)
        lengths = [length for clip in pieces for length in clip]
        whole = [length for length, clip in zip(clips, pieces, strict=True) for _ in clip]
        convolved = self.convolve(chunks, lengths, whole)
        own = [self.num_frames(length) for length in lengths]
        convolved = convolved + _positions(*convolved.shape[1:], convolved.device).to(convolved.dtype)
        # (C, F, E) -> (N, E)
        frames = torch.cat([chunk[:length] for chunk, length in zip(convolved, own, strict=True)])
        counts = [sum(self.num_frames(length) for length in clip) for clip in pieces]
        windows = [length for count in counts for length in _pieces(count, self.window)]
        outputs = [frames] if layers[0] == 0 else []
        for number, layer in enumerate(self.layers, start=1):
            frames = layer(frames, windows)
            if number in layers:
                outputs.append(frames)
        outputs = [self.pool(output, counts) for output in outputs]
        if self.ln_post is not None:
            outputs[-1] = self.ln_post(outputs[-1])
        return outputs


def _pieces(length: int, size: int) -> list[int]:
    """Return the lengths of the pieces of `size`, and of the rest, that a length is cut into."""
    rest = length % size
    return [size] * (length // size) + ([rest] if rest else [])


def _chunks(mel: Padded, pieces: list[list[int]], size: int) -> Tensor:
    """Cut (B, mels, mel frames) into chunks (C, mels, up to `size`), clip by clip; the last is padded."""
    longest = max(length for clip in pieces for length in clip)
    width = mel.values.shape[-1]
    values = nn.functional.pad(mel.values, (0, -width % size))
    # (B, mels, mel frames) -> (B, chunks, mels, size)
    cut = torch.unflatten(values, -1, (-1, size)).transpose(1, 2)
    return torch.cat([clip[: len(lengths)] for clip, lengths in zip(cut, pieces, strict=True)])[..., :longest]


# Not a buffer: that would follow the module to bfloat16, or to the meta device and be lost there.
@lru_cache(maxsize=8)
def _positions(length: int, dim: int, device: torch.device) -> Tensor:
    """Return (length, dim) positions within a chunk; no checkpoint holds them."""
    with torch.inference_mode(False):
        return whisper_positions(length, dim).to(device)


class OmniEncoder(PretrainedEncoder):
    """Base of the encoders of the Qwen-Omni thinkers.

    Attributes:
        family: Model type of the whole in transformers.
        transformer: The model's class.
        names: The config's name of each size.
        expected: Settings of the config that cannot be otherwise.
        adapters: Tensors of the tower that belong to the adapter, or that nothing reads.
    """

    fills_pieces = True
    family: ClassVar[str]
    transformer: ClassVar[Any]
    names: ClassVar[Mapping[str, str]] = _NAMES
    expected: ClassVar[Mapping[str, Any]]
    adapters: ClassVar[tuple[str, ...]]
    config: PretrainedConfig
    model: ChunkedTransformer

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        last = self.choose_layers(num_layers=self.sizes.num_layers, dim=self.sizes.dim)
        self.model = self.transformer(self.sizes, last)

    def read(self, files: WeightsFiles) -> Any:
        """Read the sizes from `config.json` of the whole, of the thinker, or of the encoder.

        Raises:
            WeightsError: It is another model, or they are missing or impossible.
        """
        config = read_config(files, self.name, f"{self.family}_audio_encoder")
        check_expected(config, self.expected, f"{files.source}: config.json", self.name)
        return self.sizes_class.read(config, self.names, files.source)

    def unread(self) -> list[str]:
        """Return patterns of the tensors that are not built: unread layers, and what is the adapter's."""
        norm = [] if self.model.ln_post is not None else ["ln_post.*"]
        return [*super().unread(), *norm, *self.adapters]

    @abstractmethod
    def spectrogram(self, audio: Padded) -> Padded:
        """Compute (B, mels, mel frames) of waveforms, with lengths in mel frames."""

    def forward(self, audio: Padded) -> Padded:
        """Encode (B, S) waveforms at 16 kHz to (B, F, E)."""
        mel = self.spectrogram(audio)
        outputs = self.model(Padded(mel.values.to(self.model.dtype), mel.lengths), self.taps.layers)
        clips = self.taps(outputs).split([self.num_frames(length) for length in audio.lengths.tolist()])
        encoded = Padded.stack(clips)
        return Padded(encoded.values, encoded.lengths.to(audio.lengths.device))

"""What the encoders `whisper` and `qwen2_audio` have in common: Whisper's spectrograms, sizes and layers."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, Self

from annotated_types import Ge, MultipleOf

from kikimimi import Padded, PositiveInt, WeightsError
from kikimimi_encoders import pretrained
from kikimimi_encoders.pretrained import SAMPLE_RATE, TINY_LAYERS, PretrainedConfig, PretrainedEncoder
from kikimimi_encoders.spec_augment import SpecAugment, SpectrogramMasking
from kikimimi_encoders.whisper.layers import WhisperTransformer, num_pairs
from kikimimi_encoders.whisper.log_mel import HOP, check_window, log_mel, num_mel_frames


@dataclass(kw_only=True, frozen=True)
class Sizes(pretrained.Sizes):
    """Sizes of a Whisper encoder with random weights; the defaults are those of Whisper base."""

    dim: Annotated[int, Ge(4), MultipleOf(2)] = 512
    """Width E of the frames; even."""
    num_layers: PositiveInt = 6
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
        """Read sizes under their names in transformers' `WhisperConfig`.

        Raises:
            WeightsError: They are missing or impossible, or the model is not a plain Whisper.
        """
        if config.get("activation_function", "gelu") != "gelu" or config.get("scale_embedding", False):
            raise WeightsError(f"{source}: is not a plain Whisper (gelu, embeddings not scaled)")
        return cls.read(config, _NAMES, source)


_NAMES = {
    "dim": "d_model",
    "num_layers": "encoder_layers",
    "num_heads": "encoder_attention_heads",
    "ffn_dim": "encoder_ffn_dim",
    "num_mels": "num_mel_bins",
    "num_positions": "max_source_positions",
}


@dataclass(kw_only=True, frozen=True)
class WhisperConfig(PretrainedConfig):
    """Options that the encoders of the family share."""

    weights: str = "random"
    """A Whisper: a Hub id, a folder, `package:...`; or `random`."""
    pad: Literal["none", "window"] = "none"
    """What the encoder sees: the clip alone, or the clip padded with silence to the window (30 s)."""
    sizes: Sizes | None = None
    """Sizes with `weights: random` (None: those of Whisper base); refused with any other weights."""
    layers: list[int] | None = None
    """Layers whose outputs are the frames (None: the last), as transformers' `hidden_states` counts them:
    0 is what enters the first layer, i what leaves the i-th, the last one's after the final norm."""
    spec_augment: SpecAugment | None = None
    """Masks over the spectrogram while training; None means none."""


class WhisperFamilyEncoder(PretrainedEncoder):
    """Base of the encoders with Whisper's layers.

    Only the layers up to the highest that `layers` names are built, and loaded.

    Attributes:
        pairs: Whether every two frames are averaged after the layers. Attention then stays within the clip's
            own frames, whatever the convolutions see after them.
    """

    Config = WhisperConfig
    fills_pieces = True
    pairs: ClassVar[bool]
    sizes_class = Sizes
    tiny_sizes: ClassVar = {
        "dim": 32,
        "num_layers": TINY_LAYERS,
        "num_heads": 2,
        "ffn_dim": 64,
        "num_positions": 1500,
    }
    stem = "conv1"
    config: WhisperConfig
    sizes: Sizes
    model: WhisperTransformer

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__(config)
        self.max_seconds = self.sizes.num_positions * 2 * HOP / SAMPLE_RATE
        if config.pad == "window" and not self.pairs:
            self.padded_seconds = self.max_seconds
        if config.spec_augment is not None:
            self.augmentation = SpectrogramMasking(config.spec_augment, self.sizes.num_mels)
        last = self.tap(num_layers=self.sizes.num_layers, dim=self.sizes.dim)
        self.model = WhisperTransformer(
            dim=self.sizes.dim,
            num_layers=last,
            num_heads=self.sizes.num_heads,
            ffn_dim=self.sizes.ffn_dim,
            num_mels=self.sizes.num_mels,
            num_positions=self.sizes.num_positions,
            final_norm=last == self.num_layers,
            pairs=self.pairs,
        )

    @classmethod
    def tiny_config(cls, config: Any | None = None) -> Any:
        """Return a config of 2 layers x 32 with random weights, and else the options of `config`."""
        tiny = super().tiny_config(config)
        if tiny.spec_augment is None:
            return tiny
        # The bands of the weights may be more than those of the defaults, and the masks be made for them.
        num_mels = max(tiny.sizes.num_mels, tiny.spec_augment.freq_width)
        return replace(tiny, sizes=replace(tiny.sizes, num_mels=num_mels))

    def unread(self) -> list[str]:
        """Return patterns of the tensors of a whole encoder that are not built."""
        norm = [] if self.model.layer_norm is not None else ["layer_norm.*"]
        return [*super().unread(), *norm]

    def num_frames(self, num_samples: int) -> int:
        """Return the frames of 20 ms that the clip touches, ceil(ceil(S / 160) / 2), or their pairs."""
        frames = -(-num_mel_frames(num_samples) // 2)
        return num_pairs(frames) if self.pairs else frames

    def forward(self, audio: Padded) -> Padded:
        """Encode (B, S) waveforms at 16 kHz to (B, F, E).

        Raises:
            AudioError: A clip is longer than the window.
        """
        samples: list[int] = audio.lengths.tolist()
        window = self.sizes.num_positions * 2 * HOP
        check_window(samples, window, self.name)
        padded = self.config.pad == "window"
        mel = log_mel(audio, self.sizes.num_mels, window, whole_window=padded)
        mel_lengths = [num_mel_frames(length) for length in samples]
        if self.augmentation is not None:
            mel = self.augmentation(mel, mel_lengths)
        own = [-(-length // 2) for length in mel_lengths]
        if padded:
            mel_lengths = [mel.shape[-1]] * len(samples)
        seen = own if self.pairs else [-(-length // 2) for length in mel_lengths]
        mel = mel.to(self.model.conv1.weight.dtype)
        frames = self.taps(self.model(mel, mel_lengths, seen, self.taps.layers))  # (N, E)
        made = [num_pairs(length) for length in seen] if self.pairs else seen
        clips = [
            clip[: self.num_frames(length)] for clip, length in zip(frames.split(made), samples, strict=True)
        ]
        encoded = Padded.stack(clips)
        return Padded(encoded.values, encoded.lengths.to(audio.lengths.device))

"""Qwen2-Audio's encoder: Whisper's layers, averaged in pairs to 25 frames a second."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, MultipleOf

from kikimimi import PositiveInt, WeightsFiles
from kikimimi_encoders.pretrained import SAMPLE_RATE, read_config
from kikimimi_encoders.whisper.family import Sizes, WhisperConfig, WhisperFamilyEncoder
from kikimimi_encoders.whisper.log_mel import HOP


@dataclass(kw_only=True, frozen=True)
class Qwen2AudioSizes(Sizes):
    """Sizes of a Qwen2-Audio encoder with random weights; the defaults are those of Qwen2-Audio-7B."""

    dim: Annotated[int, Ge(4), MultipleOf(2)] = 1280
    """Width E of the frames; even."""
    num_layers: PositiveInt = 32
    """Transformer layers."""
    num_heads: PositiveInt = 20
    """Attention heads; they divide `dim`."""
    ffn_dim: PositiveInt = 5120
    """Inner width of the feed-forward network."""
    num_mels: PositiveInt = 128
    """Mel bands of the spectrogram."""
    num_positions: PositiveInt = 1500
    """Longest clip [frames of 20 ms]."""


class Qwen2AudioEncoder(WhisperFamilyEncoder):
    """The encoder of Qwen2-Audio (Chu et al. 2024, arXiv 2407.10759), without transformers' 30 s padding.

    Whisper large-v3's layers, then the mean of every two frames, then the final norm (`Qwen2AudioEncoder` in
    transformers). An odd last frame has no part, as there; a clip of a single frame, which has no output
    there, is that frame here. Attention stays within the clip's own frames, as under the reference's mask.
    `pad` says what the convolutions see after the clip: nothing, or the spectrogram of silence up to the
    window, with which the frames equal the reference's.

    Only the layers up to the highest that `layers` names are built, and loaded.
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(WhisperConfig):
        """Options of the `qwen2_audio` encoder."""

        weights: str = "Qwen/Qwen2-Audio-7B"
        """A Qwen2-Audio of transformers, whole or its encoder alone, or a Whisper, from which Qwen2-Audio's
        training began and whose tensors are the same: a Hub id, a folder, `package:...`; or
        `random`."""
        pad: Literal["none", "window"] = "none"
        """What the convolutions see: the clip alone, or the clip padded with silence to the window (30 s)."""
        sizes: Qwen2AudioSizes | None = None
        """Sizes with `weights: random` (None: those of Qwen2-Audio-7B); refused with any other weights."""
        layers: list[int] | None = None
        """Layers whose outputs, averaged in pairs, are the frames (None: the last): 0 is what enters the
        first layer, i what leaves the i-th; the last one's go through the final norm."""

    name = "qwen2_audio"
    sizes_class = Qwen2AudioSizes
    pairs = True
    frame_rate = SAMPLE_RATE / HOP / 4

    # Inside a whole model as published, or as transformers names it in memory; in a Whisper; or alone.
    prefixes = ("audio_tower.", "model.audio_tower.", "model.encoder.", "encoder.", "")

    def read(self, files: WeightsFiles) -> Qwen2AudioSizes:
        """Read the sizes from `config.json`.

        Raises:
            WeightsError: It is another model, or they are missing or impossible.
        """
        config = read_config(files, self.name, "qwen2_audio", "qwen2_audio_encoder", "whisper")
        if config["model_type"] == "qwen2_audio":
            config = config.get("audio_config") or {}
        return Qwen2AudioSizes.of_whisper(config, files.source)

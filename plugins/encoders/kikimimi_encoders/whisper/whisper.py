"""Whisper's encoder, on the clip's own frames or on the padded window of the reference, and Qwen2-Audio's."""

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, MultipleOf
from torch import Tensor
from torch.nn import functional as F

from kikimimi import (
    CONFIG_PATTERNS,
    FETCHED_PATTERNS,
    AudioError,
    LayerCount,
    Layers,
    Padded,
    PositiveInt,
    WeightsFiles,
)
from kikimimi_encoders.log_mel import HOP, log_mel, num_mel_frames
from kikimimi_encoders.pretrained import SAMPLE_RATE, PretrainedConfig, PretrainedEncoder, read_config
from kikimimi_encoders.spec_augment import SpecAugment, SpectrogramMasking
from kikimimi_encoders.whisper.ctranslate2 import (
    MODEL,
    encoder_sizes,
    encoder_state,
    is_ctranslate2,
    open_whisper,
)
from kikimimi_encoders.whisper.layers import Sizes as Sizes, WhisperTransformer, num_pairs


@dataclass(kw_only=True, frozen=True)
class WhisperConfig(PretrainedConfig):
    """Options that the encoders of the family share."""

    pad: Literal["none", "window"] = "none"
    """What the encoder sees: the clip alone, or the clip padded with silence to the window (30 s)."""
    windows: PositiveInt = 1
    """Most windows (30 s) that a clip may be cut into; a longer one is refused. Each is encoded by itself,
    the last is what is left, and their frames follow each other. A group of frames that an adapter joins may
    lie in two windows, unless its size divides the 1,500 frames of one (750 of `qwen2_audio`), or adapter
    `mlp` is told its `window_frames`."""
    sizes: Sizes | None = None
    """Sizes with `weights: random` (None: those of Whisper base); refused with any other weights."""
    layers: Layers | None = None
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
        cuts: What is cut into windows: the waveform, so that each has a spectrogram of its own, or the
            spectrogram of the whole clip.
    """

    Config = WhisperConfig
    fills_pieces = True
    pairs: ClassVar[bool]
    cuts: ClassVar[Literal["waveform", "spectrogram"]]
    sizes_class = Sizes
    tiny_sizes: ClassVar = {**PretrainedEncoder.tiny_sizes, "num_positions": 300}
    stem = "conv1"
    config: WhisperConfig
    sizes: Sizes
    model: WhisperTransformer

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__(config)
        window_seconds = self.window_samples / SAMPLE_RATE
        self.max_seconds = config.windows * window_seconds
        if config.pad == "window" and not self.pairs:
            self.padded_seconds = window_seconds
        if config.spec_augment is not None:
            self.augmentation = SpectrogramMasking(config.spec_augment, self.sizes.num_mels)
        last = self.choose_layers(num_layers=self.sizes.num_layers, dim=self.sizes.dim)
        if not self.norms_last and last < self.num_layers:
            raise ValueError(f"final_norm is read only where layer {self.num_layers}, the last, is read")
        self.model = WhisperTransformer(self.sizes, last, pairs=self.pairs, norm=self.norms_last)

    @property
    def norms_last(self) -> bool:
        """Whether the final norm follows the last layer."""
        return True

    @classmethod
    def tiny_config(cls, config: Any | None = None) -> Any:
        """Return a config of 2 layers x 32 with random weights, and else the options of `config`."""
        tiny = super().tiny_config(config)
        if tiny.spec_augment is None:
            return tiny
        # The bands of the weights may be more than those of the defaults, and the masks be made for them.
        num_mels = max(tiny.sizes.num_mels, tiny.spec_augment.freq_width)
        return replace(tiny, sizes=replace(tiny.sizes, num_mels=num_mels))

    @property
    def window_samples(self) -> int:
        """Length of the window [samples]."""
        return self.sizes.num_positions * 2 * HOP

    def num_windows(self, num_samples: int) -> int:
        """Return how many windows the clip is cut into."""
        return max(1, -(-num_samples // self.window_samples))

    def num_frames(self, num_samples: int) -> int:
        """Return the frames of 20 ms that the clip touches, ceil(ceil(S / 160) / 2), or their pairs."""
        before = self.num_windows(num_samples) - 1
        frames = -(-num_mel_frames(num_samples - before * self.window_samples) // 2)
        if not self.pairs:
            return before * self.sizes.num_positions + frames
        # A last window of a single frame adds nothing, as in transformers' Audio Flamingo 3.
        return max(1, before * num_pairs(self.sizes.num_positions) + frames // 2)

    def forward(self, audio: Padded) -> Padded:
        """Encode (B, S) waveforms at 16 kHz to (B, F, E).

        Raises:
            AudioError: A clip is longer than all windows.
        """
        samples: list[int] = audio.lengths.tolist()
        longest = self.config.windows * self.window_samples
        for clip, length in enumerate(samples):
            if length > longest:
                raise AudioError(
                    f"clip {clip} of the batch lasts {length / SAMPLE_RATE:.2f} s ({length} samples), and "
                    f"encoder '{self.name}' takes at most {longest / SAMPLE_RATE:.2f} s ({longest} samples); "
                    f"its option windows says how many windows of {self.window_samples / SAMPLE_RATE:g} s "
                    "a clip may be cut into"
                )
        padded = self.config.pad == "window"
        mel, mel_lengths = self._windows(audio, samples)
        if self.augmentation is not None:
            mel = self.augmentation(mel, mel_lengths)
        own = [-(-length // 2) for length in mel_lengths]
        if padded:
            mel_lengths = [mel.shape[-1]] * len(mel_lengths)
        seen = own if self.pairs else [-(-length // 2) for length in mel_lengths]
        mel = mel.to(self.model.conv1.weight.dtype)
        frames = self.taps(self.model(mel, mel_lengths, seen, self.taps.layers))  # (N, E)
        made = [num_pairs(length) for length in seen] if self.pairs else seen
        windows = iter(frames.split(made))
        clips = [
            torch.cat([next(windows) for _ in range(self.num_windows(length))])[: self.num_frames(length)]
            for length in samples
        ]
        encoded = Padded.stack(clips)
        return Padded(encoded.values, encoded.lengths.to(audio.lengths.device))

    def _windows(self, audio: Padded, samples: list[int]) -> tuple[Tensor, list[int]]:
        """Return the spectrograms (windows, mels, mel frames) of all clips, and the mel frames of each."""
        window, num_mels, whole = self.window_samples, self.sizes.num_mels, self.config.pad == "window"
        numbers = [self.num_windows(length) for length in samples]
        lengths = [
            num_mel_frames(min(length - start, window))
            for length in samples
            for start in range(0, max(1, length), window)
        ]
        if max(numbers) == 1:
            return log_mel(audio, num_mels, window, whole_window=whole), lengths
        if self.cuts == "waveform":
            clips = zip(audio.values, samples, strict=True)
            cut = [piece for wave, length in clips for piece in wave[:length].split(window)]
            return log_mel(Padded.stack(cut), num_mels, window, whole_window=whole), lengths
        pieces: list[tuple[Tensor, ...]] = [()] * len(samples)
        # Clips of as many windows together: each ends as in a recording of its own windows.
        for number in set(numbers):
            rows = [row for row, other in enumerate(numbers) if other == number]
            some = Padded(audio.values[rows], audio.lengths[rows])
            mel = log_mel(some, num_mels, number * window, whole_window=whole)
            for row, clip in zip(rows, mel, strict=True):
                pieces[row] = clip.split(window // HOP, dim=-1)
        longest = max(piece.shape[-1] for clip in pieces for piece in clip)
        return torch.stack([F.pad(p, (0, longest - p.shape[-1])) for clip in pieces for p in clip]), lengths


class WhisperEncoder(WhisperFamilyEncoder):
    """The encoder of Whisper (Radford et al. 2022, arXiv 2212.04356), without transformers' 30 s padding.

    With `pad: none` it sees the clip's own frames only: positions are cut to its length, clips of a batch are
    laid end to end, and attention stays within each. With `pad: window` it sees what the reference sees, the
    clip in 30 s of silence, and equals transformers' `WhisperEncoder`. Either way the frames of the clip are
    returned, not those of the silence after it, unless `keep_silence` asks for them.

    Of a clip that is longer than the window the spectrogram is cut (Voxtral, Ultravox).

    Only the layers up to the highest that `layers` names are built, and loaded.
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(WhisperConfig):
        """Options of the `whisper` encoder."""

        weights: str = "openai/whisper-base"
        """A Whisper of transformers or of CTranslate2 (faster-whisper): a Hub id, a folder, `package:...`; or
        `random`."""
        keep_silence: bool = False
        """Whether the frames of the silence up to the window follow a clip's own, so that every clip has as
        many (Voxtral, LLaMA-Omni, DeSTA2 and SALMONN do so). Refused without `pad: window`."""
        final_norm: bool = True
        """Whether the last layer's frames pass Whisper's final norm (LTU-AS and DeSTA2, which read it beside
        others, take it before). Refused where the last layer is not read."""

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.keep_silence and self.pad != "window":
                raise ValueError("keep_silence is read only with pad: window, which lays the silence there")

    config: Config  # pyright: ignore[reportIncompatibleVariableOverride]
    name = "whisper"
    pairs = False
    cuts = "spectrogram"
    # A CTranslate2 file states its sizes itself.
    config_patterns = (*CONFIG_PATTERNS, MODEL)
    weight_patterns = (*FETCHED_PATTERNS, MODEL)
    # WhisperForConditionalGeneration, or WhisperModel.
    prefixes = ("model.encoder.", "encoder.")
    frame_rate = SAMPLE_RATE / HOP / 2

    @property
    def norms_last(self) -> bool:
        """Whether the final norm follows the last layer."""
        return self.config.final_norm

    def num_frames(self, num_samples: int) -> int:
        """Return the frames of the clip, or with `keep_silence` those of its windows."""
        if self.config.keep_silence:
            return self.num_windows(num_samples) * self.sizes.num_positions
        return super().num_frames(num_samples)

    def read(self, files: WeightsFiles) -> Sizes:
        """Read the sizes from `config.json`, or from a CTranslate2 file.

        Raises:
            WeightsError: It is another model, or they are missing or impossible.
        """
        if is_ctranslate2(files):
            return Sizes.of_whisper(encoder_sizes(open_whisper(files)), files.source)
        config = read_config(files, self.name, "whisper", "voxtral_encoder")
        return Sizes.of_whisper(config, files.source)

    def state(self, files: WeightsFiles) -> dict[str, Tensor]:
        """Read the encoder's tensors from safetensors or from a CTranslate2 file."""
        return encoder_state(open_whisper(files)) if is_ctranslate2(files) else super().state(files)


@dataclass(kw_only=True, frozen=True)
class Qwen2AudioSizes(Sizes):
    """Sizes of a Qwen2-Audio encoder with random weights; the defaults are those of Qwen2-Audio-7B."""

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
    num_positions: PositiveInt = 1500
    """Longest clip [frames of 20 ms]."""


class Qwen2AudioEncoder(WhisperFamilyEncoder):
    """The encoder of Qwen2-Audio (Chu et al. 2024, arXiv 2407.10759), without transformers' 30 s padding.

    Whisper large-v3's layers, then the mean of every two frames, then the final norm (`Qwen2AudioEncoder` in
    transformers). An odd last frame has no part, as there; a clip of a single frame, which has no output
    there, is that frame here. Attention stays within the clip's own frames, as under the reference's mask.
    `pad` says what the convolutions see after the clip: nothing, or the spectrogram of silence up to the
    window, with which the frames equal the reference's. A clip that is longer than the window is cut before
    its spectrogram is computed: the encoder of Audio Flamingo 3 (arXiv 2507.08128) with `windows: 20`.

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
        layers: Layers | None = None
        """Layers whose outputs, averaged in pairs, are the frames (None: the last): 0 is what enters the
        first layer, i what leaves the i-th; the last one's go through the final norm."""

    name = "qwen2_audio"
    sizes_class = Qwen2AudioSizes
    pairs = True
    cuts = "waveform"
    frame_rate = SAMPLE_RATE / HOP / 4

    # In a Whisper, or alone.
    prefixes = ("model.encoder.", "encoder.", "")

    def read(self, files: WeightsFiles) -> Qwen2AudioSizes:
        """Read the sizes from `config.json`.

        Raises:
            WeightsError: It is another model, or they are missing or impossible.
        """
        config = read_config(files, self.name, "qwen2_audio_encoder", "audioflamingo3_encoder", "whisper")
        return Qwen2AudioSizes.of_whisper(config, files.source)

"""BEATs, an encoder of sounds, from a converted checkpoint or from scratch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torchaudio.compliance.kaldi
from torch import Tensor, nn

from kikimimi import Padded, WeightsError, WeightsFiles, full_precision
from kikimimi_encoders.beats.model import MEL_BANDS, PATCH, BEATsModel, Sizes
from kikimimi_encoders.log_mel import HOP, WINDOW
from kikimimi_encoders.pretrained import (
    SAMPLE_RATE,
    PretrainedConfig,
    PretrainedEncoder,
    check_expected,
    read_config,
)

_MEAN, _STD = 15.41663, 6.55582
"""Mean and standard deviation of log-mel values over AudioSet; the reference divides by twice the latter."""


class BEATsEncoder(PretrainedEncoder):
    """BEATs (Chen et al. 2022, arXiv 2212.09058), the ear for sounds beside Whisper in SALMONN.

    A row of 8 patches, low frequencies first, covers 160 ms; the patches of all rows, laid end to end, are
    the frames, so that there are 50 in a second. Written after `BEATs.py` and `backbone.py` of
    microsoft/unilm (beats/), without dropout.

    The published checkpoints (`BEATs_iter3_plus_AS2M.pt` and the others; microsoft/unilm, beats/README.md)
    are pickles, which are never loaded here. Convert one where you trust it, names unchanged:

        checkpoint = torch.load("BEATs_iter3_plus_AS2M.pt", weights_only=True)
        state = {name: value.clone().contiguous() for name, value in checkpoint["model"].items()}
        safetensors.torch.save_file(state, "beats/model.safetensors")
        json.dump({**checkpoint["cfg"], "model_type": "beats"}, open("beats/config.json", "w"))

    and set `weights: beats`. The classifier of fine-tuned checkpoints (`predictor.*`) is not read.
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(PretrainedConfig):
        """Options of the `beats` encoder."""

        weights: str = "random"
        """A folder or Hub repository with a converted checkpoint (see the class), or `random`."""
        remainder: Literal["pad", "drop"] = "pad"
        """What becomes of audio that does not fill the last row of patches (160 ms): silence fills it up, or
        it is left out as in the reference. A clip shorter than one row is filled up either way."""
        sizes: Sizes | None = None
        """Sizes with `weights: random` (None: the published ones); refused with any other weights."""

    config: Config
    sizes: Sizes
    model: BEATsModel
    name = "beats"
    sizes_class = Sizes
    frame_rate = SAMPLE_RATE / HOP * MEL_BANDS / PATCH**2
    tiny_sizes: ClassVar = {
        **PretrainedEncoder.tiny_sizes,
        "patch_dim": 16,
        "conv_pos": 16,
        "conv_pos_groups": 4,
        "num_buckets": 32,
        "max_distance": 80,
    }
    stack = "encoder.layers"
    stem = "encoder.pos_conv.0"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        last = self.choose_layers(num_layers=self.sizes.num_layers, dim=self.sizes.dim)
        self.model = BEATsModel(self.sizes, last)

    def read(self, files: WeightsFiles) -> Sizes:
        """Read the sizes from `config.json`.

        Raises:
            WeightsError: It is another model, or they are missing or impossible.
        """
        config = read_config(files, self.name, self.name)
        sizes = Sizes.read(config, _NAMES, files.source)
        for name in _FIXED:
            if name not in config:
                raise WeightsError(f"{files.source}: config.json lacks {name!r}")
        check_expected(config, _FIXED, f"{files.source}: config.json", self.name)
        return sizes

    def fill(self, state: Mapping[str, Tensor], source: str) -> None:
        """Fill the model.

        Raises:
            WeightsError: The tensors do not fit, or layers differ in the table of the position bias.
        """
        # Checkpoints hold the one table under every layer's name.
        first = state.get(f"{self.stack}.0.{_BIAS}")
        for name, value in state.items():
            if name.endswith(_BIAS) and first is not None and not torch.equal(value, first):
                raise WeightsError(
                    f"{source}: {name} differs from the first layer's; "
                    "encoder 'beats' takes one for all layers"
                )
        super().fill(state, source)

    def unread(self) -> list[str]:
        """Return patterns of the tensors that are not built: layers, all tables but one, the head."""
        tables = [f"{self.stack}.{layer}.{_BIAS}" for layer in range(1, self.taps.layers[-1])]
        return ["predictor.*", *tables, *super().unread()]

    def num_frames(self, num_samples: int) -> int:
        """Return 8 for each row of patches: 16 mel frames of 25 ms, every 10 ms, that lie within the clip."""
        return self._num_rows(num_samples) * (MEL_BANDS // PATCH)

    def forward(self, audio: Padded) -> Padded:
        """Encode (B, S) waveforms at 16 kHz to (B, F, E)."""
        mel = Padded.stack([self._mel(wave.float()) for wave in audio.unstack()])
        outputs = self.model(Padded(mel.values.to(self.model.patch_embedding.weight.dtype), mel.lengths))
        lengths = [self.num_frames(length) for length in audio.lengths.tolist()]
        return Padded(
            self.taps([outputs[layer] for layer in self.taps.layers]),
            torch.tensor(lengths, dtype=torch.int64, device=audio.lengths.device),
        )

    def _num_rows(self, num_samples: int) -> int:
        frames = max(0, num_samples - WINDOW) // HOP + (num_samples >= WINDOW)
        rows = frames // PATCH if self.config.remainder == "drop" else -(-frames // PATCH)
        return max(1, rows)

    def _mel(self, wave: Tensor) -> Tensor:
        """Return the (mel frames, mels) of one clip, whole rows of patches, in float32."""
        num_frames = self._num_rows(len(wave)) * PATCH
        missing = WINDOW + (num_frames - 1) * HOP - len(wave)
        wave = nn.functional.pad(wave, (0, max(0, missing)))
        # Autocast would run the mel product in half precision.
        with torch.no_grad(), full_precision(wave.device):
            mel: Tensor = torchaudio.compliance.kaldi.fbank(
                wave[None] * 2**15,
                num_mel_bins=MEL_BANDS,
                sample_frequency=SAMPLE_RATE,
                frame_length=25,
                frame_shift=10,
            )
            return (mel[:num_frames] - _MEAN) / (2 * _STD)


_BIAS = "self_attn.relative_attention_bias.weight"
_NAMES = {
    "dim": "encoder_embed_dim",
    "num_layers": "encoder_layers",
    "num_heads": "encoder_attention_heads",
    "ffn_dim": "encoder_ffn_embed_dim",
    "patch_dim": "embed_dim",
    "conv_pos": "conv_pos",
    "conv_pos_groups": "conv_pos_groups",
    "num_buckets": "num_buckets",
    "max_distance": "max_distance",
}
_FIXED: dict[str, Any] = {
    "input_patch_size": PATCH,
    "conv_bias": False,
    "activation_fn": "gelu",
    "layer_norm_first": False,
    "deep_norm": True,
    "relative_position_embedding": True,
    "gru_rel_pos": True,
}
"""What is so in every published checkpoint, and cannot be otherwise here."""

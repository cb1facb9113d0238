"""What the encoders `wav2vec2`, `hubert` and `wavlm` have in common: everything but their layers."""

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from kikimimi import Padded, PositiveInt, WeightsError, WeightsFiles
from kikimimi_encoders import pretrained
from kikimimi_encoders.pretrained import SAMPLE_RATE, build_config, read_config
from kikimimi_encoders.ssl.masking import MaskedEncoder, MaskingConfig
from kikimimi_encoders.ssl.model import Family, SpeechTransformer


@dataclass(kw_only=True, frozen=True)
class Sizes(pretrained.Sizes):
    """Sizes of an encoder with random weights; the defaults are those of the base models."""

    conv_dim: PositiveInt = 512
    """Channels of each of the seven convolutions."""
    conv_norm: Literal["group", "layer"] = "group"
    """Norm in the convolutions: of each channel over time after the first (base), or after each (large)."""
    pre_norm: bool = False
    """Whether layers norm what enters them (large) rather than what leaves them (base)."""
    position_groups: PositiveInt = 16
    """Groups of the positional convolution; they divide `dim`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_divisors("position_groups")


@dataclass(kw_only=True, frozen=True)
class SSLConfig(MaskingConfig):
    """Options that the encoders of the family share."""

    freeze_feature_extractor: bool = True
    """Keep the convolutions over the waveform constant: no stage trains them."""
    normalise: bool | None = None
    """Scale each clip to zero mean and unit variance (None: as `preprocessor_config.json` says)."""
    sizes: Sizes | None = None
    """Sizes with `weights: random` (None: those of the base models); refused with any other weights."""


class SSLEncoder(MaskedEncoder):
    """Base of the encoders that learned speech from unlabelled waveforms.

    Clips pass the convolutions one by one, as those of the base models take their statistics over the whole
    clip; a clip shorter than the 400 samples (25 ms) that one frame sees is padded with silence to them.
    Layer i is transformers' `hidden_states[i]`, and the last one is `last_hidden_state`, after the final norm
    where there is one. In training, dropout is that of the checkpoint's config; LayerDrop is off.
    """

    Config = SSLConfig
    family: ClassVar[Family]
    sizes_class = Sizes
    tiny_sizes: ClassVar = {**MaskedEncoder.tiny_sizes, "conv_dim": 16, "position_groups": 4}
    config: SSLConfig
    model: SpeechTransformer
    normalise: bool | None = None

    def __init__(self, config: SSLConfig) -> None:
        super().__init__(config)
        hf_config = self.sizes
        wanted = (config.normalise, self.normalise, self.family.normalises(hf_config))
        self.normalise = next(choice for choice in wanted if choice is not None)
        self.convolutions = list(zip(hf_config.conv_kernel, hf_config.conv_stride, strict=True))
        self.frame_rate = SAMPLE_RATE / math.prod(hf_config.conv_stride)
        self.min_samples = _receptive_field(self.convolutions)
        last = self.tap(num_layers=hf_config.num_hidden_layers, dim=hf_config.hidden_size)
        self.model = SpeechTransformer(self.family, hf_config, last)
        if config.freeze_feature_extractor:
            self.model.feature_extractor.requires_grad_(False)
        self.mask(hf_config.hidden_size)

    def state(self, files: WeightsFiles) -> dict[str, Tensor]:
        """Read the tensors of a checkpoint, old or new, under their names in `model`."""
        # HubertForCTC, Wav2Vec2ForPreTraining, ...; or HubertModel.
        state = files.state_dict(f"{self.family.model_type}.") or files.state_dict()
        return self.model.renamed(state)

    def unread(self) -> list[str]:
        """Return patterns of the tensors of a whole encoder that are not built."""
        norm = [] if self.model.layer_norm is not None else ["layer_norm.*"]
        return [*super().unread(), *norm]

    def num_frames(self, num_samples: int) -> int:
        """Return the frames of about 20 ms whose 25 ms lie within the clip, at least 1."""
        length = max(num_samples, self.min_samples)
        for kernel, stride in self.convolutions:
            length = (length - kernel) // stride + 1
        return length

    def forward(self, audio: Padded) -> Padded:
        """Encode (B, S) waveforms at 16 kHz to (B, F, E)."""
        with torch.no_grad() if self.config.freeze_feature_extractor else nullcontext():
            features = Padded.stack([self.model.convolve(self._prepare(clip)) for clip in audio.unstack()])
        outputs = self.model(features, self.taps.layers, self.augmentation)
        return Padded(self.taps(outputs), features.lengths.to(audio.lengths.device))

    def _prepare(self, clip: Tensor) -> Tensor:
        """Scale and lengthen one clip (S,), in float32."""
        clip = clip.float()
        if self.normalise and len(clip):
            variance, mean = torch.var_mean(clip, correction=0)
            clip = (clip - mean) / (variance + 1e-7).sqrt()
        return nn.functional.pad(clip, (0, max(0, self.min_samples - len(clip))))

    def new_sizes(self, sizes: Sizes) -> Any:
        """Return transformers' config."""
        return self.family.config_class(
            hidden_size=sizes.dim,
            num_hidden_layers=sizes.num_layers,
            num_attention_heads=sizes.num_heads,
            intermediate_size=sizes.ffn_dim,
            conv_dim=[sizes.conv_dim] * 7,
            feat_extract_norm=sizes.conv_norm,
            conv_bias=self.family.conv_bias and sizes.conv_norm == "layer",
            do_stable_layer_norm=sizes.pre_norm,
            num_conv_pos_embedding_groups=sizes.position_groups,
        )

    def read(self, files: WeightsFiles) -> Any:
        """Read transformers' config, and what the checkpoint's front end does.

        Raises:
            WeightsError: It is another model, or has parts that are not built here.
        """
        # The encoders have the names of their models' types.
        config = read_config(files, self.family.model_type, self.family.model_type)
        for option in ("add_adapter", "conv_pos_batch_norm"):
            if config.get(option, False):
                raise WeightsError(f"{files.source}: config.json sets {option}, which is not built here")
        self.normalise = _read_normalise(files)
        return build_config(self.family.config_class, config, files.source)


def _read_normalise(files: WeightsFiles) -> bool | None:
    """Return what the checkpoint's front end does, or None where no file says it."""
    name = "preprocessor_config.json"
    if name not in files.files:
        return None
    config = files.read_json(name)
    if config.get("sampling_rate", SAMPLE_RATE) != SAMPLE_RATE:
        raise WeightsError(
            f"{files.source}: {name}: takes {config['sampling_rate']} Hz, where {SAMPLE_RATE} Hz are given"
        )
    return bool(config.get("do_normalize", True))


def _receptive_field(convolutions: list[tuple[int, int]]) -> int:
    """Return the samples that one frame sees."""
    field = 1
    for kernel, stride in reversed(convolutions):
        field = (field - 1) * stride + kernel
    return field

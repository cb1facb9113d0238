"""wav2vec 2.0 and HuBERT, and what WavLM has in common with them: everything but its layers."""

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from transformers import HubertConfig, Wav2Vec2Config

from kikimimi import Padded, PositiveInt, WeightsError, WeightsFiles
from kikimimi_encoders import pretrained
from kikimimi_encoders.pretrained import SAMPLE_RATE, build_config, read_config, read_front_end
from kikimimi_encoders.ssl.masking import MaskedEncoder, MaskingConfig
from kikimimi_encoders.ssl.model import SpeechTransformer, new_layer


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

    Attributes:
        name: Registered name, which is also transformers' type of the model and the prefix of its tensors.
        config_class: transformers' config.
        conv_bias: Whether the layer-normed convolutions of the published models have biases.
    """

    Config = SSLConfig
    config_class: ClassVar[Any]
    conv_bias: ClassVar[bool] = True
    sizes_class = Sizes
    tiny_sizes: ClassVar = {**MaskedEncoder.tiny_sizes, "conv_dim": 16, "position_groups": 4}
    config: SSLConfig
    model: SpeechTransformer
    normalise: bool | None = None

    def __init__(self, config: SSLConfig) -> None:
        super().__init__(config)
        hf_config = self.sizes
        wanted = (config.normalise, self.normalise, self.normalises(hf_config))
        self.normalise = next(choice for choice in wanted if choice is not None)
        self.convolutions = list(zip(hf_config.conv_kernel, hf_config.conv_stride, strict=True))
        self.frame_rate = SAMPLE_RATE / math.prod(hf_config.conv_stride)
        self.min_samples = _receptive_field(self.convolutions)
        last = self.choose_layers(num_layers=hf_config.num_hidden_layers, dim=hf_config.hidden_size)
        self.model = SpeechTransformer(hf_config, last, self.layer)
        if config.freeze_feature_extractor:
            self.model.feature_extractor.requires_grad_(False)
        self.mask(hf_config.hidden_size)

    def state(self, files: WeightsFiles) -> dict[str, Tensor]:
        """Read the tensors of a checkpoint, old or new, under their names in `model`."""
        # HubertForCTC, Wav2Vec2ForPreTraining, ...; or HubertModel.
        state = files.state_dict(f"{self.name}.") or files.state_dict()
        return self.model.renamed(state)

    def normalises(self, hf_config: Any) -> bool:
        """Whether models of a config were trained on normalised clips, where no file says so."""
        return True

    def layer(self, hf_config: Any, number: int) -> nn.Module:
        """Build the layer of a number (from 0)."""
        return new_layer(hf_config)

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
        return self.config_class(
            hidden_size=sizes.dim,
            num_hidden_layers=sizes.num_layers,
            num_attention_heads=sizes.num_heads,
            intermediate_size=sizes.ffn_dim,
            conv_dim=[sizes.conv_dim] * 7,
            feat_extract_norm=sizes.conv_norm,
            conv_bias=self.conv_bias and sizes.conv_norm == "layer",
            do_stable_layer_norm=sizes.pre_norm,
            num_conv_pos_embedding_groups=sizes.position_groups,
        )

    def read(self, files: WeightsFiles) -> Any:
        """Read transformers' config, and what the checkpoint's front end does.

        Raises:
            WeightsError: It is another model, or has parts that are not built here.
        """
        config = read_config(files, self.name, self.name)
        for option in ("add_adapter", "conv_pos_batch_norm"):
            if config.get(option, False):
                raise WeightsError(f"{files.source}: config.json sets {option}, which is not built here")
        self.normalise = _read_normalise(files)
        return build_config(self.config_class, config, files.source)


class Wav2Vec2Encoder(SSLEncoder):
    """wav2vec 2.0 (Baevski et al. 2020, arXiv 2006.11477), equal to transformers' `Wav2Vec2Model`."""

    @dataclass(kw_only=True, frozen=True)
    class Config(SSLConfig):
        """Options of the `wav2vec2` encoder."""

        weights: str = "facebook/wav2vec2-base"
        """A wav2vec 2.0 of transformers: a Hub id, a folder, `package:...`; or `random`."""

    name = "wav2vec2"
    config_class = Wav2Vec2Config


class HubertEncoder(SSLEncoder):
    """HuBERT (Hsu et al. 2021, arXiv 2106.07447), equal to transformers' `HubertModel`."""

    @dataclass(kw_only=True, frozen=True)
    class Config(SSLConfig):
        """Options of the `hubert` encoder."""

        weights: str = "facebook/hubert-base-ls960"
        """A HuBERT of transformers: a Hub id, a folder, `package:...`; or `random`."""

    name = "hubert"
    config_class = HubertConfig


def _read_normalise(files: WeightsFiles) -> bool | None:
    """Return what the checkpoint's front end does, or None where no file says it."""
    front_end = read_front_end(files)
    if front_end is None:
        return None
    config, where = front_end
    if config.get("sampling_rate", SAMPLE_RATE) != SAMPLE_RATE:
        raise WeightsError(f"{where}: takes {config['sampling_rate']} Hz, where {SAMPLE_RATE} Hz are given")
    return bool(config.get("do_normalize", True))


def _receptive_field(convolutions: list[tuple[int, int]]) -> int:
    """Return the samples that one frame sees."""
    field = 1
    for kernel, stride in reversed(convolutions):
        field = (field - 1) * stride + kernel
    return field

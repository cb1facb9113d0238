"""wav2vec 2.0 BERT: a Conformer on stacked filter banks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchaudio.compliance import kaldi
from transformers import Wav2Vec2BertConfig
from transformers.models.wav2vec2_bert.modeling_wav2vec2_bert import (
    Wav2Vec2BertEncoderLayer,
    Wav2Vec2BertFeatureProjection,
)

from kikimimi import LayerCount, OddInt, Padded, PositiveInt, WeightsFiles, full_precision
from kikimimi_encoders import pretrained
from kikimimi_encoders.log_mel import HOP, WINDOW
from kikimimi_encoders.pretrained import SAMPLE_RATE, build_config, check_expected, read_config
from kikimimi_encoders.ssl.masking import MaskedEncoder, MaskingConfig
from kikimimi_encoders.ssl.model import initialise

NUM_MELS = 80
STACK = 2
MIN_SAMPLES = WINDOW + HOP * (STACK - 1)


@dataclass(kw_only=True, frozen=True)
class Sizes(pretrained.Sizes):
    """Sizes of an encoder with random weights; the defaults are those of w2v-BERT 2.0."""

    dim: PositiveInt = 1024
    """Width E of the frames."""
    num_layers: LayerCount = 24
    """Conformer blocks."""
    num_heads: PositiveInt = 16
    """Attention heads; they divide `dim`."""
    ffn_dim: PositiveInt = 4096
    """Inner width of both feed-forward networks of a block."""
    kernel_size: OddInt = 31
    """Width of the causal depthwise convolutions [frames]."""


class Wav2Vec2BertTransformer(nn.Module):
    """transformers' modules, with the names of `Wav2Vec2BertModel` without `encoder.`.

    Args:
        config: transformers' config.
        last: Highest layer that is read; those above are not built.
    """

    def __init__(self, config: Any, last: int) -> None:
        super().__init__()
        config._attn_implementation = "sdpa"
        self.feature_projection = Wav2Vec2BertFeatureProjection(config)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.layers = nn.ModuleList(Wav2Vec2BertEncoderLayer(config) for _ in range(last))
        initialise(self.layers.modules(), config.initializer_range)

    def forward(self, features: Padded, layers: Sequence[int], augment: nn.Module | None) -> list[Tensor]:
        """Run the blocks.

        Args:
            features: (B, F, stacked bands).
            layers: Layers whose outputs are wanted, ascending; 0 is what enters the first.
            augment: Changes the projected frames.

        Returns:
            The output (B, F, E) of each of `layers`.
        """
        hidden = self.feature_projection(features.values)[0]
        if augment is not None:
            hidden = augment(Padded(hidden, features.lengths))
        real = attention = None
        if bool((features.lengths < features.values.shape[1]).any()):
            real = features.mask()
            # (B, F) -> (B, heads, queries, keys); added, as the blocks add a bias of positions to it.
            attention = torch.zeros(real.shape, dtype=hidden.dtype, device=hidden.device)
            attention = attention.masked_fill(~real, float("-inf"))[:, None, None]
            hidden = hidden.masked_fill(~real[..., None], 0.0)
        hidden = self.dropout(hidden)
        outputs = [hidden] if layers[0] == 0 else []
        for number, layer in enumerate(self.layers, start=1):
            hidden = layer(hidden, attention_mask=attention, conv_attention_mask=real)
            if number in layers:
                outputs.append(hidden)
        return outputs


class Wav2Vec2BertEncoder(MaskedEncoder):
    """w2v-BERT 2.0 (Seamless Communication 2023, arXiv 2312.05187).

    It equals transformers' `Wav2Vec2BertModel`. Frames are two of Kaldi's filter banks (25 ms every 10 ms)
    side by side, each band normalised over the clip, as `SeamlessM4TFeatureExtractor` computes them; an odd
    last one is left out. A clip shorter than the 560 samples (35 ms) of one frame is taken with silence after
    it. Layer i is transformers' `hidden_states[i]`. In training, dropout is that of the checkpoint's config;
    LayerDrop is off.
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(MaskingConfig):
        """Options of the `wav2vec2_bert` encoder."""

        weights: str = "facebook/w2v-bert-2.0"
        """A w2v-BERT 2.0 of transformers: a Hub id, a folder, `package:...`; or `random`."""
        sizes: Sizes | None = None
        """Sizes with `weights: random` (None: those of w2v-BERT 2.0); refused with any other weights."""

    config: Config
    model: Wav2Vec2BertTransformer
    name = "wav2vec2_bert"
    sizes_class = Sizes
    frame_rate = SAMPLE_RATE / HOP / STACK

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        last = self.choose_layers(num_layers=self.sizes.num_hidden_layers, dim=self.sizes.hidden_size)
        self.model = Wav2Vec2BertTransformer(self.sizes, last)
        self.mask(self.sizes.hidden_size)

    def new_sizes(self, sizes: Sizes) -> Any:
        """Return transformers' config."""
        return Wav2Vec2BertConfig(
            hidden_size=sizes.dim,
            num_hidden_layers=sizes.num_layers,
            num_attention_heads=sizes.num_heads,
            intermediate_size=sizes.ffn_dim,
            conv_depthwise_kernel_size=sizes.kernel_size,
        )

    def read(self, files: WeightsFiles) -> Any:
        """Read transformers' config.

        Raises:
            WeightsError: It is another model, or has parts that are not built here.
        """
        config = read_config(files, self.name, "wav2vec2-bert")
        check_expected(config, _FIXED, f"{files.source}: config.json", self.name)
        return build_config(Wav2Vec2BertConfig, config, files.source)

    def state(self, files: WeightsFiles) -> dict[str, Tensor]:
        """Read the tensors of the bare model or of one with a head."""
        state = files.state_dict("wav2vec2_bert.") or files.state_dict()
        return {name.removeprefix("encoder."): value for name, value in state.items()}

    def num_frames(self, num_samples: int) -> int:
        """Return the pairs of filter banks whose windows lie within the clip, at least 1."""
        return ((max(num_samples, MIN_SAMPLES) - WINDOW) // HOP + 1) // STACK

    def forward(self, audio: Padded) -> Padded:
        """Encode (B, S) waveforms at 16 kHz to (B, F, E)."""
        features = Padded.stack([stacked_fbank(clip) for clip in audio.unstack()])
        dtype = self.model.feature_projection.projection.weight.dtype
        features = Padded(features.values.to(dtype), features.lengths)
        outputs = self.model(features, self.taps.layers, self.augmentation)
        return Padded(self.taps(outputs), features.lengths.to(audio.lengths.device))


def stacked_fbank(clip: Tensor) -> Tensor:
    """Turn a clip (S,) into (F, 160) normalised filter banks, in float32."""
    # Autocast would run the mel product in half precision.
    with torch.no_grad(), full_precision(clip.device):
        wave = nn.functional.pad(clip.float(), (0, max(0, MIN_SAMPLES - len(clip))))
        # Kaldi's samples are 16-bit integers.
        banks: Tensor = kaldi.fbank(
            wave[None] * 2**15,
            num_mel_bins=NUM_MELS,
            sample_frequency=SAMPLE_RATE,
            dither=0.0,
        )
        variance, mean = torch.var_mean(banks, dim=0)
        banks = (banks - mean) / (variance + 1e-7).sqrt()
        # (frames of 10 ms, bands) -> (F, 2 bands)
        return banks[: len(banks) // STACK * STACK].reshape(-1, STACK * NUM_MELS)


_FIXED = {
    "add_adapter": False,
    "use_intermediate_ffn_before_adapter": False,
    "position_embeddings_type": "relative_key",
    "feature_projection_input_dim": STACK * NUM_MELS,
}

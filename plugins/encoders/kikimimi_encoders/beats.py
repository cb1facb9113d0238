"""BEATs, an encoder of sounds: patches of a spectrogram through a transformer."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
import torchaudio.compliance.kaldi
from annotated_types import Ge, MultipleOf
from torch import Tensor, nn

from kikimimi import Padded, PositiveInt, WeightsError, WeightsFiles, full_precision
from kikimimi_encoders import pretrained
from kikimimi_encoders.log_mel import HOP, WINDOW
from kikimimi_encoders.pretrained import (
    SAMPLE_RATE,
    PretrainedConfig,
    PretrainedEncoder,
    check_expected,
    read_config,
)

_NUM_MELS = 128
PATCH = 16
"""Side of a patch [mel frames, mel bands]."""
_MEAN, _STD = 15.41663, 6.55582
"""Mean and standard deviation of AudioSet's log-mel values; the reference divides by twice the latter."""


@dataclass(kw_only=True, frozen=True)
class Sizes(pretrained.Sizes):
    """Sizes of a BEATs with random weights; the defaults are those of the published models."""

    patch_dim: PositiveInt = 512
    """Width of the patches before they are projected to `dim`; another one than that."""
    conv_pos: PositiveInt = 128
    """Kernel of the convolutional positions [patches]."""
    conv_pos_groups: PositiveInt = 16
    """Groups of that convolution; they divide `dim`."""
    num_buckets: Annotated[int, Ge(4), MultipleOf(4)] = 320
    """Buckets of relative distances; a multiple of 4."""
    max_distance: PositiveInt = 800
    """Distance from which on all fall in the last bucket [patches]; above `num_buckets` / 4."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_divisors("conv_pos_groups")
        if self.patch_dim == self.dim:
            raise ValueError(f"sizes.patch_dim must differ from sizes.dim ({self.dim})")
        if self.max_distance <= self.num_buckets // 4:
            raise ValueError(
                f"sizes.max_distance must be above sizes.num_buckets / 4 ({self.num_buckets // 4}), not "
                f"{self.max_distance}"
            )


class BEATsPositionalConvolution(nn.Module):
    """Adds to each patch what a wide grouped convolution makes of its surroundings (wav2vec 2.0).

    The kernel is normalised over all but its last axis, and scaled per tap: weight normalisation of dim 2,
    under the names that checkpoints have. With an even kernel the last position is left out.
    """

    def __init__(self, dim: int, kernel_size: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.weight_v = nn.Parameter(torch.empty(dim, dim // groups, kernel_size))
        nn.init.normal_(self.weight_v, std=math.sqrt(4 / (kernel_size * dim)))
        self.weight_g = nn.Parameter(self.weight_v.detach().norm(dim=(0, 1), keepdim=True))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, patches: Tensor) -> Tensor:
        """Return what is to be added to (B, F, E) patches, which are zero past the lengths."""
        kernel_size = self.weight_v.shape[-1]
        direction = self.weight_v.float()
        # In float32: the norm is over tens of thousands of values.
        kernel = direction * (self.weight_g.float() / direction.norm(dim=(0, 1), keepdim=True))
        # (B, F, E) -> (B, E, F)
        surroundings = F.conv1d(
            patches.transpose(1, 2),
            kernel.to(patches.dtype),
            self.bias.to(patches.dtype),
            padding=kernel_size // 2,
            groups=self.groups,
        )
        return F.gelu(surroundings[..., : patches.shape[1]]).transpose(1, 2)


class BEATsAttention(nn.Module):
    """Self-attention with a relative position bias that a gate of each query scales (WavLM's, equation 5 on).

    Unlike WavLM, which reads the gate off the layer's input, BEATs reads it off the projected query. The
    division of the scores by 32 before and the multiplication by 32 after subtracting their maximum, which
    keep half precision from overflowing in the reference, change nothing and are left to the fused attention.

    Args:
        dim: Width E.
        num_heads: Attention heads H.
        num_buckets: Rows of the bias table, for a layer that owns it: the first, whose bias all share.
    """

    def __init__(self, dim: int, num_heads: int, num_buckets: int | None) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)
        self.grep_linear = nn.Linear(dim // num_heads, 8)
        self.grep_a = nn.Parameter(torch.ones(1, num_heads, 1, 1))
        self.relative_attention_bias = None if num_buckets is None else nn.Embedding(num_buckets, num_heads)

    def position_bias(self, buckets: Tensor) -> Tensor:
        """Return the (H, F, F) bias of the (F, F) buckets that each query sees each key in."""
        assert self.relative_attention_bias is not None
        # (F, F, H) -> (H, F, F)
        values: Tensor = self.relative_attention_bias(buckets)
        return values.permute(2, 0, 1).contiguous()

    def forward(self, patches: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
        """Attend.

        Args:
            patches: (B, F, E).
            bias: (H, F, F) relative position bias before the gate.
            mask: (B, F) true where a patch is real.

        Returns:
            (B, F, E).
        """
        # (B, F, E) -> (B, H, F, width)
        query, key, value = (
            proj(patches).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        # (B, H, F, 8) -> (B, H, F, 2): two gates, each a sum of four values.
        gates = self.grep_linear(query).unflatten(-1, (2, 4)).sum(-1).sigmoid()
        # (B, H, F, 1)
        scale = gates[..., :1] * (gates[..., 1:] * self.grep_a - 1.0) + 2.0
        scores = (scale * bias).to(query.dtype).masked_fill(~mask[:, None, None], -math.inf)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=scores)
        # (B, H, F, width) -> (B, F, E)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return out


class BEATsLayer(nn.Module):
    """Post-norm attention and feed-forward with a scaled residual: DeepNorm (arXiv 2203.00555)."""

    def __init__(
        self, dim: int, num_heads: int, ffn_dim: int, num_buckets: int | None, residual_scale: float
    ) -> None:
        super().__init__()
        self.residual_scale = residual_scale
        self.self_attn = BEATsAttention(dim, num_heads, num_buckets)
        self.self_attn_layer_norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, ffn_dim)
        self.fc2 = nn.Linear(ffn_dim, dim)
        self.final_layer_norm = nn.LayerNorm(dim)

    def forward(
        self, patches: Tensor, mask: Tensor, buckets: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Transform (B, F, E) patches, of which (B, F) are real.

        Args:
            patches: What enters the layer.
            mask: True where a patch is real.
            buckets: (F, F) in which each query sees each key.
            bias: What the first layer returned; None for the first. It is made there and not outside, as
                the layer's weights are at hand only while it runs where they are sharded.

        Returns:
            (B, F, E) what leaves the layer, and (H, F, F) the bias for the next one.
        """
        if bias is None:
            bias = self.self_attn.position_bias(buckets)
        attended = patches * self.residual_scale + self.self_attn(patches, bias, mask)
        patches = self.self_attn_layer_norm(attended)
        fed = patches * self.residual_scale + self.fc2(F.gelu(self.fc1(patches)))
        return self.final_layer_norm(fed), bias


class BEATsTransformer(nn.Module):
    """Positions and layers; `encoder` in a checkpoint.

    Args:
        sizes: Sizes of the whole model; its layers set the residual's scale: (2 x layers) ** 1/4.
        last: Layers to build, from the first on.
    """

    def __init__(self, sizes: Sizes, last: int) -> None:
        super().__init__()
        self.num_buckets = sizes.num_buckets
        self.max_distance = sizes.max_distance
        # A list, for the checkpoints' name: pos_conv.0.
        self.pos_conv = nn.ModuleList(
            [BEATsPositionalConvolution(sizes.dim, sizes.conv_pos, sizes.conv_pos_groups)]
        )
        self.layer_norm = nn.LayerNorm(sizes.dim)
        self.layers = nn.ModuleList(
            BEATsLayer(
                sizes.dim,
                sizes.num_heads,
                sizes.ffn_dim,
                None if number else sizes.num_buckets,
                residual_scale=(2 * sizes.num_layers) ** 0.25,
            )
            for number in range(last)
        )
        deep_norm_gain = (8 * sizes.num_layers) ** -0.25
        for name, parameter in self.layers.named_parameters():
            if name.endswith(("k_proj.weight", "q_proj.weight")):
                nn.init.xavier_normal_(parameter)
            elif name.endswith(("v_proj.weight", "out_proj.weight", "fc1.weight", "fc2.weight")):
                nn.init.xavier_normal_(parameter, gain=deep_norm_gain)
            elif name.endswith(("grep_linear.weight", "relative_attention_bias.weight")):
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith(("_proj.bias", "fc1.bias", "fc2.bias", "grep_linear.bias")):
                nn.init.zeros_(parameter)

    def forward(self, patches: Tensor, mask: Tensor) -> list[Tensor]:
        """Transform (B, F, E) patches, of which (B, F) are real.

        Returns:
            What enters the first layer, and what leaves each, (B, F, E).
        """
        patches = patches.masked_fill(~mask[..., None], 0.0)
        patches = self.layer_norm(patches + self.pos_conv[0](patches))
        outputs = [patches]
        buckets = self._buckets(patches.shape[1]).to(patches.device)
        bias: Tensor | None = None
        for layer in self.layers:
            patches, bias = layer(patches, mask, buckets, bias)
            outputs.append(patches)
        return outputs

    def _buckets(self, length: int) -> Tensor:
        """Return (F, F): the bucket of each key as each query sees it."""
        # On the CPU, as in the reference: which bucket a distance falls in hangs on a logarithm's last digit.
        distances = torch.arange(1 - length, length, device="cpu")
        buckets = position_buckets(distances, self.num_buckets, self.max_distance)
        positions = torch.arange(length, device="cpu")
        return buckets[positions[None, :] - positions[:, None] + length - 1]


class BEATsModel(nn.Module):
    """Patch embedding and transformer; names of parameters as in the published checkpoints.

    Args:
        sizes: Sizes of the whole model.
        last: Layers to build, from the first on.
    """

    def __init__(self, sizes: Sizes, last: int) -> None:
        super().__init__()
        self.patch_embedding = nn.Conv2d(1, sizes.patch_dim, PATCH, stride=PATCH, bias=False)
        self.layer_norm = nn.LayerNorm(sizes.patch_dim)
        self.post_extract_proj = nn.Linear(sizes.patch_dim, sizes.dim)
        self.encoder = BEATsTransformer(sizes, last)

    def forward(self, mel: Padded) -> list[Tensor]:
        """Transform (B, mel frames, mels), whole patches, to (B, F, E) of each layer, the input first."""
        # (B, rows x 16, 128) -> (B, width, rows, 8) -> (B, rows x 8, width): low bands first in each row.
        patches = self.patch_embedding(mel.values[:, None]).flatten(2).transpose(1, 2)
        frames = self.post_extract_proj(self.layer_norm(patches))
        lengths = mel.lengths * (_NUM_MELS // PATCH) // PATCH
        outputs: list[Tensor] = self.encoder(frames, Padded(frames, lengths).mask())
        return outputs


def position_buckets(distances: Tensor, num_buckets: int, max_distance: int) -> Tensor:
    """Return the bucket of each distance from a query to a key [positions], as in T5 (Raffel et al. 2020).

    Half the buckets are for keys behind the query's position; of each half, the first half holds single
    distances, and the rest grows logarithmically up to `max_distance`, with all beyond in the last.
    """
    half = num_buckets // 2
    exact = half // 2
    sizes = distances.abs()
    # Below `exact` the logarithm is not used; clamped, so that it is not of zero.
    growth = torch.log(sizes.clamp(min=exact).float() / exact) / math.log(max_distance / exact)
    large = (exact + (growth * (half - exact)).long()).clamp(max=half - 1)
    return torch.where(sizes < exact, sizes, large) + half * (distances > 0)


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
    frame_rate = SAMPLE_RATE / HOP * _NUM_MELS / PATCH**2
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
        last = self.tap(num_layers=self.sizes.num_layers, dim=self.sizes.dim)
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
        return self._num_rows(num_samples) * (_NUM_MELS // PATCH)

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
                num_mel_bins=_NUM_MELS,
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

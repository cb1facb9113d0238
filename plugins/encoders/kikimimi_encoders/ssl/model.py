"""The network that wav2vec 2.0, HuBERT and WavLM share, put together from transformers' modules."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN

from kikimimi import Padded


def transformers_class(config: Any, part: str) -> Any:
    """Return transformers' class of a part: `HubertFeatureEncoder` for a `HubertConfig`.

    Args:
        config: transformers' config of the model.
        part: Name of the class without that of the model before it.
    """
    kind = type(config)
    modeling = import_module(kind.__module__.replace("configuration", "modeling"))
    return getattr(modeling, kind.__name__.removesuffix("Config") + part)


def new_layer(config: Any, **options: Any) -> nn.Module:
    """Build transformers' layer that norms what leaves it or, as the config says, what enters it."""
    part = "EncoderLayerStableLayerNorm" if config.do_stable_layer_norm else "EncoderLayer"
    layer: nn.Module = transformers_class(config, part)(config, **options)
    return layer


@torch.no_grad()
def initialise(modules: Iterable[nn.Module], std: float) -> None:
    """Draw weights as transformers does: normal linear layers, Kaiming convolutions."""
    for module in modules:
        if isinstance(module, nn.Conv1d):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.Linear | nn.Embedding):
            module.weight.normal_(std=std)
        if isinstance(module, nn.Conv1d | nn.Linear) and module.bias is not None:
            module.bias.zero_()


class PositionalConvolution(nn.Module):
    """Relative positions by a wide grouped convolution with weight norm (Baevski et al. 2020, section 2).

    Equals transformers' modules of that name, whose weight norm is a parametrisation that cannot be pickled.
    """

    def __init__(self, dim: int, kernel_size: int, groups: int, activation: str) -> None:
        super().__init__()
        self.kernel_size, self.groups = kernel_size, groups
        std = 2 * math.sqrt(1 / (kernel_size * dim))
        self.weight_v = nn.Parameter(torch.empty(dim, dim // groups, kernel_size).normal_(std=std))
        self.weight_g = nn.Parameter(self._norms().detach().clone())
        self.bias = nn.Parameter(torch.zeros(dim))
        self.activation = ACT2FN[activation]

    def _norms(self) -> Tensor:
        norms: Tensor = torch.linalg.vector_norm(self.weight_v, dim=(0, 1), keepdim=True)
        return norms

    def forward(self, frames: Tensor) -> Tensor:
        """Return what is to be added to (B, F, E) frames; frames past a length have to be zero."""
        weight = self.weight_v * (self.weight_g / self._norms())
        convolved = F.conv1d(
            frames.transpose(1, 2), weight, self.bias, padding=self.kernel_size // 2, groups=self.groups
        )
        # An even kernel gives one frame too many.
        hidden: Tensor = self.activation(convolved[..., : frames.shape[1]])
        # (B, E, F) -> (B, F, E)
        return hidden.transpose(1, 2)


class SpeechTransformer(nn.Module):
    """Convolutions over the waveform, then a transformer, up to the highest layer that is read.

    Names of parameters are those of transformers' `HubertModel` and its kin without `encoder.`.

    Args:
        config: transformers' config, whose parts are used.
        last: Highest layer that is read; those above are not built.
        layer: Builds the layer of a number (from 0) from the config.
    """

    def __init__(self, config: Any, last: int, layer: Callable[[Any, int], nn.Module]) -> None:
        super().__init__()
        config._attn_implementation = "sdpa"
        self.pre_norm = bool(config.do_stable_layer_norm)
        self.num_layers = int(config.num_hidden_layers)
        self.feature_extractor = transformers_class(config, "FeatureEncoder")(config)
        self.feature_projection = transformers_class(config, "FeatureProjection")(config)
        self.pos_conv_embed = PositionalConvolution(
            config.hidden_size,
            config.num_conv_pos_embeddings,
            config.num_conv_pos_embedding_groups,
            config.feat_extract_activation,
        )
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.layers = nn.ModuleList(layer(config, number) for number in range(last))
        # A pre-norm transformer has it at its end, where it may not be read.
        self.layer_norm = (
            nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
            if not self.pre_norm or last == self.num_layers
            else None
        )
        parts = [*self.feature_extractor.modules(), *self.layers.modules()]
        initialise(parts, config.initializer_range)

    def convolve(self, wave: Tensor) -> Tensor:
        """Turn one clip (S,) into (F, C) frames; alone, as group norm takes its statistics over time."""
        hidden = wave[None, None].to(next(self.feature_extractor.parameters()).dtype)
        stack: Any = self.feature_extractor
        for layer in stack.conv_layers:
            hidden = layer(hidden)
        return hidden[0].transpose(0, 1)

    def forward(
        self, features: Padded, layers: Sequence[int], augment: Callable[[Padded], Tensor] | None
    ) -> list[Tensor]:
        """Run the transformer.

        Args:
            features: (B, F, C) frames of the convolutions.
            layers: Layers whose outputs are wanted, ascending; 0 is what enters the first.
            augment: Changes the projected frames.

        Returns:
            The output (B, F, E) of each of `layers`.
        """
        hidden = _first(self.feature_projection(features.values))
        if augment is not None:
            hidden = augment(Padded(hidden, features.lengths))
        real = None
        if bool((features.lengths < features.values.shape[1]).any()):
            real = features.mask()
            # A clip alone would meet the zero padding of the convolution here.
            hidden = hidden.masked_fill(~real[..., None], 0.0)
        hidden = hidden + self.pos_conv_embed(hidden)
        if not self.pre_norm:
            assert self.layer_norm is not None
            hidden = self.layer_norm(hidden)
        hidden = self.dropout(hidden)
        wanted = set(layers)
        return [output for number, output in enumerate(self._run_layers(hidden, real)) if number in wanted]

    def _run_layers(self, hidden: Tensor, real: Tensor | None) -> Iterator[Tensor]:
        # (B, F) -> (B, heads, queries, keys)
        options: dict[str, Any] = {"attention_mask": None if real is None else real[:, None, None]}
        yield hidden
        for number, layer in enumerate(self.layers, start=1):
            output = layer(hidden, **options)
            hidden = _first(output)
            if isinstance(output, tuple) and len(output) > 1:
                # WavLM's layers hand on the position bias that the first one computes.
                options["position_bias"] = output[1]
            at_end = self.pre_norm and number == self.num_layers
            yield self.layer_norm(hidden) if at_end and self.layer_norm is not None else hidden

    def renamed(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename the tensors of a checkpoint, old or new."""
        names = {name: name.removeprefix("encoder.") for name in state}
        return {_POSITION_NAMES.get(names[name], names[name]): value for name, value in state.items()}


_POSITION_NAMES = {
    "pos_conv_embed.conv.parametrizations.weight.original0": "pos_conv_embed.weight_g",
    "pos_conv_embed.conv.parametrizations.weight.original1": "pos_conv_embed.weight_v",
    "pos_conv_embed.conv.weight_g": "pos_conv_embed.weight_g",
    "pos_conv_embed.conv.weight_v": "pos_conv_embed.weight_v",
    "pos_conv_embed.conv.bias": "pos_conv_embed.bias",
}


def _first(output: Any) -> Tensor:
    """Return the frames, of a module that returns something beside them or not."""
    frames: Tensor = output[0] if isinstance(output, tuple) else output
    return frames

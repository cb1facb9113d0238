"""Frames are shortened by strided convolutions."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Annotated, Any, Literal

import torch
from annotated_types import MinLen
from torch import Tensor, nn

from kikimimi import Adapter, AdapterContext, AdapterOutput, ComponentConfig, Padded, PositiveInt
from kikimimi_adapters.frame_groups import zero_past_lengths

Activation = Literal["none", "glu", "gelu", "relu"]
Padding = Literal["half", "fill"]
OfEach = Annotated[list[PositiveInt], MinLen(1)]
"""A number for each convolution of a stack."""
_ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "none": lambda hidden: hidden,
    "glu": lambda hidden: nn.functional.glu(hidden, dim=1),
    "gelu": nn.functional.gelu,
    "relu": nn.functional.relu,
}


class ConvLayer(nn.Module):
    """A strided convolution over time, an activation and a layer norm, of each clip as if it were alone.

    With `padding: half` a clip has kernel_size // 2 zeros before and after it, as in
    `nn.Conv1d(..., padding=kernel_size // 2)`: floor((F + 2 (kernel_size // 2) - kernel_size) / stride) + 1
    positions. With `padding: fill` it has none before it, and after it as many as its last window needs:
    ceil((F - kernel_size) / stride) + 1 positions, at least 1.

    Args:
        in_dim: Width of the frames.
        out_dim: Width of the output.
        kernel_size: Frames that a position sees.
        stride: Frames from one position to the next.
        padding: Where the zeros are, see above.
        activation: What follows the convolution; `glu` doubles its width and halves it again.
        norm: Whether a layer norm follows.
        bias: Whether the convolution has one.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        kernel_size: int,
        stride: int,
        padding: Padding = "half",
        activation: Activation,
        norm: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.activation: Activation = activation
        self.fills = padding == "fill"
        channels = out_dim * (2 if activation == "glu" else 1)
        zeros = 0 if self.fills else kernel_size // 2
        self.conv = nn.Conv1d(in_dim, channels, kernel_size, stride=stride, padding=zeros, bias=bias)
        self.norm = nn.LayerNorm(out_dim) if norm else None

    def num_positions(self, num_frames: int) -> int:
        """Return how many positions a clip of `num_frames` frames has: at least 1."""
        (kernel_size,), (stride,), padding = self.conv.kernel_size, self.conv.stride, self.conv.padding
        if self.fills:
            return max(0, -((kernel_size - num_frames) // stride)) + 1
        assert isinstance(padding[0], int)
        return (num_frames + 2 * padding[0] - kernel_size) // stride + 1

    def forward(self, frames: Padded) -> Padded:
        """Convolve (B, F, E) frames to (B, positions, width)."""
        lengths = [self.num_positions(length) for length in frames.lengths.tolist()]
        values = zero_past_lengths(frames).transpose(1, 2)  # (B, F, E) -> (B, E, F)
        if self.fills:
            wanted = (max(lengths) - 1) * self.conv.stride[0] + self.conv.kernel_size[0]
            values = nn.functional.pad(values, (0, max(0, wanted - values.shape[-1])))
        # (B, width, positions) -> (B, positions, width)
        hidden = _ACTIVATIONS[self.activation](self.conv(values)).transpose(1, 2).contiguous()
        if self.norm is not None:
            hidden = self.norm(hidden)
        return Padded(hidden, torch.tensor(lengths, dtype=torch.int64, device=frames.lengths.device))


class ConvStack(nn.Sequential):
    """Convolutions one after the other."""

    def num_positions(self, num_frames: int) -> int:
        """Return how many positions the last one has for a clip of `num_frames` frames, which is exact."""
        for layer in self:
            assert isinstance(layer, ConvLayer)
            num_frames = layer.num_positions(num_frames)
        return num_frames


class Bottleneck(nn.Module):
    """Adds to each vector what two linear layers around a narrow one make of it (Houlsby et al. 2019)."""

    def __init__(self, dim: int, inner_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, inner_dim, bias=False)
        self.fc2 = nn.Linear(inner_dim, dim, bias=False)

    def forward(self, vectors: Tensor) -> Tensor:
        """Transform (..., D) vectors."""
        added: Tensor = self.fc2(nn.functional.gelu(self.fc1(vectors)))
        return vectors + added


def check_convolutions(kernel_sizes: list[int], strides: list[int], padding: Padding) -> None:
    """Check the options of a stack of convolutions.

    Raises:
        ValueError: They are wrong, or some frames would not be read by any position.
    """
    if len(kernel_sizes) != len(strides):
        raise ValueError(
            f"kernel_sizes and strides must name each convolution, and there are {len(kernel_sizes)} and "
            f"{len(strides)}"
        )
    for kernel_size, stride in zip(kernel_sizes, strides, strict=True):
        widest = kernel_size if padding == "fill" else kernel_size // 2 + 1
        if stride > widest:
            other = "" if padding == "fill" or stride > kernel_size else ", or padding: fill"
            raise ValueError(
                f"a stride of {stride} with a kernel of {kernel_size} and padding: {padding} leaves frames "
                f"unread: it takes a stride of at most {widest}{other}"
            )


class ConvAdapter(Adapter):
    """A stack of strided convolutions, and what may follow it: linear layer, bottleneck, layer norm.

    With it, in the options' words (what is not named is the default):

    - SpeechVerse (Das et al. 2024, arXiv 2405.08295), 50 -> 12.5 Hz: the defaults; 25 -> 12.5 Hz:
      `strides: [2, 1]`.
    - WavPrompt (Gao et al. 2022, arXiv 2203.15863; `reduce_t` and `proj` of its encoder): `kernel_sizes: [8],
      strides: [8], padding: fill, norm: none, hidden_dim: E, linear: true`. There, frames that do not fill
      the last window are dropped, and where E is D there is no linear layer.
    - BLSP (Wang et al. 2023, arXiv 2309.00916; `Conv1dSubsampler`, `Adapter` and `speech_ln` of its code):
      `kernel_sizes: [5, 5, 5], strides: [2, 2, 2], activation: glu, hidden_dim: E, bottleneck_dim: 512,
      norm: last`. There, the convolutions see the 30 s of the encoder, silence included, and their output is
      cut: a clip's last one or two tokens differ.

    A clip in a batch meets the same zeros as alone, at each layer.
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(ComponentConfig):
        """Options of the `conv` adapter."""

        kernel_sizes: OfEach = field(default_factory=lambda: [3, 3])
        """Frames that a position of each convolution sees."""
        strides: OfEach = field(default_factory=lambda: [2, 2])
        """Frames from one position of each convolution to the next; their product is the shortening."""
        padding: Padding = "half"
        """Zeros around a clip: half a kernel on either side, or only what fills its last window."""
        hidden_dim: PositiveInt | None = None
        """Width between the convolutions, and before the linear layer; None is the LLM's width D. Refused
        with one convolution that no linear layer follows."""
        activation: Activation = "none"
        """What follows each convolution; `glu` is a gated linear unit over twice the width."""
        norm: Literal["none", "each", "last"] = "each"
        """Layer norm: none, after each convolution (and its activation), or once at the very end."""
        linear: bool = False
        """Whether a linear layer from `hidden_dim` to D follows; if not, the last convolution maps to D."""
        bottleneck_dim: PositiveInt | None = None
        """Inner width of a residual bottleneck at width D (linear, GELU, linear, no bias); None is none."""
        bias: bool = True
        """Whether the convolutions and the linear layer have a bias."""

        def __post_init__(self) -> None:
            check_convolutions(self.kernel_sizes, self.strides, self.padding)
            if self.hidden_dim is not None and len(self.kernel_sizes) == 1 and not self.linear:
                raise ValueError(
                    "hidden_dim is read only with two or more convolutions, or with linear: true"
                )

    config: Config

    def __init__(self, config: Config, context: AdapterContext) -> None:
        super().__init__(config, context)
        hidden = config.hidden_dim or context.out_dim
        dims = [context.in_dim] + [hidden] * len(config.strides)
        if not config.linear:
            dims[-1] = context.out_dim
        shapes = zip(pairwise(dims), config.kernel_sizes, config.strides, strict=True)
        self.layers = ConvStack(
            *(
                ConvLayer(
                    *widths,
                    kernel_size=kernel_size,
                    stride=stride,
                    padding=config.padding,
                    activation=config.activation,
                    norm=config.norm == "each",
                    bias=config.bias,
                )
                for widths, kernel_size, stride in shapes
            )
        )
        self.linear = nn.Linear(hidden, context.out_dim, bias=config.bias) if config.linear else None
        self.bottleneck = (
            None if config.bottleneck_dim is None else Bottleneck(context.out_dim, config.bottleneck_dim)
        )
        self.norm = nn.LayerNorm(context.out_dim) if config.norm == "last" else None

    @classmethod
    def tiny_config(cls, config: Any | None = None) -> Config:
        """Return `config` with a hidden width of 32 and a bottleneck of 8, where it names them."""
        chosen: ConvAdapter.Config = cls.Config() if config is None else config
        return replace(
            chosen,
            hidden_dim=None if chosen.hidden_dim is None else 32,
            bottleneck_dim=None if chosen.bottleneck_dim is None else 8,
        )

    def shard_classes(self) -> set[type[nn.Module]]:
        """Return the class of a convolution layer."""
        return {ConvLayer}

    def max_tokens(self, num_frames: int) -> int:
        """Return the positions of the last convolution, which is exact."""
        return self.layers.num_positions(num_frames)

    def forward(self, features: Padded) -> AdapterOutput:
        """Adapt (B, F, E) to (B, `max_tokens(F)`, D)."""
        hidden: Padded = self.layers(features)
        values = hidden.values
        for module in (self.linear, self.bottleneck, self.norm):
            if module is not None:
                values = module(values)
        return AdapterOutput(Padded(values, hidden.lengths))

"""Which layers of an encoder are read, and how several of them become one output."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from annotated_types import MinLen
from torch import Tensor, nn

from kikimimi.contracts.options import NonNegativeInt, Rule, checked

_ASCENDING = Rule("ascending, each once", lambda layers: sorted(set(layers)) == list(layers))
Layers = Annotated[list[NonNegativeInt], MinLen(1), _ASCENDING]
"""Numbers of layers to read; 0 is what enters the first one."""
Combine = Literal["concat", "weighted_sum"]
"""How the outputs of layers become one: side by side, or their sum with weights that are learnt."""


@checked
def check_layers(layers: Layers | None, combine: Combine) -> None:
    """Check the two options of an encoder together.

    Raises:
        ValueError: They are out of their bounds, or `combine` would not be read.
    """
    if combine != "concat" and (layers is None or len(layers) < 2):
        raise ValueError("combine is read only with two or more layers")


class LayerCombiner(nn.Module):
    """Combines the outputs of chosen layers.

    Layer 0 is what enters the first layer, layer i what leaves the i-th: transformers' `hidden_states[i]`.
    `concat` lays them side by side, so that an adapter can take them apart again; `weighted_sum` adds them up
    with learned weights, a softmax that starts uniform (as SUPERB does: Yang et al. 2021, arXiv 2105.01051).
    The weights are learnt with the adapter, also where the encoder is frozen: `Encoder.downstream_names`.

    Args:
        layers: Numbers of layers, ascending; None is the last one.
        combine: What becomes of several.
        num_layers: How many layers the encoder has.

    Attributes:
        layers: Numbers of the layers to hand to `forward`.
        num_concat_layers: Layers side by side in the output.

    Raises:
        ValueError: The encoder has no such layer.
    """

    def __init__(self, layers: Layers | None, combine: Combine, num_layers: int) -> None:
        super().__init__()
        check_layers(layers, combine)
        self.layers = [num_layers] if layers is None else list(layers)
        if self.layers[-1] > num_layers:
            raise ValueError(f"layers names layer {self.layers[-1]}, and the encoder has {num_layers}")
        self.num_concat_layers = len(self.layers) if combine == "concat" else 1
        self.weight = nn.Parameter(torch.zeros(len(self.layers))) if combine == "weighted_sum" else None

    def forward(self, outputs: Sequence[Tensor]) -> Tensor:
        """Combine the outputs (..., E) of `layers`, in that order, to (..., `num_concat_layers` x E)."""
        if self.weight is not None:
            shares = self.weight.float().softmax(0)
            # Summed in float32: thirty-two layers in half precision would lose the small ones.
            mixed = sum(share * output.float() for share, output in zip(shares, outputs, strict=True))
            assert isinstance(mixed, Tensor)
            return mixed.to(outputs[0].dtype)
        return outputs[0] if len(outputs) == 1 else torch.cat(list(outputs), dim=-1)


Taps, check_taps = LayerCombiner, check_layers  # what earlier versions called them


def tiny_layers(layers: Sequence[int] | None, num_layers: int) -> list[int] | None:
    """Return as many layers as `layers` names, or as fit, of an encoder that has only `num_layers`."""
    if layers is None:
        return None
    if len(layers) > num_layers + 1:
        return list(range(num_layers + 1))
    # The last ones: a config that is tiny already stays as it is.
    return list(layers) if layers[-1] <= num_layers else list(range(num_layers + 1))[-len(layers) :]

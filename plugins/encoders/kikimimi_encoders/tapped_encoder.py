"""What encoders have in common whose frames are the outputs of chosen layers."""

from __future__ import annotations

from typing import Any

from kikimimi import Encoder, Taps


class TappedEncoder(Encoder):
    """Base of the encoders with the options `layers` and `combine`.

    Attributes:
        taps: Combines the layers that are read; layers above the highest of them need not be built.
        num_layers: Layers of the whole model.
    """

    taps: Taps
    num_layers: int

    def tap(self, config: Any, *, num_layers: int, dim: int) -> None:
        """Choose the layers that are read: set `taps`, `num_layers`, `num_taps` and `dim`.

        Args:
            config: The encoder's; its options `layers` and `combine` are read.
            num_layers: Layers of the whole model.
            dim: Width of what leaves one layer.

        Raises:
            ValueError: The model has no such layer.
        """
        self.taps = Taps(config.layers, config.combine, num_layers)
        self.num_layers = num_layers
        self.num_taps = self.taps.num_taps
        self.dim = dim * self.num_taps

    def pretrained_names(self) -> set[str]:
        """Return all names but that of the weights of the layers' sum, which are always new."""
        return super().pretrained_names() - {"taps.weight"}

    def unread_layers(self) -> list[str]:
        """Return patterns (`layers.7.*`) of the tensors of the layers above the highest that is read."""
        return [f"layers.{number}.*" for number in range(self.taps.layers[-1], self.num_layers)]

"""What adapters share whose audio tokens follow the labels that a CTC head gives the frames."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from kikimimi import Adapter, AdapterContext, AdapterOutput, Padded, Units
from kikimimi_adapters.ctc.head import CTC, CTCConfig
from kikimimi_adapters.frame_groups import zero_past_lengths


class CTCCompressor(Adapter):
    """An adapter with a CTC head, whose labels say what becomes a token.

    Attributes:
        ctc: The head, with its labels and its loss.
    """

    def __init__(self, config: CTCConfig, context: AdapterContext) -> None:
        super().__init__(config, context)
        self.uses_transcripts = config.loss_weight > 0
        self.ctc = CTC(config, context)

    @abstractmethod
    def compress(self, frames: Tensor, real: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Make tokens.

        Args:
            frames: (B, F, E), zero past the lengths.
            real: (B, F) bool, false past the lengths.
            labels: (B, F) the best label of each frame, unspecified past the lengths.

        Returns:
            (B, T, D) tokens and (B,) how many each clip has, at least 1.
        """

    def load_weights(self) -> None:
        """Fill the head from `head_weights`.

        Raises:
            WeightsError: It does not fit.
        """
        self.ctc.load_weights()

    def pretrained_names(self) -> set[str]:
        """Return the names of the head's parameters where `head_weights` names a source."""
        return self.ctc.pretrained_names("ctc.")

    def save_assets(self, folder: Path) -> None:
        """Write the characters that the head knows, where they come from the data."""
        self.ctc.save_assets(folder)

    def max_tokens(self, num_frames: int) -> int:
        """Return F: every frame may have a label of its own."""
        return num_frames

    def units(self, num_frames: Sequence[int], transcripts: Sequence[str | None]) -> Units:
        """Return how many clips can be aligned."""
        return Units("clips", len(self.ctc.spell(num_frames, transcripts)[0]))

    def forward(self, features: Padded, transcripts: Sequence[str | None] | None = None) -> AdapterOutput:
        """Adapt (B, F, E) to (B, T, D); the tokens do not depend on the transcripts."""
        frames = zero_past_lengths(features)
        logits = self.ctc.head(frames)
        losses, counts = self.ctc.loss(logits, features.lengths, transcripts)
        tokens, lengths = self.compress(frames, features.mask(), self.ctc.labels(logits))
        return AdapterOutput(Padded(tokens, lengths.to(features.lengths.device)), losses, counts)

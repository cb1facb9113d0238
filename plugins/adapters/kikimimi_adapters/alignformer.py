"""A query reads each window that a CTC alignment cuts out of the clip: one audio token per label."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kikimimi import AdapterContext, LayerCount, Padded, PositiveInt, Probability
from kikimimi_adapters.ctc_head import CTCCompressor, CTCConfig, CTCHead, tiny_head
from kikimimi_adapters.qformer import INIT_STD, QFormer, QFormerLayer


class AlignFormerAdapter(CTCCompressor):
    """AlignFormer: a CTC head gives the windows of a Q-Former (Fan et al. 2024, arXiv 2412.01145).

    A window ends where a run of one label that is not blank ends, and the next begins there; the frames after
    the last run belong to its window. CTC's labels stand at the end of what they are for, so a window holds
    the blanks before its label. The windows cover every frame of the clip; a clip of blanks is one window.
    One learned query, the same for all, reads each window through the layers and becomes a token.

    The paper gives the parts; where exactly a window ends, and the sizes, which are those of SALMONN's
    window-level Q-Former, are a choice made here. As in adapter `ctc`, no gradient passes through the choice
    of windows, and the tokens of a clip do not depend on its transcript.
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(CTCConfig):
        """Options of the `alignformer` adapter."""

        vocabulary: Literal["characters", "bytes", "llm", "head"] = "llm"
        """What the labels, and so the tokens, are: the LLM's tokens, the characters of the training data, the
        256 bytes of UTF-8, or what the head of `head_weights` knows."""
        num_layers: LayerCount = 2
        """Transformer layers; each attends to the frames."""
        hidden_dim: PositiveInt = 768
        """Width of the query."""
        num_heads: PositiveInt = 12
        """Attention heads; they divide `hidden_dim`."""
        ffn_dim: PositiveInt = 3072
        """Inner width of the feed-forward networks."""
        dropout: Probability = 0.1
        """Dropout probability, on attention weights and before residuals."""

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.hidden_dim % self.num_heads:
                raise ValueError(f"num_heads ({self.num_heads}) must divide hidden_dim ({self.hidden_dim})")

    config: Config

    def __init__(self, config: Config, context: AdapterContext) -> None:
        super().__init__(config, context)
        self.query = nn.Parameter(nn.init.normal_(torch.empty(1, 1, config.hidden_dim), std=INIT_STD))
        self.qformer = QFormer(config, source_dim=context.in_dim)
        self.proj = nn.Linear(config.hidden_dim, context.out_dim)

    @classmethod
    def tiny_config(cls, config: Any | None = None) -> Config:
        """Return `config` with a head of bytes, random weights and at most 2 layers x 32."""
        chosen: AlignFormerAdapter.Config = cls.Config() if config is None else config
        return replace(
            tiny_head(chosen),
            num_layers=min(chosen.num_layers, 2),
            hidden_dim=32,
            num_heads=4,
            ffn_dim=64,
        )

    def shard_classes(self) -> set[type[nn.Module]]:
        """Return the classes of the head and of the layers."""
        return {CTCHead, QFormerLayer}

    def compress(self, frames: Tensor, real: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B, T, D) tokens, T the number of labels found, at least 1, and their lengths."""
        if frames.is_meta:  # content is unknown: at most, every frame is a window
            tokens = self.proj(self._read(torch.split(frames.flatten(0, 1), 1)))
            return tokens.unflatten(0, frames.shape[:2]), torch.full((len(frames),), frames.shape[1])
        windows, lengths = number_windows(labels, real, self.ctc.blank_id)
        # The windows of all clips, end to end. (B, F, E) -> (N, E)
        offsets = lengths.cumsum(0) - lengths
        sizes = (windows + offsets[:, None])[real].bincount(minlength=int(lengths.sum())).tolist()
        tokens = self.proj(self._read(torch.split(frames[real], sizes)))
        return nn.utils.rnn.pad_sequence(list(tokens.split(lengths.tolist())), batch_first=True), lengths

    def _read(self, windows: Sequence[Tensor]) -> Tensor:
        """Read windows (K_i, E) into (N, H)."""
        # Windows whose sizes differ by less than a factor of two lie together: one long silence would
        # otherwise pad every window to its length.
        alike: dict[int, list[int]] = {}
        for number, window in enumerate(windows):
            alike.setdefault((len(window) - 1).bit_length(), []).append(number)
        device = windows[0].device
        batches = [Padded.stack([windows[n] for n in numbers]).to(device) for numbers in alike.values()]
        read: Tensor = self.qformer(
            self.query.expand(len(windows), -1, -1), [(batch.values, batch.mask()) for batch in batches]
        )
        order = torch.tensor([number for numbers in alike.values() for number in numbers])
        return read[order.argsort().to(device), 0]


def number_windows(labels: Tensor, real: Tensor, blank_id: int) -> tuple[Tensor, Tensor]:
    """Say which window each frame lies in.

    Args:
        labels: (B, F).
        real: (B, F) bool, false past the lengths.
        blank_id: The label that ends no window.

    Returns:
        (B, F) numbers of windows, unspecified past the lengths, and (B,) how many each clip has.
    """
    goes_on = torch.zeros_like(real)
    goes_on[:, :-1] = (labels[:, 1:] == labels[:, :-1]) & real[:, 1:]
    ends = real & (labels != blank_id) & ~goes_on
    lengths = ends.sum(1).clamp(min=1)
    # A frame that ends a window is still part of it; frames past the last end join the last window.
    windows = (ends.cumsum(1) - ends.long()).minimum(lengths[:, None] - 1)
    return windows, lengths

"""Masks over spans of frames and of channels, by which wav2vec 2.0 and its kin are trained and fine-tuned."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kikimimi import Padded, PositiveInt, Probability, WeightsError, load_state
from kikimimi_encoders.pretrained import PretrainedConfig, PretrainedEncoder

MIN_TIME_SPANS = 2
"""Fewest spans of frames in a clip, where as many fit: that of fairseq and of transformers."""


@dataclass(kw_only=True, frozen=True)
class MaskingConfig(PretrainedConfig):
    """Options of an encoder whose frames are masked while it trains."""

    mask_time_prob: Probability = 0.0
    """Share of the frames that spans of a learned vector replace in training; spans may overlap."""
    mask_time_length: PositiveInt = 10
    """Length of such a span [frames]; read only with `mask_time_prob`."""
    mask_feature_prob: Probability = 0.0
    """Share of the channels that spans set to zero in training; spans may overlap."""
    mask_feature_length: PositiveInt = 10
    """Length of such a span [channels]; read only with `mask_feature_prob`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for kind in ("time", "feature"):
            prob, length = getattr(self, f"mask_{kind}_prob"), getattr(self, f"mask_{kind}_length")
            if not prob and length != 10:
                raise ValueError(f"mask_{kind}_length is read only with mask_{kind}_prob above 0")


class SpanMasking(nn.Module):
    """Replaces spans of frames by a learned vector and sets spans of channels to zero, while training.

    SpecAugment (Park et al. 2019) on the projected frames, as Baevski et al. 2020 (arXiv 2006.11477, section
    4.3) do; the number of spans follows `_compute_mask_indices` of transformers and fairseq. Random numbers
    come from torch's generator on the CPU.

    Args:
        config: Shares in masks, were the spans never to overlap, and lengths of spans.
        dim: Width E of the frames.
    """

    masked_spec_embed: nn.Parameter | None

    def __init__(self, config: MaskingConfig, dim: int) -> None:
        super().__init__()
        self.time_prob, self.time_length = config.mask_time_prob, config.mask_time_length
        self.feature_prob, self.feature_length = config.mask_feature_prob, config.mask_feature_length
        self.masked_spec_embed = nn.Parameter(torch.empty(dim).uniform_()) if self.time_prob else None

    def load(self, state: Mapping[str, Tensor], *, source: str) -> None:
        """Fill the vector, where there is one, from the tensors of a checkpoint.

        Raises:
            WeightsError: The checkpoint has none.
        """
        if self.masked_spec_embed is None:
            return
        if "masked_spec_embed" not in state:
            raise WeightsError(
                f"{source}: holds no masked_spec_embed, the vector that mask_time_prob puts in place of "
                "frames. Set mask_time_prob to 0"
            )
        load_state(self, {"masked_spec_embed": state["masked_spec_embed"]}, source=source)

    def forward(self, frames: Padded) -> Tensor:
        """Mask (B, F, E) frames in training; in eval mode they come back as they are."""
        values = frames.values
        if not self.training:
            return values
        if self.masked_spec_embed is not None:
            clips = [
                spans(length, values.shape[1], self.time_prob, self.time_length, MIN_TIME_SPANS)
                for length in frames.lengths.tolist()
            ]
            mask = torch.stack(clips).to(values.device)[..., None]
            # With a `where` the vector has a gradient (zero) also where no frame happens to be masked.
            values = torch.where(mask, self.masked_spec_embed.to(values.dtype), values)
        if self.feature_prob:
            dim = values.shape[-1]
            channels = [
                spans(dim, dim, self.feature_prob, self.feature_length, 0) for _ in range(len(frames))
            ]
            values = values.masked_fill(torch.stack(channels).to(values.device)[:, None], 0.0)
        return values


class MaskedEncoder(PretrainedEncoder):
    """Base of the encoders with these options; they are built of transformers' config."""

    stem = "feature_projection"

    def mask(self, dim: int) -> None:
        """Build the masks of frames `dim` wide where the config asks for any."""
        if self.config.mask_time_prob or self.config.mask_feature_prob:
            self.augmentation = SpanMasking(self.config, dim)

    def fill(self, state: Mapping[str, Tensor], source: str) -> None:
        """Fill the model, and the vector that stands for masked frames."""
        super().fill(state, source)
        if isinstance(self.augmentation, SpanMasking):
            self.augmentation.load(state, source=source)

    def unread(self) -> list[str]:
        """Return patterns of the tensors that the model does not have."""
        return ["masked_spec_embed", *super().unread()]


def spans(length: int, width: int, prob: float, span: int, at_least: int) -> Tensor:
    """Draw a mask of spans that start at random and may overlap.

    Args:
        length: Positions that may be masked; none is if a span does not fit.
        width: Positions in all.
        prob: Number of spans times their length, as a share of `length`; rounded up or down at random.
        span: Length of a span.
        at_least: Fewest spans, where they fit.

    Returns:
        (width,) bool, true where masked.
    """
    number = max(int(prob * length / span + float(torch.rand(()))), at_least)
    number = min(number, length // span)
    mask = torch.zeros(width, dtype=torch.bool)
    if number:
        starts = torch.randperm(length - span + 1)[:number]
        mask[(starts[:, None] + torch.arange(span)).flatten()] = True
    return mask

"""A CTC head over encoder frames: its labels, where it comes from, and its loss."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kikimimi import (
    AdapterContext,
    CharacterVocabulary,
    ComponentConfig,
    NonNegativeFloat,
    Vocabulary,
    WeightsError,
    WeightsFiles,
    find_weights,
)
from kikimimi.weights import CONFIG_PATTERNS, load_state
from kikimimi_adapters.ctc.vocabulary import FILE, HeadVocabulary, build_vocabulary

_HEADS = ("lm_head.", "ctc_head.")
"""Where transformers' CTC models hold their head: Wav2Vec2, HuBERT, WavLM and so on; Parakeet."""

Config = TypeVar("Config", bound="CTCConfig")


@dataclass(kw_only=True, frozen=True)
class CTCConfig(ComponentConfig):
    """Options of adapters with a CTC head."""

    vocabulary: Literal["characters", "bytes", "llm", "head"] = "characters"
    """What the labels are: the characters of the training data, the 256 bytes of UTF-8, the LLM's tokens, or
    what the head of `head_weights` knows."""
    loss_weight: NonNegativeFloat = 1.0
    """What the CTC loss is multiplied by. 0, no loss, needs `freeze_head`."""
    head_weights: str = "random"
    """A CTC model of transformers whose head (a Linear, or Parakeet's) is taken: a Hub id, a folder,
    `package:...`; or `random`. Goes with `vocabulary: head`."""
    freeze_head: bool = False
    """Whether the head stays as it is loaded. Needs `head_weights`."""

    def __post_init__(self) -> None:
        if self.vocabulary == "head" and self.head_weights == "random":
            raise ValueError("vocabulary: head needs head_weights, a model that has a CTC head")
        if self.vocabulary != "head" and self.head_weights != "random":
            raise ValueError(
                f"head_weights brings its own labels: set vocabulary: head, not {self.vocabulary!r}"
            )
        if self.freeze_head and self.head_weights == "random":
            raise ValueError("freeze_head needs head_weights: a random head would never learn")
        if self.loss_weight == 0 and not self.freeze_head:
            raise ValueError("loss_weight: 0 needs freeze_head: without a loss the head would never learn")


def tiny_head(config: Config) -> Config:
    """Return a config whose head is random, of bytes, and learns: it can be built without an LLM or data."""
    return replace(
        config,
        vocabulary="bytes",
        loss_weight=config.loss_weight or 1.0,
        head_weights="random",
        freeze_head=False,
    )


class CTCHead(nn.Linear):
    """Maps frames to the scores of the labels, blank among them."""

    def forward(self, input: Tensor) -> Tensor:
        """Score (B, F, E) frames as (B, F, labels)."""
        return super().forward(input)


class CTC(nn.Module):
    """A CTC head with its labels and its loss (Graves et al. 2006).

    The labels of a new head are the ids of its vocabulary, and blank comes after them: `blank_id` is the
    vocabulary's size. A head of `head_weights` keeps its own (`pad_token_id` of its config.json).

    Attributes:
        head: The head.
        vocabulary: Spells the transcripts.
        blank_id: The label of a frame at which nothing new is said.

    Raises:
        ValueError: There is nothing to build the vocabulary from.
        WeightsError: `head_weights` holds no head that can be used.
    """

    def __init__(self, config: CTCConfig, context: AdapterContext) -> None:
        super().__init__()
        self.loss_weight = config.loss_weight
        self.source = config.head_weights
        files = find_weights(self.source, patterns=CONFIG_PATTERNS)
        self.vocabulary: Vocabulary
        if files is None:
            self.vocabulary = build_vocabulary(config.vocabulary, context)
            self.blank_id = self.vocabulary.size
            size = self.vocabulary.size + 1
        else:
            size, self.blank_id = _read_sizes(files)
            self.vocabulary = HeadVocabulary.read(files, size, self.blank_id)
        self._characters = self.vocabulary if config.vocabulary == "characters" else None
        self.head = CTCHead(context.in_dim, size)
        self.head.requires_grad_(not config.freeze_head)

    def load_weights(self) -> None:
        """Fill the head from `head_weights`.

        Raises:
            WeightsError: There is no head, or it does not fit.
        """
        files = find_weights(self.source)
        if files is None:
            return
        for prefix in _HEADS:
            state = files.state_dict(prefix)
            if state:
                # Parakeet's is a convolution over single frames: (labels, E, 1).
                flat = {name: value.flatten(1) if value.dim() > 1 else value for name, value in state.items()}
                load_state(self.head, flat, source=f"{files.source}: {prefix[:-1]}")
                return
        raise WeightsError(
            f"{files.source}: holds no CTC head. Read are the tensors lm_head.weight and lm_head.bias "
            "(Wav2Vec2ForCTC, HubertForCTC, WavLMForCTC ...) or ctc_head.weight and ctc_head.bias "
            "(ParakeetForCTC)"
        )

    def pretrained_names(self, prefix: str) -> set[str]:
        """Return the names of the parameters that `load_weights` fills, as the adapter calls them."""
        return (
            set() if self.source == "random" else {f"{prefix}{name}" for name, _ in self.named_parameters()}
        )

    def save_assets(self, folder: Path) -> None:
        """Write a vocabulary that was built from the data."""
        if isinstance(self._characters, CharacterVocabulary):
            self._characters.save(folder / FILE)

    def labels(self, logits: Tensor) -> Tensor:
        """Return the best label of each frame, (B, F) int64. No gradient passes."""
        return logits.detach().argmax(-1)

    def spell(
        self, lengths: Sequence[int], transcripts: Sequence[str | None]
    ) -> tuple[dict[int, list[int]], dict[str, int]]:
        """Return the labels of the clips that can be aligned, and the counts of those that cannot.

        Args:
            lengths: (B) frames of each clip.
            transcripts: (B) what is said, None where that is not known.
        """
        spelled: dict[int, list[int]] = {}
        counts = {"ctc_without_transcript": 0, "ctc_infeasible": 0}
        for clip, (transcript, length) in enumerate(zip(transcripts, lengths, strict=True)):
            if transcript is None:
                counts["ctc_without_transcript"] += 1
                continue
            ids = self.vocabulary.encode(transcript)
            if len(ids) + sum(a == b for a, b in pairwise(ids)) > length:
                counts["ctc_infeasible"] += 1
            else:
                spelled[clip] = ids
        return spelled, counts

    def loss(
        self, logits: Tensor, lengths: Tensor, transcripts: Sequence[str | None] | None
    ) -> tuple[dict[str, Tensor], dict[str, int]]:
        """Score transcripts.

        The loss is `torch.nn.functional.ctc_loss` with `reduction="mean"` over the clips that can be aligned:
        each clip's negative log-likelihood over its number of labels, then the mean; times `loss_weight`. It
        is computed in float32.

        Args:
            logits: (B, F, labels), finite also past the lengths.
            lengths: (B,) frames of each clip.
            transcripts: What is said, None where that is not known; None for no loss at all.

        Returns:
            The loss by name: zero where no clip can be aligned, so that every rank has a gradient for every
            parameter. And the counts of clips that are left out: those without a transcript, and those with
            more labels (and blanks between equal ones) than frames.
        """
        if transcripts is None or self.loss_weight == 0:
            return {}, {}
        spelled_of, counts = self.spell(lengths.tolist(), transcripts)
        clips, spelled = list(spelled_of), list(spelled_of.values())
        if not clips:
            return {"ctc": (logits.float() * 0).sum()}, counts
        scores = logits[clips].float().log_softmax(-1).transpose(0, 1)  # (F, clips, labels)
        loss = F.ctc_loss(
            scores,
            torch.tensor(
                [label for ids in spelled for label in ids], dtype=torch.int64, device=scores.device
            ),
            lengths[clips].to(scores.device),
            torch.tensor([len(ids) for ids in spelled], dtype=torch.int64, device=scores.device),
            blank=self.blank_id,
            reduction="mean",
        )
        return {"ctc": self.loss_weight * loss}, counts


def _read_sizes(files: WeightsFiles) -> tuple[int, int]:
    """Return the number of labels and the blank's."""
    config: dict[str, Any] = files.read_json("config.json")
    found = []
    for name in ("vocab_size", "pad_token_id"):
        if not isinstance(config.get(name), int):
            raise WeightsError(f"{files.source}: config.json has no {name}, as those of CTC models have")
        found.append(config[name])
    size, blank = found
    if not 0 <= blank < size:
        raise WeightsError(f"{files.source}: pad_token_id {blank} is no label of {size}")
    return size, blank

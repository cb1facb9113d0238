"""A CTC head over encoder frames: its labels, its loss, and adapters whose tokens follow what it labels."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kikimimi import (
    CONFIG_PATTERNS,
    Adapter,
    AdapterContext,
    AdapterOutput,
    BytesVocabulary,
    CharacterVocabulary,
    ComponentConfig,
    FrameLabels,
    NonNegativeFloat,
    Padded,
    TokenizerVocabulary,
    Units,
    Vocabulary,
    WeightsError,
    WeightsFiles,
    find_weights,
    load_state,
)
from kikimimi_adapters.frame_groups import zero_past_lengths

VOCABULARY_FILE = "ctc_vocabulary.json"
"""Where the characters of the training data are kept."""
_HEADS = ("lm_head.", "ctc_head.")
"""Where transformers' CTC models hold their head: Wav2Vec2, HuBERT, WavLM and so on; Parakeet."""

Config = TypeVar("Config", bound="CTCConfig")


class HeadVocabulary(Vocabulary):
    """The characters of a CTC head: `vocab.json` as Wav2Vec2's tokenizer writes it.

    A character that is not in it as it stands is looked for in upper and in lower case, and is the unknown
    token otherwise. A space is the word delimiter.

    Args:
        id_of: The label of each token.
        unknown: The label of the unknown token.
        delimiter: What a space is written as.
        size: Labels of the head.
    """

    def __init__(self, id_of: dict[str, int], unknown: int, delimiter: str, size: int) -> None:
        self.size = size
        self._id_of = id_of
        self._unknown = unknown
        self._delimiter = delimiter
        self._token_of = {label: token for token, label in id_of.items()}

    @classmethod
    def read(cls, files: WeightsFiles, size: int, blank_id: int) -> Vocabulary:
        """Read the labels of a head from `vocab.json`, or from `tokenizer.json` where there is only that.

        Args:
            files: The files of a CTC model.
            size: Labels that its head has.
            blank_id: The label that no character may become.

        Raises:
            WeightsError: There is neither file, or it does not fit.
        """
        if "vocab.json" not in files.files:
            if "tokenizer.json" not in files.files:
                raise WeightsError(
                    f"{files.source}: says nowhere what the labels of its head are. Looked for "
                    "vocab.json and tokenizer.json"
                )
            from transformers import PreTrainedTokenizerFast

            tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(files.path("tokenizer.json")))
            return TokenizerVocabulary(tokenizer, size)
        id_of: dict[str, Any] = files.read_json("vocab.json")
        wrong = [
            token for token, label in id_of.items() if not (isinstance(label, int) and 0 <= label < size)
        ]
        if wrong:
            raise WeightsError(
                f"{files.source}: vocab.json has labels that are no numbers below {size}, the number of the "
                f"head's: {', '.join(map(repr, wrong[:5]))}. A vocabulary for each language is not read"
            )
        settings: dict[str, Any] = {}
        if "tokenizer_config.json" in files.files:
            settings = files.read_json("tokenizer_config.json")
        unknown = settings.get("unk_token", "<unk>")
        # Older files write a token as {"content": "<unk>", ...}.
        unknown = unknown["content"] if isinstance(unknown, dict) else unknown
        if unknown not in id_of:
            raise WeightsError(
                f"{files.source}: vocab.json has no {unknown!r}, which stands for a character that the "
                "head does not know"
            )
        unknown_id = id_of[unknown]
        id_of = {token: label for token, label in id_of.items() if label != blank_id}
        return cls(id_of, unknown_id, settings.get("word_delimiter_token") or "|", size)

    def encode(self, text: str) -> list[int]:
        """Return one label per character."""
        return [self._label(self._delimiter if character == " " else character) for character in text]

    def _label(self, character: str) -> int:
        for spelled in (character, character.upper(), character.lower()):
            if spelled in self._id_of:
                return self._id_of[spelled]
        return self._unknown

    def decode(self, ids: Sequence[int]) -> str:
        """Return the tokens of labels."""
        return "".join(self._token_of.get(label, "") for label in ids).replace(self._delimiter, " ")


def build_vocabulary(name: str, context: AdapterContext) -> Vocabulary:
    """Return the vocabulary of a new head.

    Raises:
        ValueError: There is nothing to build it from.
    """
    if name == "bytes":
        return BytesVocabulary()
    if name == "llm":
        if context.vocabulary is None:
            raise ValueError(
                "vocabulary: llm needs an LLM, and there is none here. Allowed: characters, bytes"
            )
        return context.vocabulary
    if context.assets is not None and (context.assets / VOCABULARY_FILE).exists():
        return CharacterVocabulary.load(context.assets / VOCABULARY_FILE)
    if context.texts is None:
        raise ValueError(
            "vocabulary: characters is built from the transcripts of the training data, and there are none "
            "here. Allowed without: bytes, llm"
        )
    return CharacterVocabulary.of_texts(context.texts())


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
        files = find_weights(config.head_weights, patterns=CONFIG_PATTERNS)
        self.vocabulary: Vocabulary
        if files is None:
            self.vocabulary = build_vocabulary(config.vocabulary, context)
            self.blank_id = self.vocabulary.size
            size = self.vocabulary.size + 1
        else:
            size, self.blank_id = _read_sizes(files)
            self.vocabulary = HeadVocabulary.read(files, size, self.blank_id)
        self.head = CTCHead(context.in_dim, size)
        self.head.requires_grad_(not config.freeze_head)

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
            WeightsError: There is no head, or it does not fit.
        """
        files = find_weights(self.config.head_weights)
        if files is None:
            return
        for prefix in _HEADS:
            state = files.state_dict(prefix)
            if state:
                # Parakeet's is a convolution over single frames: (labels, E, 1).
                flat = {name: value.flatten(1) if value.dim() > 1 else value for name, value in state.items()}
                load_state(self.ctc.head, flat, source=f"{files.source}: {prefix[:-1]}")
                return
        raise WeightsError(
            f"{files.source}: holds no CTC head. Read are the tensors lm_head.weight and lm_head.bias "
            "(Wav2Vec2ForCTC, HubertForCTC, WavLMForCTC ...) or ctc_head.weight and ctc_head.bias "
            "(ParakeetForCTC)"
        )

    def pretrained_names(self) -> set[str]:
        """Return the names of the head's parameters where `head_weights` names a source."""
        random = self.config.head_weights == "random"
        return set() if random else {f"ctc.{name}" for name, _ in self.ctc.named_parameters()}

    def save_assets(self, folder: Path) -> None:
        """Write the characters that the head knows, where they come from the data."""
        vocabulary = self.ctc.vocabulary
        if self.config.vocabulary == "characters" and isinstance(vocabulary, CharacterVocabulary):
            vocabulary.save(folder / VOCABULARY_FILE)

    def label_frames(self, features: Padded) -> FrameLabels:
        """Return the log-probabilities of the head's labels for (B, F, E) frames, in float32."""
        scores = self.ctc.head(zero_past_lengths(features)).float().log_softmax(-1)
        return FrameLabels(Padded(scores, features.lengths), self.ctc.blank_id, self.ctc.vocabulary)

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
        tokens, lengths = self.compress(frames, features.mask(), logits.detach().argmax(-1))
        return AdapterOutput(Padded(tokens, lengths.to(features.lengths.device)), losses, counts)

"""The contracts of the three parts of a speech-aware text LM: encoder, adapter and LLM.

Shape legend, used in every docstring of this project:

    B  clips or conversations          E  encoder width
    S  samples (mono float32 in        T  audio tokens (adapter output positions)
       [-1, 1], 16 kHz unless the      L  text tokens
       encoder says otherwise)         N  packed positions (audio and text)
    F  encoder frames                  D  LLM width
    C  clips of a micro-batch          V  vocabulary
    M  selected positions

Values never travel without lengths: `Padded(values, lengths)`. Entries past a length are unspecified, and
no component's result may depend on them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from kikimimi.conversation import Conversation
from kikimimi.generation import Generation as Generation


@dataclass(frozen=True)
class Padded:
    """Sequences of unequal length in one tensor.

    Attributes:
        values: (B, longest, ...).
        lengths: (B,) int64; `values[i, lengths[i]:]` is unspecified.
    """

    values: Tensor
    lengths: Tensor

    @classmethod
    def stack(cls, sequences: Sequence[Tensor]) -> Self:
        """Pad sequences of shape (length, ...) with zeros on the right and stack them."""
        lengths = torch.tensor([len(sequence) for sequence in sequences], dtype=torch.int64)
        return cls(nn.utils.rnn.pad_sequence(list(sequences), batch_first=True), lengths)

    def __len__(self) -> int:
        return self.values.shape[0]

    def unstack(self) -> list[Tensor]:
        """Return the sequences without their padding."""
        return [row[:length] for row, length in zip(self.values, self.lengths.tolist(), strict=True)]

    def mask(self) -> Tensor:
        """Return (B, longest) bool, true where a value is real."""
        positions = torch.arange(self.values.shape[1], device=self.values.device)
        return positions < self.lengths.to(self.values.device)[:, None]

    def to(self, device: torch.device) -> Self:
        """Move the values and the lengths to a device."""
        return type(self)(self.values.to(device), self.lengths.to(device))


@dataclass(kw_only=True, frozen=True)
class ComponentConfig:
    """Base of every component's nested `Config`: the options a recipe may set, each with a default."""


class Component(nn.Module, ABC):
    """What encoder, adapter and LLM have in common.

    A component is built by its constructor (the architecture: cheap, works on the meta device) and then
    filled by `load_weights`; without a pretrained source the constructor's random weights stay. It lives in
    one file with its nested `Config`.
    """

    Config: ClassVar[type[ComponentConfig]]

    @classmethod
    @abstractmethod
    def tiny_config(cls, config: Any | None = None) -> ComponentConfig:
        """Return a config with random weights and the smallest sizes that keep `config`'s structure.

        Used by the compliance kit and by the tests of every recipe: no download, fewer than a million
        parameters. `config` is one of this class's `Config`, or None for the defaults.
        """

    def load_weights(self) -> None:
        """Fill the parameters from the source that the config names. Default: nothing to load."""

    @abstractmethod
    def shard_classes(self) -> set[type[nn.Module]]:
        """Return the block classes that FSDP wraps one by one; each occurs in `modules()`."""

    def save_assets(self, folder: Path) -> None:
        """Write what, besides weights, rebuilding this component needs (a tokenizer). Default: nothing."""


class Encoder(Component):
    """Speech encoder: waveform to frames. Owns its front end, so that data loaders deliver waveforms only.

    Attributes:
        sample_rate: Expected sampling rate [Hz].
        frame_rate: Output frames per second [Hz].
        dim: Output width E.
        max_seconds: Longest clip it can take [s]; None means unbounded.
    """

    sample_rate: int
    frame_rate: float
    dim: int
    max_seconds: float | None

    @abstractmethod
    def num_frames(self, num_samples: int) -> int:
        """Return the number of output frames F for a clip of `num_samples` samples: at least 1."""

    @abstractmethod
    def forward(self, audio: Padded) -> Padded:
        """Encode clips.

        Args:
            audio: (B, S) float32 waveforms with lengths in samples.

        Returns:
            (B, F, E) with lengths in frames, `num_frames(S)` for each clip.

        Raises:
            AudioError: A clip is longer than `max_seconds`.
        """


@dataclass(frozen=True, kw_only=True)
class AdapterContext:
    """What the assembly knows when it builds an adapter; none of it stands in a recipe.

    Attributes:
        in_dim: The encoder's width E.
        out_dim: The LLM's width D.
        frame_rate: The encoder's frame rate [Hz].
    """

    in_dim: int
    out_dim: int
    frame_rate: float


@dataclass(frozen=True)
class AdapterOutput:
    """What an adapter returns.

    Attributes:
        tokens: (B, T, D) audio tokens with their lengths, which may depend on the content.
        losses: Named auxiliary losses, scalars that are added to the training loss.
    """

    tokens: Padded
    losses: dict[str, Tensor] = field(default_factory=dict)


class Adapter(Component):
    """Maps encoder frames to audio tokens of the LLM's width. Built as `Adapter(config, context)`."""

    def __init__(self, config: Any, context: AdapterContext) -> None:
        super().__init__()
        self.config = config
        self.context = context

    @abstractmethod
    def max_tokens(self, num_frames: int) -> int:
        """Return the largest number of tokens T that `num_frames` frames can become: at least 1.

        Batching, memory planning and serving derive from it. Exact for adapters whose output length does
        not depend on the content.
        """

    @abstractmethod
    def forward(self, features: Padded) -> AdapterOutput:
        """Adapt (B, F, E) frames to (B, T, D) tokens, with 1 <= T <= `max_tokens(F)` for each clip."""


@dataclass(frozen=True)
class Rendered:
    """A conversation as an LLM reads it.

    Attributes:
        ids: (L,) token ids; the id at a slot is a placeholder that is never embedded.
        loss: (L,) true where the token is one that the assistant has to produce (its content and the tokens
            that end its turn).
        slots: For each audio part, in order, the position in `ids` that its audio tokens replace.
    """

    ids: list[int]
    loss: list[bool]
    slots: list[int]


@dataclass(frozen=True, kw_only=True)
class LLMContext:
    """What the assembly knows when it builds an LLM.

    Attributes:
        texts: Yields every text of the training data, for a tokenizer that is built from it; None where
            there is no data.
        assets: Folder that `save_assets` filled in an earlier build, or None.
    """

    texts: Callable[[], Iterable[str]] | None = None
    assets: Path | None = None


class LLM(Component):
    """A text LLM with its tokenizer. Built as `LLM(config, context)`.

    Attributes:
        dim: Embedding width D.
        vocab_size: V.
        context_length: Longest sequence it can take [positions]; None means unbounded.
    """

    dim: int
    vocab_size: int
    context_length: int | None

    def __init__(self, config: Any, context: LLMContext) -> None:
        super().__init__()
        self.config = config
        self.context = context

    @abstractmethod
    def render(self, conversation: Conversation, *, generate: bool = False) -> Rendered:
        """Render a conversation through the LLM's own chat template.

        Args:
            conversation: The turns; text of the user can never become a control token.
            generate: End with the header of an assistant turn, for the LLM to continue.
        """

    @abstractmethod
    def embed(self, ids: Tensor) -> Tensor:
        """Embed (L,) token ids to (L, D)."""

    @abstractmethod
    def forward(self, embeddings: Tensor, lengths: Tensor, select: Tensor) -> Tensor:
        """Run sequences laid end to end; positions restart and attention is blocked between them.

        Args:
            embeddings: (N, D).
            lengths: (B,) int64 positions of each sequence; they add up to N.
            select: (M,) int64 packed positions, ascending.

        Returns:
            (M, V) logits of the token that follows each selected position.
        """

    @abstractmethod
    def generate(self, prompts: Sequence[Tensor], generation: Generation) -> list[list[int]]:
        """Continue each prompt (L_i, D), batched, with a key-value cache.

        Returns:
            The new ids of each prompt, without the ids that end a turn.
        """

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Turn generated ids into text, leaving out control tokens."""

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

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from kikimimi.contracts.conversation import Conversation, Role
from kikimimi.contracts.generation import Generation as Generation
from kikimimi.contracts.layers import LayerCombiner
from kikimimi.contracts.options import Options
from kikimimi.contracts.running_batch import RunningBatch
from kikimimi.contracts.vocabulary import Vocabulary

# Which functions `torch.device` acts on is decided when the first one is entered, for good. transformers has
# a function of its own in the place of `torch.linspace` while it reads a model: were that the first, what a
# component makes by `torch.linspace` on the meta device would be on the CPU.
with torch.device("meta"):
    torch.empty(0)


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
class ComponentConfig(Options):
    """Base of every component's nested `Config`: the options a recipe may set, each with a default."""


class Component(nn.Module, ABC):
    """What encoder, adapter and LLM have in common.

    A component is built by its constructor (the architecture: cheap, works on the meta device) and then
    filled by `load_weights`; without a pretrained source the constructor's random weights stay. It lives in
    one file with its nested `Config`.

    `forward` is also run on the meta device, to count operations and memory: values are there, lengths on the
    CPU. Where a length depends on content, which is not known there, it is the greatest possible. A component
    that does not run there is counted by its matrices.

    Attributes:
        fills_pieces: Whether `load_weights` fills parameters through `kikimimi.weights.load_state` alone,
            which copies only the rows that this process holds. Then a model that is sharded over processes
            is built without memory and filled piece by piece; else every process builds it whole first.
    """

    Config: ClassVar[type[ComponentConfig]]
    fills_pieces: ClassVar[bool] = False

    @classmethod
    def tiny_config(cls, config: Any | None = None) -> Any:
        """Return a config with random weights and the smallest sizes that keep `config`'s structure.

        Used by the compliance kit and by the tests of every recipe: no download, fewer than a million
        parameters. `config` is one of this class's `Config`, or None for the defaults. Default: `config`
        itself, for a component that no option makes large.
        """
        return cls.Config() if config is None else config

    def load_weights(self) -> None:
        """Fill the parameters from the source that the config names. Default: nothing to load."""

    def pretrained_names(self) -> set[str]:
        """Return the names of the parameters that `load_weights` fills.

        A checkpoint refers to the source of these, unless a stage trains them, and holds all others. Default:
        all parameters where the config's `weights` names a source, none where it is `random` or not there.
        """
        weights = getattr(getattr(self, "config", None), "weights", "random")
        return set() if weights == "random" else {name for name, _ in self.named_parameters()}

    def shard_classes(self) -> set[type[nn.Module]]:
        """Return the block classes that FSDP wraps one by one; each occurs in `modules()`.

        Default: those of the component's own children that hold parameters; what stands in a list or a
        dictionary of modules counts as a child. A component whose repeated layers lie deeper names these.
        """
        return {type(block) for block in own_blocks(self)}

    def save_assets(self, folder: Path) -> None:
        """Write what, besides weights, rebuilding this component needs (a tokenizer). Default: nothing."""


def own_blocks(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the children of a module that hold parameters and can be called; lists of modules cannot."""
    for child in module.children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from own_blocks(child)
        elif (
            not isinstance(child, nn.ParameterList | nn.ParameterDict)
            and next(child.parameters(), None) is not None
        ):
            yield child


class Encoder(Component):
    """Speech encoder: waveform to frames. Owns its front end, so that data loaders deliver waveforms only.

    Attributes:
        sample_rate: Expected sampling rate [Hz].
        frame_rate: Output frames per second [Hz].
        dim: Output width E, all the layers that it gives together.
        max_seconds: Longest clip it can take [s]; None means unbounded.
        num_concat_layers: Layers that stand side by side in the output, all of one width.
        padded_seconds: What every clip is padded to inside [s], for the account of what padding costs; None
            means that a clip costs its own length.
        augmentation: Changes the input at random while training (SpecAugment); None means nothing does. It
            works also where the encoder itself is frozen, so it has to be a module that looks at its own
            `training`.
    """

    sample_rate: int
    frame_rate: float
    dim: int
    max_seconds: float | None

    def __init__(self) -> None:
        super().__init__()
        self.num_concat_layers = 1
        self.padded_seconds: float | None = None
        self.augmentation: nn.Module | None = None

    def downstream_names(self) -> set[str]:
        """Return the names of the parameters that are learnt downstream, as the adapter is.

        Every stage that trains the adapter trains them with it, though the rest of the encoder is frozen;
        they are fp32 whatever the encoder is. Default: the weights of every `LayerCombiner` inside.
        """
        return {
            f"{path}.{name}" if path else name
            for path, module in self.named_modules()
            if isinstance(module, LayerCombiner)
            for name, _ in module.named_parameters()
        }

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
        in_dim: The encoder's width E, all the layers that it gives together.
        out_dim: The LLM's width D.
        frame_rate: The encoder's frame rate [Hz].
        num_concat_layers: Encoder layers side by side in E, each `in_dim` / `num_concat_layers` wide.
        vocabulary: The LLM's tokens; None where no LLM is at hand.
        texts: Yields every text of the training data, transcripts included, for a vocabulary that is built
            from it; None where there is no data.
        assets: Folder that `save_assets` filled in an earlier build, or None.
    """

    in_dim: int
    out_dim: int
    frame_rate: float
    num_concat_layers: int = 1
    vocabulary: Vocabulary | None = None
    texts: Callable[[], Iterable[str]] | None = None
    assets: Path | None = None


@dataclass(frozen=True)
class Units:
    """What a loss is the mean over, so that a step can be the mean over all of them wherever they lie.

    Attributes:
        unit: The noun: ``tokens``, ``pairs``, ``clips``.
        number: How many of them a micro-batch holds.
    """

    unit: str
    number: int


@dataclass(frozen=True)
class AdapterOutput:
    """What an adapter returns.

    Attributes:
        tokens: (B, T, D) audio tokens with their lengths, which may depend on the content.
        losses: Named auxiliary losses, scalars that are added to the training loss: means over what
            `Adapter.units` says.
        counts: Named counts of this batch to write into the metrics, summed (clips without a loss, say).
    """

    tokens: Padded
    losses: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class FrameLabels:
    """What a CTC head says of encoder frames.

    Attributes:
        scores: (B, F, labels) log-probabilities, and the lengths of the clips.
        blank_id: The label of a frame at which nothing new is said.
        vocabulary: Spells texts in the other labels.
    """

    scores: Padded
    blank_id: int
    vocabulary: Vocabulary


class Adapter(Component):
    """Maps encoder frames to audio tokens of the LLM's width. Built as `Adapter(config, context)`.

    Attributes:
        uses_transcripts: Whether `forward` is to be told what is said in the clips, as alignment losses need
            it: then it takes a second argument, see there.
    """

    def __init__(self, config: Any, context: AdapterContext) -> None:
        super().__init__()
        self.config = config
        self.context = context
        self.uses_transcripts = False

    @abstractmethod
    def max_tokens(self, num_frames: int) -> int:
        """Return the largest number of tokens T that `num_frames` frames can become: at least 1.

        Batching, memory planning and serving derive from it. Exact for adapters whose output length does
        not depend on the content.
        """

    @abstractmethod
    def forward(self, features: Padded) -> AdapterOutput:
        """Adapt (B, F, E) frames to (B, T, D) tokens, with 1 <= T <= `max_tokens(F)` for each clip.

        An adapter with `uses_transcripts` is `forward(features, transcripts=None)`: (B) texts, None for a
        clip whose words are not known, which then has no part in the losses. All is None in generation,
        and the tokens must not depend on transcripts in eval mode.
        """

    def label_frames(self, features: Padded) -> FrameLabels | None:
        """Return what a CTC head says of (B, F, E) frames, by which words are found in time. Default: None,
        for an adapter that has no such head.
        """
        return None

    def units(self, num_frames: Sequence[int], transcripts: Sequence[str | None]) -> Units:
        """Return what the auxiliary losses of clips are means over. Default: the clips; of an adapter with
        `uses_transcripts`, those whose words are known.

        Args:
            num_frames: (B) encoder frames F of each clip.
            transcripts: (B) what is said in each, None where that is not known.
        """
        known = sum(text is not None for text in transcripts) if self.uses_transcripts else len(num_frames)
        return Units("clips", known)


SpanKind = Literal["template", "text", "audio"]
"""What stands in a span: what the LLM's template adds, written words of a turn, or the slot of one clip."""

Stretch = tuple[SpanKind, Role | None, Sequence[int], bool]
"""Ids of one kind on their way into a rendering: kind, who says them, ids, whether they are targets."""


@dataclass(frozen=True)
class Span:
    """Neighbouring ids of a rendering that are of one kind, [start, end).

    Attributes:
        kind: What they are.
        role: Who says it; None for what the template adds.
        start: Position of the first id.
        end: Position after the last one.
    """

    kind: SpanKind
    role: Role | None
    start: int
    end: int


@dataclass(frozen=True)
class Rendered:
    """A conversation as an LLM reads it.

    Attributes:
        ids: (L,) token ids; the id at a slot is a placeholder that is never embedded.
        loss: (L,) true where the token is one that the assistant has to produce (its content and the tokens
            that end its turn).
        slots: The position in `ids` that the audio tokens of each audio part replace, in order.
        spans: What stands where and who says it, covering `ids` in order; empty where the LLM does not tell.
    """

    ids: list[int]
    loss: list[bool]
    slots: list[int]
    spans: tuple[Span, ...] = ()

    @property
    def answer_start(self) -> int:
        """The position of the first target of the assistant's last turn; the length where there is none."""
        last = max((place for place, wanted in enumerate(self.loss) if wanted), default=len(self.loss))
        start = last
        while 0 < start < len(self.loss) and self.loss[start - 1]:
            start -= 1
        # Between two answers in a row, a template may write nothing that is not a target.
        said = [s.start for s in self.spans if (s.kind, s.role) == ("text", "assistant") and s.start <= last]
        return max([start, *said])

    def last_turn(self) -> Self:
        """Return the rendering with the assistant's last turn as its only targets."""
        start = self.answer_start
        return replace(self, loss=[wanted and place >= start for place, wanted in enumerate(self.loss)])

    @classmethod
    def of(cls, stretches: Iterable[Stretch]) -> Self:
        """Lay stretches of ids end to end. Neighbours that are alike are one span; each slot is its own."""
        ids: list[int] = []
        loss: list[bool] = []
        spans: list[Span] = []
        for kind, role, new, wanted in stretches:
            start = len(ids)
            ids += new
            loss += [wanted] * len(new)
            if spans and kind != "audio" and (spans[-1].kind, spans[-1].role) == (kind, role):
                start = spans.pop().start
            if start < len(ids):
                spans.append(Span(kind, role, start, len(ids)))
        return cls(ids, loss, [span.start for span in spans if span.kind == "audio"], tuple(spans))


@dataclass(frozen=True, kw_only=True)
class LLMContext:
    """What the assembly knows when it builds an LLM.

    Attributes:
        texts: Yields every text of the training data, for a tokenizer that is built from it; None where
            there is no data.
        assets: Folder that `save_assets` filled in an earlier build, or None.
        measured: The LLM is built to be measured (`kikimimi plan`), on the meta device: its shape alone
            counts, no text will be rendered, and a tokenizer that would have to be fetched may be any other.
    """

    texts: Callable[[], Iterable[str]] | None = None
    assets: Path | None = None
    measured: bool = False


class LLM(Component):
    """A text LLM with its tokenizer. Built as `LLM(config, context)`.

    Attributes:
        dim: Embedding width D.
        vocab_size: V.
        context_length: Longest sequence it can take [positions]; None means unbounded.
        causal: Whether a position sees only what stands before it. False for encoder-decoder LLMs: there
            everything up to the first selected position of a sequence is the prompt, read in both directions.
    """

    dim: int
    vocab_size: int
    context_length: int | None

    def __init__(self, config: Any, context: LLMContext) -> None:
        super().__init__()
        self.config = config
        self.context = context
        self.causal = True

    @property
    @abstractmethod
    def vocabulary(self) -> Vocabulary:
        """The tokens, for adapters that spell transcripts with them; ids from 0 to `vocab_size` - 1."""

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

        Raises:
            ValueError: It does not offer what is asked for, such as beams.
        """

    def running_batch(self) -> RunningBatch | None:
        """Return an empty batch whose answers grow a token at a time, so that people can read along.

        None, the default, is an LLM that answers whole batches only: `generate` is asked.
        """
        return None

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Turn generated ids into text, leaving out control tokens."""

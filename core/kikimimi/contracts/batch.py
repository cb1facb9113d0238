"""A micro-batch of rendered conversations with their clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Literal, Self

import torch
from torch import Tensor

from kikimimi.contracts.component import LLM, Padded, Rendered
from kikimimi.contracts.conversation import Conversation
from kikimimi.errors import DataError, KikimimiError

View = Literal["rejected", "written", "prompt", "written_prompt"]
"""What a micro-batch can hold besides its conversations: the same with their rejected answers; with what is
said in their clips in their place; without their last answers, for the LLM to give; both of the latter."""

_VIEWS: dict[View, str] = {
    "rejected": "a rejected answer",
    "written": "what is said in their clips",
    "prompt": "a prompt",
    "written_prompt": "a prompt in writing",
}
"""How messages name the views."""
_SPOKEN: tuple[View, ...] = ("rejected", "prompt")
"""The views that hold the clips of the conversations."""


@dataclass(frozen=True)
class Fault:
    """A record that is left out.

    Attributes:
        dataset: Its dataset in the recipe.
        where: Shard, byte and key.
        reason: What was wrong.
        transient: Whether it is not the record's fault (a server is away): never skipped.
    """

    dataset: str
    where: str
    reason: str
    transient: bool = False

    @property
    def message(self) -> str:
        """The place and the reason, as errors tell them."""
        return f"{self.where}: {self.reason}"

    @classmethod
    def of(cls, dataset: str, where: str, error: KikimimiError) -> Fault:
        """Make one of an error, whose message may name the place, too."""
        reason = str(error).removeprefix(where).lstrip(": ").rstrip(".")
        return cls(dataset, where, reason, transient=not isinstance(error, DataError))


@dataclass(frozen=True)
class Sample:
    """One conversation, ready for the model.

    Attributes:
        name: ``dataset/key``, for messages.
        rendered: Ids, loss mask and slots from the LLM.
        clips: A clip per slot, in order: waveforms (S,), or encoder features (F, E) from the cache.
        transcripts: What is said in each clip, None where that is not known; empty means none is known.
        views: The conversation in other forms, where an objective asks for them; they share the clips.
    """

    name: str
    rendered: Rendered
    clips: Sequence[Tensor]
    transcripts: Sequence[str | None] = ()
    views: Mapping[View, Rendered] = field(default_factory=dict)

    def __post_init__(self) -> None:
        spoken = [self.views[view] for view in _SPOKEN if view in self.views]
        for rendered in (self.rendered, *spoken):
            if len(self.clips) != len(rendered.slots):
                raise ValueError(
                    f"{self.name}: {len(self.clips)} clips for {len(rendered.slots)} audio parts"
                )
        if self.transcripts and len(self.transcripts) != len(self.clips):
            raise ValueError(f"{self.name}: {len(self.transcripts)} transcripts for {len(self.clips)} clips")


@dataclass(frozen=True)
class Rows:
    """Conversations laid end to end, before audio tokens take their slots.

    Attributes:
        ids: (L,) token ids of all conversations; slots hold a placeholder.
        loss: (L,) bool, true where the token is a target.
        lengths: (B,) text positions of each conversation, slots included.
        slots: Positions in `ids` where audio tokens go, ascending.
        clips: The clip (0 to C - 1) that fills each slot; conversations may share clips.
        answer_starts: (B,) first target of the assistant's last turn, counted from the conversation's first
            position; empty where that is not known.
    """

    ids: Tensor
    loss: Tensor
    lengths: Tensor
    slots: Tensor
    clips: Tensor
    answer_starts: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))

    def to(self, device: torch.device) -> Self:
        """Move every tensor to a device."""
        moved = {item.name: getattr(self, item.name).to(device) for item in fields(Rows)}
        return replace(self, **moved)

    @property
    def num_targets(self) -> int:
        """How many tokens are predicted: all targets but those that stand first in a conversation."""
        counted = self.loss.clone()
        counted[self.lengths.cumsum(0) - self.lengths] = False
        counted[self.slots] = False
        return int(counted.sum())

    def last_turns(self) -> Self:
        """Return the conversations with the last turn of the assistant as their only targets.

        Raises:
            ValueError: It is not known where they begin.
        """
        if len(self.answer_starts) != len(self.lengths):
            raise ValueError("it is not known where the last turns of these conversations begin")
        starts = self.lengths.cumsum(0) - self.lengths + self.answer_starts
        begin = starts.repeat_interleave(self.lengths, output_size=len(self.ids))  # (B,) -> (L,)
        return replace(self, loss=self.loss & (torch.arange(len(begin), device=begin.device) >= begin))

    def continued(self, answers: Sequence[Sequence[int]]) -> Rows:
        """Return prompts with answers, which are the only targets then.

        Args:
            answers: (B) ids, those that end the turn among them.
        """
        device = self.ids.device
        pieces: list[Tensor] = []
        for prompt, answer in zip(torch.split(self.ids, self.lengths.tolist()), answers, strict=True):
            pieces += [prompt, torch.tensor(answer, dtype=self.ids.dtype, device=device)]
        added = torch.tensor([len(answer) for answer in answers], dtype=torch.int64, device=device)  # (B,)
        # Each slot moves by what was added to the conversations before its own.
        owner = torch.searchsorted(self.lengths.cumsum(0), self.slots, right=True)
        is_answer = torch.tensor([number % 2 == 1 for number in range(len(pieces))], device=device)
        sizes = torch.tensor([len(piece) for piece in pieces], device=device)
        return Rows(
            ids=torch.cat(pieces),
            loss=is_answer.repeat_interleave(sizes),
            lengths=self.lengths + added,
            slots=self.slots + (added.cumsum(0) - added)[owner],
            clips=self.clips,
            answer_starts=self.lengths,
        )


@dataclass(frozen=True, kw_only=True)
class Batch(Rows):
    """A micro-batch: conversations with their clips.

    Attributes:
        names: (B) the conversations' names.
        audio: (C, S) waveforms, or None when there are no clips or features are given.
        features: (C, F, E) encoder output, or None.
        transcripts: (C) what is said in each clip, None where that is not known.
        views: The conversations in other forms, those that the objective asks for.
        outcomes: What became of each record that was planned for the batch, in order: None, or why it is left
            out; empty where nothing is left out.
    """

    names: tuple[str, ...]
    audio: Padded | None
    features: Padded | None
    transcripts: tuple[str | None, ...]
    views: Mapping[View, Rows] = field(default_factory=dict)
    outcomes: tuple[Fault | None, ...] = ()

    def to(self, device: torch.device) -> Self:
        """Move every tensor to a device."""
        return replace(
            super().to(device),
            audio=None if self.audio is None else self.audio.to(device),
            features=None if self.features is None else self.features.to(device),
            views={view: rows.to(device) for view, rows in self.views.items()},
        )

    def with_rejected(self) -> Batch:
        """Return the 2B conversations of preference pairs: all preferred ones, then all rejected ones.

        Both of a pair have the same clips, which are there once.

        Raises:
            ValueError: The batch holds no rejected answers.
        """
        if "rejected" not in self.views:
            raise ValueError("the batch holds no rejected answers")
        other = self.views["rejected"]
        return replace(
            self,
            names=self.names * 2,
            ids=torch.cat([self.ids, other.ids]),
            loss=torch.cat([self.loss, other.loss]),
            lengths=torch.cat([self.lengths, other.lengths]),
            slots=torch.cat([self.slots, other.slots + len(self.ids)]),
            clips=torch.cat([self.clips, other.clips]),
            answer_starts=torch.cat([self.answer_starts, other.answer_starts]),
            views={},
        )

    def in_writing(self) -> Batch:
        """Return the conversations in text alone.

        Raises:
            ValueError: The batch does not hold them.
        """
        return self._in_text("written", "conversations in writing")

    def prompts_in_writing(self) -> Batch:
        """Return the conversations in text alone, without their last answers.

        Raises:
            ValueError: The batch does not hold them.
        """
        return self._in_text("written_prompt", "prompts in writing")

    def answered(self, answers: Sequence[Sequence[int]]) -> Batch:
        """Return the conversations with other last answers, spoken and in text alone.

        Args:
            answers: (B) ids, those that end the turn among them; they are the only targets.

        Raises:
            ValueError: The batch does not hold its prompts.
        """
        if not {"prompt", "written_prompt"} <= set(self.views):
            raise ValueError("the batch does not hold its prompts, spoken and in writing")
        spoken = self.views["prompt"].continued(answers)
        written = self.views["written_prompt"].continued(answers)
        return replace(self, **vars(spoken), views={"written": written})

    def _in_text(self, view: View, what: str) -> Batch:
        if view not in self.views:
            raise ValueError(f"the batch does not hold its {what}")
        return Batch(**vars(self.views[view]), names=self.names, audio=None, features=None, transcripts=())


def render_view(llm: LLM, conversation: Conversation, view: View) -> Rendered:
    """Render a conversation as an objective asks for it.

    Raises:
        ValueError: It lacks a rejected answer, or what is said in a clip is not known.
    """
    if view == "rejected":
        if conversation.rejected is None:
            raise ValueError(
                "a preference objective needs a rejected answer, and this record has none. Give it "
                "'rejected', or leave the dataset out of the stage"
            )
        return llm.render(conversation.answered(conversation.rejected))
    shown = conversation if view == "prompt" else conversation.written()
    return llm.render(shown) if view == "written" else llm.render(shown.prompt(), generate=True)


def collate(samples: Sequence[Sample], outcomes: Sequence[Fault | None] = ()) -> Batch:
    """Lay samples end to end. Their clips are all waveforms or all features."""
    clips = [clip for sample in samples for clip in sample.clips]
    padded = Padded.stack(clips) if clips else None
    waveforms = bool(clips) and clips[0].dim() == 1
    views: dict[View, Rows] = {}
    for view, said in _VIEWS.items():
        found = [sample.views[view] for sample in samples if view in sample.views]
        if found and len(found) < len(samples):
            raise ValueError(f"{len(found)} of {len(samples)} samples have {said}: all or none")
        if found:
            views[view] = _lay(found)
    return Batch(
        **vars(_lay([sample.rendered for sample in samples])),
        names=tuple(sample.name for sample in samples),
        audio=padded if waveforms else None,
        features=None if waveforms else padded,
        transcripts=tuple(
            text for sample in samples for text in (sample.transcripts or [None] * len(sample.clips))
        ),
        views=views,
        outcomes=tuple(outcomes),
    )


def _lay(rendered: Sequence[Rendered]) -> Rows:
    """Lay renderings end to end; their slots take the clips in order."""
    lengths = [len(one.ids) for one in rendered]
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    slots = [start + slot for start, one in zip(starts, rendered, strict=True) for slot in one.slots]
    return Rows(
        ids=torch.tensor([i for one in rendered for i in one.ids], dtype=torch.int64),
        loss=torch.tensor([x for one in rendered for x in one.loss], dtype=torch.bool),
        lengths=torch.tensor(lengths, dtype=torch.int64),
        slots=torch.tensor(slots, dtype=torch.int64),
        clips=torch.arange(len(slots)),
        answer_starts=torch.tensor([one.answer_start for one in rendered], dtype=torch.int64),
    )

"""A micro-batch of rendered conversations with their clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor

from kikimimi.data.fault import Fault
from kikimimi.interfaces import Padded, Rendered


@dataclass(frozen=True)
class Sample:
    """One conversation, ready for the model.

    Attributes:
        name: ``dataset/key``, for messages.
        rendered: Ids, loss mask and slots from the LLM.
        clips: One per slot, in order: waveforms (S,), or encoder features (F, E) from the cache.
        transcripts: What is said in each clip, None where that is not known; empty means none is known.
        rejected: The conversation with the answer that preference objectives push down, where one asks for
            it; it has the same clips.
        written: The conversation with what is said in its clips in their place, where an objective asks for
            it.
    """

    name: str
    rendered: Rendered
    clips: Sequence[Tensor]
    transcripts: Sequence[str | None] = ()
    rejected: Rendered | None = None
    written: Rendered | None = None

    def __post_init__(self) -> None:
        for rendered in (self.rendered, self.rejected):
            if rendered is not None and len(self.clips) != len(rendered.slots):
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
        clips: For each slot the clip (0 to C - 1) that fills it; conversations may share clips.
    """

    ids: Tensor
    loss: Tensor
    lengths: Tensor
    slots: Tensor
    clips: Tensor

    def to(self, device: torch.device) -> Self:
        """Move every tensor to a device."""
        moved = {item.name: getattr(self, item.name).to(device) for item in fields(Rows)}
        return replace(self, **moved)


@dataclass(frozen=True, kw_only=True)
class Batch(Rows):
    """A micro-batch: conversations with their clips.

    Attributes:
        names: One per conversation (B).
        audio: (C, S) waveforms, or None when there are no clips or features are given.
        features: (C, F, E) encoder output, or None.
        transcripts: (C) what is said in each clip, None where that is not known.
        rejected: The conversations with their rejected answers, or None where no objective asks for them.
        written: The conversations in text alone, or None where no objective asks for them.
        outcomes: What became of each record that was planned for the batch, in order: None, or why it is left
            out; empty where nothing is left out.
    """

    names: tuple[str, ...]
    audio: Padded | None
    features: Padded | None
    transcripts: tuple[str | None, ...]
    rejected: Rows | None = None
    written: Rows | None = None
    outcomes: tuple[Fault | None, ...] = ()

    def to(self, device: torch.device) -> Self:
        """Move every tensor to a device."""
        held = {name: getattr(self, name) for name in ("audio", "features", "rejected", "written")}
        moved = {name: value.to(device) for name, value in held.items() if value is not None}
        return replace(super().to(device), **moved)

    def with_rejected(self) -> Batch:
        """Return the 2B conversations of preference pairs: all preferred ones, then all rejected ones.

        Both of a pair have the same clips, which are there once.

        Raises:
            ValueError: The batch holds no rejected answers.
        """
        other = self.rejected
        if other is None:
            raise ValueError("the batch holds no rejected answers")
        return replace(
            self,
            names=self.names * 2,
            ids=torch.cat([self.ids, other.ids]),
            loss=torch.cat([self.loss, other.loss]),
            lengths=torch.cat([self.lengths, other.lengths]),
            slots=torch.cat([self.slots, other.slots + len(self.ids)]),
            clips=torch.cat([self.clips, other.clips]),
            rejected=None,
            written=None,
        )

    def in_writing(self) -> Batch:
        """Return the conversations in text alone.

        Raises:
            ValueError: The batch does not hold them.
        """
        rows = self.written
        if rows is None:
            raise ValueError("the batch does not hold its conversations in writing")
        return Batch(
            **{item.name: getattr(rows, item.name) for item in fields(Rows)},
            names=self.names,
            audio=None,
            features=None,
            transcripts=(),
        )


def collate(samples: Sequence[Sample], outcomes: Sequence[Fault | None] = ()) -> Batch:
    """Lay samples end to end. Their clips are all waveforms or all features."""
    clips = [clip for sample in samples for clip in sample.clips]
    padded = Padded.stack(clips) if clips else None
    waveforms = bool(clips) and clips[0].dim() == 1
    rows = _lay([sample.rendered for sample in samples])
    rejected = [sample.rejected for sample in samples if sample.rejected is not None]
    written = [sample.written for sample in samples if sample.written is not None]
    for name, found in (("a rejected answer", rejected), ("what is said in their clips", written)):
        if found and len(found) < len(samples):
            raise ValueError(f"{len(found)} of {len(samples)} samples have {name}: all or none")
    return Batch(
        **{item.name: getattr(rows, item.name) for item in fields(Rows)},
        names=tuple(sample.name for sample in samples),
        audio=padded if waveforms else None,
        features=None if waveforms else padded,
        transcripts=tuple(
            text for sample in samples for text in (sample.transcripts or [None] * len(sample.clips))
        ),
        rejected=_lay(rejected) if rejected else None,
        written=_lay(written) if written else None,
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
    )

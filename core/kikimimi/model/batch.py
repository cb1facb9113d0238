"""A micro-batch of rendered conversations with their clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
    """

    name: str
    rendered: Rendered
    clips: Sequence[Tensor]
    transcripts: Sequence[str | None] = ()

    def __post_init__(self) -> None:
        if len(self.clips) != len(self.rendered.slots):
            raise ValueError(
                f"{self.name}: {len(self.clips)} clips for {len(self.rendered.slots)} audio parts"
            )
        if self.transcripts and len(self.transcripts) != len(self.clips):
            raise ValueError(f"{self.name}: {len(self.transcripts)} transcripts for {len(self.clips)} clips")


@dataclass(frozen=True)
class Batch:
    """Conversations laid end to end, before audio tokens take their slots.

    Attributes:
        names: One per conversation (B).
        ids: (L,) token ids of all conversations; slots hold a placeholder.
        loss: (L,) bool, true where the token is a target.
        lengths: (B,) text positions of each conversation, slots included.
        slots: (C,) positions in `ids`, ascending.
        audio: (C, S) waveforms, or None when there are no clips or features are given.
        features: (C, F, E) encoder output, or None.
        transcripts: (C) what is said in each clip, None where that is not known.
        outcomes: What became of each record that was planned for the batch, in order: None, or why it is left
            out; empty where nothing is left out.
    """

    names: tuple[str, ...]
    ids: Tensor
    loss: Tensor
    lengths: Tensor
    slots: Tensor
    audio: Padded | None
    features: Padded | None
    transcripts: tuple[str | None, ...]
    outcomes: tuple[Fault | None, ...] = ()

    def to(self, device: torch.device) -> Batch:
        """Move every tensor to a device."""
        return replace(
            self,
            ids=self.ids.to(device),
            loss=self.loss.to(device),
            lengths=self.lengths.to(device),
            slots=self.slots.to(device),
            audio=self.audio.to(device) if self.audio is not None else None,
            features=self.features.to(device) if self.features is not None else None,
        )


def collate(samples: Sequence[Sample], outcomes: Sequence[Fault | None] = ()) -> Batch:
    """Lay samples end to end. Their clips are all waveforms or all features."""
    lengths = [len(sample.rendered.ids) for sample in samples]
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    clips = [clip for sample in samples for clip in sample.clips]
    padded = Padded.stack(clips) if clips else None
    waveforms = bool(clips) and clips[0].dim() == 1
    return Batch(
        names=tuple(sample.name for sample in samples),
        ids=torch.tensor([i for sample in samples for i in sample.rendered.ids], dtype=torch.int64),
        loss=torch.tensor([x for sample in samples for x in sample.rendered.loss], dtype=torch.bool),
        lengths=torch.tensor(lengths, dtype=torch.int64),
        slots=torch.tensor(
            [start + slot for start, s in zip(starts, samples, strict=True) for slot in s.rendered.slots],
            dtype=torch.int64,
        ),
        audio=padded if waveforms else None,
        features=None if waveforms else padded,
        transcripts=tuple(
            text for sample in samples for text in (sample.transcripts or [None] * len(sample.clips))
        ),
        outcomes=tuple(outcomes),
    )

"""What stands in for clips, and for whole micro-batches, that a rank has none of.

Where every rank holds a piece of each layer, all ranks have to run each layer, forward and backward, equally
often: one that left it out would leave the others waiting for its piece.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from kikimimi.contracts.batch import Batch, Sample, View, collate, render_view
from kikimimi.contracts.component import LLM, Encoder, Padded, Rendered
from kikimimi.contracts.conversation import AudioPart, Conversation, Message, TextPart

_SECONDS = 0.5  # length of the clip [s]


@dataclass(frozen=True)
class StandIn:
    """A clip of a quiet tone: silence would be divided by its own spread, zero, somewhere.

    Attributes:
        audio: (1, S) waveform.
        features: (1, F, E) frames that stand in for the encoder's output, where training reads that from a
            cache and no rank runs the encoder; else None.
    """

    audio: Padded
    features: Padded | None

    @classmethod
    def of(cls, encoder: Encoder, *, cached: bool) -> StandIn:
        """Make the clip for an encoder."""
        seconds = _SECONDS if encoder.max_seconds is None else min(_SECONDS, encoder.max_seconds)
        samples = int(seconds * encoder.sample_rate)
        tone = 0.01 * torch.sin(torch.arange(samples) * (2 * math.pi * 440 / encoder.sample_rate))
        features = None
        if cached:
            values = torch.linspace(-1, 1, encoder.num_frames(samples) * encoder.dim)
            features = Padded.stack([values.reshape(-1, encoder.dim)])
        return cls(Padded.stack([tone]), features)

    def batch(self, llm: LLM, views: Collection[View]) -> Batch:
        """Return a micro-batch of one conversation about the clip, with what an objective asks for."""
        turns = (Message("user", (AudioPart("tone", "0"),)), Message("assistant", (TextPart("0"),)))
        talk = Conversation(turns, rejected="0")
        rendered: dict[View, Rendered] = {view: render_view(llm, talk, view) for view in views}
        clips = self.audio if self.features is None else self.features
        return collate([Sample("stand-in", llm.render(talk), clips.unstack(), (None,), rendered)])


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into eval mode for a while: it draws no random numbers and keeps no statistics."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training

"""A micro-batch on its way through the model: the step that an objective is given."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from kikimimi.contracts.batch import Batch
from kikimimi.contracts.component import AdapterOutput, Padded
from kikimimi.contracts.objective import Once
from kikimimi.contracts.scored import Packed, Scored
from kikimimi.model.speech_lm import SpeechLM


class ModelStep:
    """A micro-batch on its way through the model. What several objectives need is computed once.

    Objectives run the model through `scored`, `score` and the methods of `SpeechLM` alone: only these work
    where the model is split over ranks.

    Args:
        model: The model, in the modes of training or, in a validation, of evaluation.
        batch: The micro-batch, with the views that the objective asked for, and at least one conversation.
        frozen: Makes the model what it was when the stage began, inside its context; None where no
            objective asked for that.
        notes: What `once` has made of this micro-batch before.

    Attributes:
        losses: Auxiliary losses of the adapter, from the first pass that had any; whoever trains adds them.
        counts: What the adapter counted in that pass.
        num_positions: Positions of the LLM that were computed with gradients, audio and text.
    """

    def __init__(
        self,
        model: SpeechLM,
        batch: Batch,
        frozen: Callable[[], AbstractContextManager[None]] | None = None,
        notes: dict[object, Any] | None = None,
    ) -> None:
        self.model = model
        self.batch = batch
        self.notes = {} if notes is None else notes
        self._frozen = frozen
        self._scored: Scored | None = None
        self.losses: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.num_positions = 0

    @property
    def scored(self) -> Scored:
        """The model's opinion of every target of the conversations as they are."""
        if self._scored is None:
            # What was packed for an objective that looks at audio tokens alone is not packed again.
            self._scored = self._score(self.batch, self.__dict__.get("_packed"))
        return self._scored

    @property
    def num_frames(self) -> list[int]:
        """(C) encoder frames F of each clip."""
        batch = self.batch
        if batch.features is not None:
            return batch.features.lengths.tolist()
        samples = batch.audio.lengths.tolist() if batch.audio is not None else []
        return [self.model.encoder.num_frames(number) for number in samples]

    def once(self, key: object, make: Callable[[], Once]) -> Once:
        """Return what `make` returned when the micro-batch was first asked for this key."""
        if key not in self.notes:
            self.notes[key] = make()
        made: Once = self.notes[key]
        return made

    def score(self, batch: Batch) -> Scored:
        """Run the model as it trains.

        Raises:
            ValueError: No token of the batch is a target.
        """
        return self._score(batch, None)

    @property
    def tokens(self) -> Padded | None:
        """(C, T, D) what the adapter makes of the clips, or None where there are none. The LLM does not run
        for them.
        """
        if self._scored is not None:
            return self.scored.tokens
        output = self._packed[1]
        return output.tokens if output else None

    def zero(self) -> Tensor:
        """Return zero that hangs on what was computed, for a micro-batch that holds nothing to compare."""
        computed = self._scored.logits if self._scored is not None else self._packed[0].embeddings
        zero = computed.flatten()[:0].float().sum()
        # Of text before a frozen LLM nothing hangs on what trains.
        return zero if zero.requires_grad else zero.requires_grad_()

    @cached_property
    def _packed(self) -> tuple[Packed, AdapterOutput | None]:
        packed, output = self.model.pack(self.batch, self.batch.transcripts)
        if output is not None:
            self._take(output.losses, output.counts)
        return packed, output

    def _score(self, batch: Batch, packed: tuple[Packed, AdapterOutput | None] | None) -> Scored:
        scored: Scored = self.model(batch, packed)
        self.num_positions += scored.num_positions
        self._take(scored.losses, scored.counts)
        return scored

    def _take(self, losses: Mapping[str, Tensor], counts: Mapping[str, int]) -> None:
        if not self.losses:
            self.losses, self.counts = dict(losses), dict(counts)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Make the model what it was when the stage began, without dropout and without gradients."""
        if self._frozen is None:
            raise ValueError("this objective did not ask for the model as it was: see Objective.reference")
        with torch.no_grad(), self._frozen():
            yield

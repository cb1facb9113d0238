"""The contract of an objective: what makes the loss of a micro-batch that a stage of training brings down."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from kikimimi.model.batch import Batch
    from kikimimi.model.speech_lm import Scored, SpeechLM

View = Literal["rejected", "written"]
"""What a micro-batch can hold besides its conversations: the same with their rejected answers, or with what
is said in their clips in their place."""


@dataclass(kw_only=True, frozen=True)
class ObjectiveConfig:
    """Base of every objective's nested `Config`."""


@dataclass(frozen=True)
class Loss:
    """What an objective makes of a micro-batch.

    Attributes:
        value: Scalar that training brings down, a mean over what is compared.
        parts: Named scalars that `value` is the weighted sum of, for the metrics (``loss/NAME``).
        measures: Named scalars to look at, such as ``reward/margin``; their means are written as they are.
        counts: Named counts of this micro-batch, summed in the metrics (``count/NAME``).
    """

    value: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    measures: Mapping[str, Tensor] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)


class Step:
    """A micro-batch on its way through the model. What several objectives need is computed once.

    Objectives run the model through `scored`, `score` and the methods of `SpeechLM` alone: only these work
    where the model is split over ranks.

    Args:
        model: In the modes of training or, in a validation, of evaluation.
        batch: With the views that the objective asked for, and at least one conversation.
        frozen: Makes the model what it was when the stage began, inside its context; None where no
            objective asked for that.

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
    ) -> None:
        self.model = model
        self.batch = batch
        self._frozen = frozen
        self.losses: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.num_positions = 0

    @cached_property
    def scored(self) -> Scored:
        """The model's opinion of every target of the conversations as they are."""
        return self.score(self.batch)

    def score(self, batch: Batch) -> Scored:
        """Run the model as it trains.

        Raises:
            ValueError: No token of the batch is a target.
        """
        scored: Scored = self.model(batch)
        self.num_positions += scored.num_positions
        if not self.losses:
            self.losses, self.counts = dict(scored.losses), dict(scored.counts)
        return scored

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Make the model what it was when the stage began, without dropout and without gradients."""
        import torch

        if self._frozen is None:
            raise ValueError("this objective did not ask for the model as it was: see Objective.reference")
        with torch.no_grad(), self._frozen():
            yield


class Objective(ABC):
    """Makes the loss of a micro-batch. Built as `Objective(config)`; it holds no parameters."""

    Config: ClassVar[type[ObjectiveConfig]]

    def __init__(self, config: Any) -> None:
        self.config = config

    @property
    def views(self) -> frozenset[View]:
        """What the micro-batches have to hold besides the conversations. Default: nothing."""
        return frozenset()

    @property
    def reference(self) -> tuple[str, ...]:
        """The parts (encoder, adapter, llm) of which it needs the state at the start of the stage. Default:
        none.
        """
        return ()

    @abstractmethod
    def loss(self, step: Step) -> Loss:
        """Return the loss of a micro-batch.

        It must not depend on the order of the conversations, has to take micro-batches that hold no audio,
        and leaves out the adapter's auxiliary losses, which are added to it.
        """

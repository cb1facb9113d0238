"""The contract of an objective: what makes the loss of a micro-batch that a stage of training brings down."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar

from kikimimi.contracts.component import Units
from kikimimi.contracts.options import Options

if TYPE_CHECKING:
    from torch import Tensor

    from kikimimi.contracts.batch import Batch, View
    from kikimimi.contracts.component import LLM, Adapter, Encoder, Padded
    from kikimimi.contracts.generation import Generation
    from kikimimi.contracts.scored import Scored

Once = TypeVar("Once")

Turns = Literal["all", "last"]
"""Which of the assistant's turns are targets."""


@dataclass(kw_only=True, frozen=True)
class ObjectiveConfig(Options):
    """Base of every objective's nested `Config`."""


@dataclass(frozen=True)
class Loss:
    """What an objective makes of a micro-batch.

    Attributes:
        value: Scalar that training brings down, a mean over what is compared.
        parts: Named scalars that `value` is the weighted sum of, for the metrics (``loss/NAME``).
        measures: Named scalars to look at, such as ``reward/margin``; their means are written as they are.
        counts: Named counts of this micro-batch, summed in the metrics (``count/NAME``).
        weights: What each part is multiplied by in `value`; 1 where it is not given.
        numbers: How many units a part turned out to be the mean over, where that is fewer than
            `Objective.units` could know.
    """

    value: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    measures: Mapping[str, Tensor] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    numbers: Mapping[str, int] = field(default_factory=dict)


class SpeechModel(Protocol):
    """What an objective may ask of the model itself; all else of it goes through the step.

    Only these work where the model is split over ranks.
    """

    encoder: Encoder
    adapter: Adapter
    llm: LLM
    training: bool

    def __call__(self, batch: Batch) -> Scored:
        """Score every target of a micro-batch."""
        ...

    def embed(self, ids: Tensor) -> Tensor:
        """Embed (L,) token ids of the LLM to (L, D)."""
        ...

    def encode(self, batch: Batch) -> Batch:
        """Return a micro-batch with the encoder's output in place of waveforms, for several passes."""
        ...

    def generate_ids(self, batch: Batch, generation: Generation) -> list[list[int]]:
        """Continue each conversation; return (B) new ids, without those that end a turn."""
        ...


class Step(Protocol):
    """A micro-batch on its way through the model. What several objectives need is computed once.

    Attributes:
        batch: The micro-batch, with the views that the objective asked for, and at least one conversation.
    """

    batch: Batch

    @property
    def model(self) -> SpeechModel:
        """The model, in the modes of training or, in a validation, of evaluation."""
        ...

    @property
    def scored(self) -> Scored:
        """The model's opinion of every target of the conversations as they are."""
        ...

    @property
    def tokens(self) -> Padded | None:
        """(C, T, D) what the adapter makes of the clips, or None where there are none. The LLM does not run
        for them.
        """
        ...

    @property
    def num_frames(self) -> list[int]:
        """(C) encoder frames F of each clip."""
        ...

    def once(self, key: object, make: Callable[[], Once]) -> Once:
        """Return what `make` returned when the micro-batch was first asked for this key: what had to be made
        for `Objective.units` is there when the loss is computed. It must hold no tensors.
        """
        ...

    def score(self, batch: Batch) -> Scored:
        """Run the model as it trains.

        Raises:
            ValueError: No token of the batch is a target.
        """
        ...

    def zero(self) -> Tensor:
        """Return zero that hangs on what was computed, for a micro-batch that holds nothing to compare."""
        ...

    def frozen(self) -> AbstractContextManager[None]:
        """Make the model what it was when the stage began, without dropout and without gradients.

        Raises:
            ValueError: The objective did not ask for it: see `Objective.reference`.
        """
        ...


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

    @property
    def reaches(self) -> tuple[str, ...]:
        """The parts that its gradient reaches; a recipe that trains another is refused. Default: all."""
        return ("encoder", "adapter", "llm")

    @property
    def generates(self) -> bool:
        """Whether it lets the model generate. Ranks that share one model would wait for one another then, as
        answers differ in length: a recipe that asks for both is refused. Default: it does not.
        """
        return False

    def units(self, step: Step) -> Mapping[str, Units]:
        """Return what the loss is a mean over. Default: the target tokens, but for those that stand first.

        It is asked for all micro-batches of an optimiser step before the first of them is run, with their
        tensors on the CPU, so that the step's loss can be the mean over all of its units. Only an objective
        that `generates` may run the model for it.

        Returns:
            The units of the whole loss, by one name; or those of each part, where they are not the same.
        """
        return {"loss": Units("tokens", step.batch.num_targets)}

    @property
    def eval_mode(self) -> bool:
        """Whether the model trains in eval mode: without dropout, and whatever else acts in training alone.
        Default: it does not.
        """
        return False

    @property
    def turns(self) -> Turns:
        """Which of the assistant's turns it compares, for those who show what is learnt. Default: all."""
        return "all"

    @abstractmethod
    def loss(self, step: Step) -> Loss:
        """Return the loss of a micro-batch, the mean over `units`.

        It must not depend on the order of the conversations, has to take micro-batches that hold no audio,
        and leaves out the adapter's auxiliary losses, which are added to it.
        """

"""A component under test: how to build its tiny variant, what to feed it, and how to run it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, wraps
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from kikimimi.contracts.component import Component, ComponentConfig, Padded
from kikimimi.recipe.chosen import OF_PARTS
from kikimimi.testing.contract import ContractError


class Tested:
    """A plugin under test.

    Args:
        component: Its class.
        config: The config that is tested, or whose tiny variant is; None for the component's defaults.
    """

    config_base: ClassVar[type[Any]]
    """What its `Config` is based on."""
    reserved: ClassVar[tuple[str, ...]]
    """Keys that recipes use themselves, beside its options."""
    config: Any

    def __init__(self, component: type[Any], config: Any = None) -> None:
        self.component = component
        self.given = config


class Subject(Tested, ABC):
    """An encoder, an adapter or an LLM under test: its tiny variant is."""

    config_base = ComponentConfig
    reserved = ("name", *OF_PARTS)

    @cached_property
    def config(self) -> Any:
        """The tiny config. Asked for inside a check, so that what it raises fails a check and no import."""
        return self.component.tiny_config(self.given)

    def build(self, seed: int = 0) -> Any:
        """Build the tiny component in eval mode, with the random weights of a seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.construct().eval()

    def ways(self) -> tuple[str, ...]:
        """Return the ways to run the component that the contract knows, in words."""
        return ("",)

    @contextmanager
    def going(self, way: str) -> Iterator[None]:
        """Run the component that way inside."""
        yield

    @abstractmethod
    def construct(self) -> Component:
        """Call the constructor as the assembly does."""

    @abstractmethod
    def sequences(self, part: Any) -> list[Tensor]:
        """Return inputs of unequal lengths, always the same."""

    @abstractmethod
    def outputs(self, part: Any, sequences: list[Tensor]) -> list[Tensor]:
        """Run the inputs as one batch; return one output for each, without padding."""

    @abstractmethod
    def loss(self, part: Any, sequences: list[Tensor]) -> Tensor:
        """Return a scalar to be learned: the distance from a fixed target, and auxiliary losses."""


class PaddedSubject(Subject):
    """A component that maps padded sequences to padded sequences: an encoder or an adapter."""

    @abstractmethod
    def run(self, part: Any, batch: Padded) -> tuple[Padded, dict[str, Tensor]]:
        """Run a batch; return the output and the auxiliary losses."""

    def outputs(self, part: Any, sequences: list[Tensor]) -> list[Tensor]:
        """Pad, run and take the padding off."""
        return self.run(part, Padded.stack(sequences))[0].unstack()

    def loss(self, part: Any, sequences: list[Tensor]) -> Tensor:
        """Return the mean square distance from one fixed vector, and the auxiliary losses."""
        return self.loss_of(part, Padded.stack(sequences))

    def loss_of(self, part: Any, batch: Padded) -> Tensor:
        """Return the loss of a batch that is padded already."""
        output, losses = self.run(part, batch)
        real = torch.cat(output.unstack())  # (sum of lengths, width)
        target = torch.randn(real.shape[-1], generator=torch.Generator().manual_seed(1))
        distance = (real.float() - target).square().mean()
        return distance + sum(losses.values(), distance.new_zeros(()))


Checked = TypeVar("Checked", bound=Subject)


def in_every_way(check: Callable[[Checked], None]) -> Callable[[Checked], None]:
    """Make a check run once for each of the subject's ways; what it raises says which one it was."""

    @wraps(check)
    def run(subject: Checked) -> None:
        for way in subject.ways():
            try:
                with subject.going(way):
                    check(subject)
            except ContractError as error:
                raise ContractError(f"{way}: {error}" if way else str(error)) from error

    return run

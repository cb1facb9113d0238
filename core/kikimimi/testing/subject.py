"""A component under test: how to build and run its tiny variant, and how to say what is expected of it."""

import pickle
import random
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import cached_property, wraps
from inspect import getdoc, isabstract, signature
from pathlib import Path
from shutil import rmtree
from typing import Any, ClassVar, Generic, TypeVar, cast
from unittest import SkipTest
from weakref import finalize

import numpy as np
import torch
from torch import Tensor, nn

from kikimimi.console.words import listing
from kikimimi.contracts.component import Component, ComponentConfig, Padded
from kikimimi.recipe.chosen import OF_PARTS

Built = TypeVar("Built")
Decorated = TypeVar("Decorated", bound=Callable[..., None])

TOLERANCE = 1e-5
"""Largest difference between two ways to compute the same [relative to the largest value, or to 1]."""


class ContractError(AssertionError):
    """A component breaks its contract; the message says what was expected and what was found."""


class NotTriedError(SkipTest):
    """A check has nothing to try; the message says what is missing. pytest counts it as skipped."""


def expect(holds: bool, message: str) -> None:
    """Raise a `ContractError` with the message unless the condition holds."""
    if not holds:
        raise ContractError(message)


def expect_type(found: object, wanted: type[Any], what: str) -> None:
    """Expect an instance of a class; ``what`` starts the message."""
    expect(isinstance(found, wanted), f"{what}, found {type(found).__name__}")


@contextmanager
def expect_no_error(what: str, *allowed: type[Exception]) -> Iterator[None]:
    """Raise a `ContractError` that ``what`` starts for any error inside but that and the allowed ones."""
    passed: tuple[type[Exception], ...] = (ContractError, NotTriedError, *allowed)
    try:
        yield
    except passed:
        raise
    except Exception as error:
        raise ContractError(f"{what}, found {type(error).__name__}: {error}") from error


@contextmanager
def expect_raised(error: type[Exception], what: str) -> Iterator[None]:
    """Expect an error inside that is a `kikimimi` one of this class; ``what`` starts the message.

    Raises:
        ContractError: There is none, or another one.
    """
    wanted = f"{what}: expected a kikimimi.{error.__name__}"
    try:
        yield
    except (error, ContractError):
        raise
    except Exception as other:
        raise ContractError(f"{wanted}, found {type(other).__name__}: {other}") from other
    raise ContractError(f"{wanted}, found none")


Returned = TypeVar("Returned")


def expect_not_seeded(run: Callable[[], Returned]) -> tuple[Returned, Returned]:
    """Run something twice, each time after others have drawn from the random generators of the process.

    Returns:
        What it returned each time.

    Raises:
        ContractError: It seeds one of the generators: whatever draws from it then, draws the same again.
    """
    kept = random.getstate(), np.random.get_state()
    found, states = [], []
    try:
        for seed in (1, 2):
            random.seed(seed)
            np.random.seed(seed)
            torch.default_generator.manual_seed(seed)
            found.append(run())
            states.append(
                {
                    "random": random.getstate(),
                    "numpy": pickle.dumps(np.random.get_state()),
                    "torch": torch.default_generator.get_state().tolist(),
                }
            )
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
    seeded = [name for name, state in states[0].items() if state == states[1][name]]
    expect(
        not seeded,
        f"expected the generator of the whole process left alone, found that of {listing(seeded)} seeded: "
        "draw from a generator of its own",
    )
    return found[0], found[1]


def expect_close(found: Tensor, expected: Tensor, what: str, tolerance: float = TOLERANCE) -> None:
    """Expect two tensors of one shape to hold the same finite numbers.

    Args:
        found: What came out.
        expected: What had to.
        what: The start of the message, such as ``clip 2 alone and in a batch``.
        tolerance: Largest difference, relative to the largest expected value where that is above 1.

    Raises:
        ContractError: They differ.
    """
    expect(
        found.shape == expected.shape, f"{what}: shape {tuple(found.shape)}, expected {tuple(expected.shape)}"
    )
    expect_finite(found, what)
    if found.numel() == 0:
        return
    allowed = tolerance * max(1.0, float(expected.detach().abs().max()))
    difference = float((found.detach().float() - expected.detach().float()).abs().max())
    expect(
        difference <= allowed,
        f"{what}: expected the same values, found a difference of {difference:.2g} (allowed: {allowed:.2g})",
    )


def expect_all_close(
    found: Iterable[Tensor], expected: Iterable[Tensor], what: str, tolerance: float = TOLERANCE
) -> None:
    """Expect as many tensors, each close to its own; ``what`` and its number start the message."""
    for number, (one, other) in enumerate(zip(found, expected, strict=True)):
        expect_close(one, other, f"{what} {number}", tolerance)


def expect_finite(found: Tensor, what: str) -> None:
    """Expect a tensor without NaN and infinity.

    Raises:
        ContractError: It holds one.
    """
    wrong = int((~found.isfinite()).sum())
    expect(wrong == 0, f"{what}: expected finite values, found {wrong} of {found.numel()} NaN or infinite")


def expect_padded(found: Padded, layout: str, items: str, width: tuple[str, int], where: str = "") -> None:
    """Expect a batch with int64 lengths, values of a width, and room for the longest sequence.

    Raises:
        ContractError: It is otherwise.
    """
    values, lengths = found.values, found.lengths
    expect(
        lengths.dtype == torch.int64 and values.dim() == 3,
        f"{where}expected {layout} with int64 lengths, found {tuple(values.shape)} with {lengths.dtype}",
    )
    expect(
        values.shape[2] == width[1],
        f"{where}expected {items} of {width[0]} = {width[1]} values, found {values.shape[2]}",
    )
    longest = int(lengths.max())
    expect(values.shape[1] >= longest, f"{where}expected room for {longest} {items}, found {values.shape[1]}")


@contextmanager
def expect_on_device(what: str) -> Iterator[None]:
    """Expect that what runs inside on the meta device makes no tensor on the CPU; its other errors are none.

    Raises:
        ContractError: It does; ``what`` starts the message.
    """
    try:
        yield
    except RuntimeError as error:
        said = str(error)
        if "device" in said and "meta" in said and "cpu" in said:
            raise ContractError(
                f"{what}: expected tensors to be made there (`device=`), found one on the CPU: "
                f"{said.partition(chr(10))[0]}"
            ) from error
    except Exception:  # noqa: BLE001 - what depends on values does not run there, and need not
        return


def tensors_in(value: Any, where: str) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in a value, in its lists and dictionaries, each with where it is."""
    if isinstance(value, Tensor):
        yield where, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from tensors_in(item, f"{where}[{key!r}]")
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from tensors_in(item, f"{where}[{number}]")


def gradients_of(part: nn.Module, where: str = "") -> dict[str, Tensor]:
    """Return the gradients that parameters have, by name, each of them finite.

    Raises:
        ContractError: One is not.
    """
    found = {name: p.grad for name, p in part.named_parameters() if p.grad is not None}
    for name, gradient in found.items():
        expect_finite(gradient, f"gradient of {name}{where}")
    return found


def nudge(parameters: Iterable[nn.Parameter], scale: float, seed: int) -> None:
    """Add noise to parameters: they are not what they were at the start of training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


def check_named(name: str) -> Callable[[Decorated], Decorated]:
    """Name a check as another kind's check of the same is named: a function's own name stands only once."""

    def rename(check: Decorated) -> Decorated:
        check.__name__ = name
        return check

    return rename


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

    @property
    def needs_defaults(self) -> bool:
        """Whether every option has to have a default."""
        return True

    @property
    def chosen(self) -> Any:
        """The config that was given, or the component's defaults."""
        return self.component.Config() if self.given is None else self.given

    def build(self) -> Any:
        """Build the plugin."""
        return self.component()

    @contextmanager
    def config_kept(self) -> Iterator[None]:
        """Expect the config as it was after what happens inside.

        Raises:
            ContractError: It is another one: the lock of a run would hold what was never chosen.
        """
        try:
            before = deepcopy(self.config)
        except Exception:  # noqa: BLE001 - there is none, and the check that asks for it says so
            yield
            return
        yield
        expect(self.config == before, f"expected the config left as it was, {before}, found {self.config}")

    def expect_built(self) -> None:
        """Expect a class that leaves nothing open, and that what it builds has what its contract declares.

        Raises:
            ContractError: It is otherwise.
            Exception: It cannot be built; whatever a third party's component raises.
        """
        name = self.component.__name__
        left = sorted(getattr(self.component, "__abstractmethods__", ()))
        expect(
            not isabstract(self.component),
            f"{name}: expected its contract's {listing(left)}, found none. Write in the class: "
            f"{'; '.join(_as_written(self.component, method) for method in left)}",
        )
        built = self.build()
        without = [attribute for attribute in _declared(self.component) if not hasattr(built, attribute)]
        expect(
            not without,
            f"{name}: expected the attributes that its contract declares, found no {listing(without)}",
        )


def _as_written(component: type[Any], method: str) -> str:
    """Return the first line of a method that a contract asks for, and what it does."""
    found = getattr(component, method)
    if isinstance(found, property):
        return f"@property def {method}(self)"
    return f"def {method}{signature(found)}: {(getdoc(found) or '').partition(chr(10))[0]}".rstrip(": ")


def _declared(component: type[Any]) -> list[str]:
    """Return the attributes of instances that a contract declares and gives no value."""
    return [
        name
        for base in component.__mro__
        if base.__module__.startswith("kikimimi.contracts.")
        for name in vars(base).get("__annotations__", {})
        if not hasattr(base, name)
    ]


class PlainSubject(Tested, Generic[Built]):
    """A plugin under test whose config is checked as it is given, as there is nothing to make tiny."""

    reserved = ("name",)

    @cached_property
    def config(self) -> Any:
        """The config that was given, or the component's defaults."""
        return self.chosen

    def build(self) -> Built:
        """Build the plugin."""
        with self.config_kept():
            return cast(Built, self.component(self.config))


class ExampleSubject(PlainSubject[Built]):
    """A plugin under test whose config is its `example`, where none is given: it may lack defaults."""

    example_is_for: ClassVar[str]
    """What a plugin without an example lacks."""

    @cached_property
    def _folder(self) -> Path:
        folder = tempfile.mkdtemp()
        finalize(self, rmtree, folder, ignore_errors=True)
        return Path(folder)

    @cached_property
    def config(self) -> Any:
        """The config that was given, or that of the example.

        Raises:
            NotTriedError: The plugin gives none.
        """
        found = self.component.example(self._folder) if self.given is None else self.given
        if found is None:
            raise NotTriedError(f"{self.component.__name__}.example gives no {self.example_is_for}")
        return found

    @property
    def chosen(self) -> Any:
        """The same: there may be options without a default, such as a model's place."""
        return self.config


class Subject(Tested, ABC):
    """An encoder, an adapter or an LLM under test: its tiny variant is."""

    config_base = ComponentConfig
    reserved = ("name", *OF_PARTS)
    way = ""
    """The one of `ways` that it is run in now."""

    @cached_property
    def config(self) -> Any:
        """The tiny config. Asked for inside a check, so that what it raises fails a check and no import."""
        return self.component.tiny_config(self.given)

    def build(self, seed: int = 0) -> Any:
        """Build the tiny component in eval mode, with the random weights of a seed."""
        with torch.random.fork_rng(devices=[]), self.config_kept():
            torch.default_generator.manual_seed(seed)
            return self.construct().eval()

    def ways(self) -> tuple[str, ...]:
        """Return the ways to run the component that the contract knows, in words."""
        return ("",)

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
            subject.way = way
            try:
                check(subject)
            except ContractError as error:
                raise ContractError(f"{way}: {error}" if way else str(error)) from error
            finally:
                subject.way = ""

    return run

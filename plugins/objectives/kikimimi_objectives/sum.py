"""Several objectives at once."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

import torch
from annotated_types import Gt, MinLen

from kikimimi import Chosen, Loss, Objective, ObjectiveConfig, Step, Turns, Units, View, listing, nearest

Value = TypeVar("Value")


def _text() -> dict[str, Chosen]:
    return {"text": Chosen.of("objective", "ce")}


class Sum(Objective):
    """The weighted sum of objectives. They share the model's pass over the conversations as they are.

    Measures and counts keep their names, with the term's before them where two terms have the same.
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(ObjectiveConfig):
        """Options of the `sum` objective."""

        terms: Annotated[dict[str, Chosen], MinLen(1)] = field(
            default_factory=_text, metadata={"kind": "objective", "noun": "term"}
        )
        """What is summed, by a name for the metrics (``loss/NAME``)."""
        weights: dict[str, Annotated[float, Gt(0)]] = field(default_factory=dict)
        """What each term is multiplied by; those that are not given have 1."""

        def __post_init__(self) -> None:
            for name in self.weights:
                if name not in self.terms:
                    raise ValueError(
                        f"weights.{name}: there is no term '{name}'.{nearest(name, self.terms)} "
                        f"Terms: {listing(self.terms)}"
                    )
            for name, term in self.terms.items():
                if issubclass(term.component, Sum):
                    raise ValueError(f"terms.{name}: a sum inside a sum: write its terms here")

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.terms: dict[str, Objective] = {
            name: term.component(term.config) for name, term in config.terms.items()
        }

    @property
    def views(self) -> frozenset[View]:
        """The views of all terms."""
        return frozenset[View]().union(*(term.views for term in self.terms.values()))

    @property
    def reference(self) -> tuple[str, ...]:
        """The parts of all terms."""
        return _together(term.reference for term in self.terms.values())

    @property
    def reaches(self) -> tuple[str, ...]:
        """The parts of all terms."""
        return _together(term.reaches for term in self.terms.values())

    @property
    def generates(self) -> bool:
        """Whether a term does."""
        return any(term.generates for term in self.terms.values())

    @property
    def eval_mode(self) -> bool:
        """Whether a term asks for it: they share the model's pass."""
        return any(term.eval_mode for term in self.terms.values())

    @property
    def turns(self) -> Turns:
        """All, unless every term compares the last ones alone."""
        return "last" if all(term.turns == "last" for term in self.terms.values()) else "all"

    def units(self, step: Step) -> Mapping[str, Units]:
        """The units of each term.

        Raises:
            ValueError: A term is not a mean over one thing.
        """
        found = {name: term.units(step) for name, term in self.terms.items()}
        for name, units in found.items():
            if len(units) != 1:
                raise ValueError(f"terms.{name}: in a sum, it has to be a mean over one thing: {units}")
        return {name: units for name, term in found.items() for units in term.values()}

    def loss(self, step: Step) -> Loss:
        """Return the weighted sum; each term is a part, before its weight."""
        losses = {name: term.loss(step) for name, term in self.terms.items()}
        values = [self.config.weights.get(name, 1.0) * loss.value for name, loss in losses.items()]
        return Loss(
            torch.stack(values).sum(),
            {name: loss.value for name, loss in losses.items()},
            _named({name: loss.measures for name, loss in losses.items()}),
            _named({name: loss.counts for name, loss in losses.items()}),
            self.config.weights,
            {name: number for name, loss in losses.items() for number in loss.numbers.values()},
        )


def _together(parts: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part for some in parts for part in some))


def _named(of: Mapping[str, Mapping[str, Value]]) -> dict[str, Value]:
    """Return what all terms give, under the term's name too where the name alone could be another's."""
    times = Counter(name for given in of.values() for name in given)
    return {
        f"{term}/{name}" if times[name] > 1 else name: value
        for term, given in of.items()
        for name, value in given.items()
    }

"""The contract of a metric: how answers are scored against references; and what a score is."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from kikimimi.console.words import listing
from kikimimi.contracts.normaliser import Normaliser
from kikimimi.contracts.options import Options, declared
from kikimimi.contracts.registry import load
from kikimimi.errors import PluginError, RequestError

Better = Literal["lower", "higher"]
"""Which values of a metric are good ones."""
Details = Mapping[str, float]
"""What a value is computed from, by name: plain numbers that add up over utterances."""
DECIMALS = 4
Interval = tuple[float, float]
"""Lower and upper end of the 95 % interval of a value, in its unit."""
COUNTS = ("truncated", "looped", "thoughts")
"""What a score counts of answers, whatever the metric; scores that were written before have none of it."""
ENDS = ("low", "high")
"""What JSON calls the ends of a score's interval."""
_SAID = ("normaliser_hash", "interval_by", "invalid")  # texts that a score may have
_MOST = 1 << 53  # utterances
_OLD_RATE = ("substitutions", "deletions", "insertions")  # what scores held when all were error rates


@dataclass(kw_only=True, frozen=True)
class MetricConfig(Options):
    """Base of every metric's nested `Config`."""


@dataclass(frozen=True, kw_only=True)
class MetricItem:
    """An answer, and all that a metric may go by.

    Attributes:
        reference: What is right, normalised.
        prediction: What a system wrote, normalised.
        question: What was asked, in words: what is said in the clips and what stands beside them in the last
            turn of the user; empty where that is not known.
        meta: What is known of the record (`Conversation.meta`).
    """

    reference: str
    prediction: str
    question: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)


class Metric(ABC):
    """Scores predictions against references. Built as `Metric(config)`; the docstring states its definition.

    The value of a corpus is computed from sums over its utterances, so that it is that of the corpus and not
    a mean of values, and that a part of the utterances, or a draw among them, has a value as well.

    Attributes:
        unit: Unit of the value (``%``); empty where it has none.
        better: Whether lower or higher values are better.
        labels: What tables call a detail, where it is not its name.
    """

    Config: ClassVar[type[MetricConfig]] = MetricConfig
    unit: ClassVar[str] = ""
    better: ClassVar[Better]
    labels: ClassVar[Mapping[str, str]] = {}

    def __init__(self, config: Any) -> None:
        self.config = config

    @classmethod
    def example(cls, folder: Path) -> Any:
        """Return the config that the checks of plugins try. Default: the defaults.

        Args:
            folder: Where what it needs may be written.

        Returns:
            The config; None where nothing can be tried. Then options need no defaults.
        """
        return cls.Config()

    def check(self, normalise: Normaliser) -> None:  # noqa: B027 - most have nothing to check
        """Check that texts can be compared after a normaliser. Default: any can.

        Raises:
            ValueError: They cannot.
        """

    @abstractmethod
    def measure(self, references: Sequence[str], predictions: Sequence[str]) -> Sequence[Details | None]:
        """Return the details of each utterance, from nothing but its own two texts.

        Args:
            references: What is right, normalised.
            predictions: What a system wrote, normalised, in the same order.

        Returns:
            Details of each, all with the same names, none of which a score has itself (`value`, `count` and
            so on: `Score.reserved`); None where a reference has nothing to compare with, such as an empty one
            for an error rate: the utterance is left out and counted.
        """

    @abstractmethod
    def value(self, details: Details) -> float:
        """Return the value of the details of one or more utterances, added up."""

    def differs(self, one: Details, other: Details) -> bool:
        """Whether two answers to the same were scored differently. Default: where any detail differs."""
        return one != other

    def measure_items(self, items: Sequence[MetricItem]) -> Sequence[Details | None]:
        """Return what `measure` does, for a metric that goes by the question, too; this is what is called.

        Default: `measure` of references and predictions.

        Args:
            items: The answers, in order.

        Returns:
            Details, as of `measure`.
        """
        return self.measure([one.reference for one in items], [one.prediction for one in items])

    def try_references(self, items: Sequence[MetricItem]) -> int:
        """Return how many references can be scored, before anything is predicted.

        Default: measure the references against themselves. A metric that costs money looks at them only.

        Args:
            items: References, each as its own prediction, too.

        Raises:
            ValueError: A reference cannot be used.
        """
        return sum(details is not None for details in self.measure_items(items))

    def recall(self, items: Sequence[MetricItem]) -> Sequence[Details | None]:
        """Return details of answers that were measured before, without new costs; None where it cannot.

        Default: `measure_items`, which costs nothing.
        """
        return self.measure_items(items)

    def remarks(self, items: Sequence[MetricItem]) -> Sequence[str]:
        """Return what the report says of each answer, such as a judge's reasons. Default: nothing.

        What was measured before is asked for: nothing is computed anew.
        """
        return [""] * len(items)

    def invalid(self, details: Details) -> str | None:
        """Return why the value of summed details is not to be trusted, or None, the default, where it is.

        Such as too many answers that could not be judged. A score says so wherever it is shown.
        """
        return None


@dataclass(frozen=True, kw_only=True)
class Score:
    """What a system scored on a corpus."""

    metric: str
    """Registered name of the metric."""
    value: float
    """The value, in `unit`."""
    unit: str
    """Unit of the value; empty where it has none."""
    better: Better
    """Whether lower or higher values are better."""
    normaliser: str
    """Registered name of the normaliser that both sides went through: without it a score means nothing."""
    count: int
    """Utterances scored."""
    skipped: int
    """Utterances left out of everything else here: their reference has nothing to compare with after
    normalisation, and what a system says on them does not count."""
    details: Details = field(default_factory=dict)
    """What the value was computed from, summed over the utterances."""
    normaliser_hash: str | None = field(default=None, compare=False)
    """Hash of what that normaliser does (`normaliser_hash`); None where it is not known."""
    truncated: int | None = field(default=None, compare=False)
    """Answers, of those left out too, that ended because no more tokens were allowed; None where that is not
    known."""
    looped: int | None = field(default=None, compare=False)
    """Answers, of those left out too, that say a piece of text over and over, and their reference does not;
    None where nobody looked."""
    thoughts: int | None = field(default=None, compare=False)
    """Answers, of those left out too, with a thought, which is not scored."""
    interval: Interval | None = field(default=None, compare=False)
    """95 % interval of the value, by the bootstrap; None where there is none, or nobody drew."""
    interval_by: str | None = field(default=None, compare=False)
    """Field, such as the speaker, whose groups the interval draws whole; None where it draws utterances."""
    invalid: str | None = field(default=None, compare=False)
    """Why the value is not to be trusted; None where it is."""
    utterances: Sequence[Details | None] = field(default=(), compare=False, repr=False)
    """The details of each utterance in order, None where it was left out; empty where the score was read."""

    @property
    def label(self) -> str:
        """What tables and messages call the metric: ``CER``, whoever's it is."""
        return self.metric.rpartition(":")[2].upper()

    def __str__(self) -> str:
        """Return the score in words: ``CER 3.14 %``."""
        return f"{self.label} {self.shown()}"

    @property
    def ends(self) -> str:
        """The interval in few letters, without the unit: ``2.87-3.42``; empty where there is none."""
        if self.interval is None:
            return ""
        low, high = self.interval
        return f"{low:.2f}{'-' if low >= 0 else ' to '}{high:.2f}"

    @property
    def drawn(self) -> str:
        """What the interval draws, in words: `` of whole groups by speaker``; empty: utterances."""
        return "" if self.interval_by is None else f" of whole groups by {self.interval_by}"

    def shown(self, value: float | None = None, form: str = ".2f") -> str:
        """Return the value, or another one, with its unit: ``3.14 %``.

        Args:
            value: Shown in place of the score's own.
            form: How the number is written.
        """
        return f"{self.value if value is None else value:{form}} {self.unit}".rstrip()

    @property
    def counts(self) -> dict[str, int]:
        """What is counted of answers, whatever the metric: what is known, and thoughts if there are any."""
        numbers = {name: getattr(self, name) for name in COUNTS}
        return {name: n for name, n in numbers.items() if n is not None and (n or name != "thoughts")}

    def share(self, count: str) -> float | None:
        """Return the share of all answers that `truncated` or `looped` counts; None where it is not known."""
        number = self.counts.get(count)
        return None if number is None else number / (self.count + self.skipped)

    def to_json(self) -> dict[str, Any]:
        """Return the score as JSON holds it: the value also to 4 decimals under the metric's name."""
        return {
            "metric": self.metric,
            self.metric: round(self.value, DECIMALS),
            "value": self.value,
            "unit": self.unit,
            "better": self.better,
            "normaliser": self.normaliser,
            **({} if self.normaliser_hash is None else {"normaliser_hash": self.normaliser_hash}),
            "count": self.count,
            "skipped": self.skipped,
            **({} if self.interval is None else dict(zip(ENDS, self.interval, strict=True))),
            **({} if self.interval_by is None else {"interval_by": self.interval_by}),
            **({} if self.invalid is None else {"invalid": self.invalid}),
            **self.counts,
            **self.details,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Score:
        """Read what `to_json` returned, now or when all were error rates; more of `reserved` may stand there.

        Raises:
            ValueError: Something is missing, or a value is one that no score has.
        """
        try:
            found = cls._from_json(values)
        except (KeyError, TypeError, ZeroDivisionError) as error:
            raise ValueError(f"it lacks {error}" if isinstance(error, KeyError) else str(error)) from error
        for name in ("metric", "normaliser", "unit", *(name for name in _SAID if name in values)):
            if not isinstance(getattr(found, name), str):
                raise ValueError(f"{name}: {getattr(found, name)!r} is no text")
        if found.better not in get_args(Better):
            raise ValueError(f"better: {found.better!r} is not one of {listing(get_args(Better))}")
        for name in ("count", "skipped", *(name for name in COUNTS if getattr(found, name) is not None)):
            number = getattr(found, name)
            if type(number) is not int or not (name == "count") <= number < _MOST:
                raise ValueError(f"{name}: {number!r} is no number of utterances")
        ends = {} if found.interval is None else dict(zip(ENDS, found.interval, strict=True))
        for name, value in {"value": found.value, **ends, **found.details}.items():
            if type(value) not in (int, float) or not math.isfinite(value):
                raise ValueError(f"{name}: {value!r} is no finite number")
        return found

    @classmethod
    def _from_json(cls, values: Mapping[str, Any]) -> Score:
        own = {name: values[name] for name in ("metric", "normaliser", "count", "skipped")}
        own |= {name: values[name] for name in (*COUNTS, *_SAID) if name in values}
        if all(end in values for end in ENDS):
            own["interval"] = (values[ENDS[0]], values[ENDS[1]])
        named = {*cls.reserved(), values["metric"]}
        details = {name: value for name, value in values.items() if name not in named}
        if "value" not in values:
            value = 100 * sum(values[name] for name in _OLD_RATE) / values["reference_length"]
            return cls(**own, value=value, unit="%", better="lower", details=details)
        rest = {name: values[name] for name in ("value", "unit", "better")}
        return cls(**own, **rest, details=details)

    @classmethod
    def reserved(cls) -> frozenset[str]:
        """Return the names that details cannot have, as JSON holds others under them."""
        return frozenset(
            (
                "metric",
                "value",
                "unit",
                "better",
                "normaliser",
                "count",
                "skipped",
                "seconds",
                "system",
                *_SAID,
                "against",
                "by",
                *ENDS,
                *COUNTS,
            )
        )


def open_metric(
    metric: str, normaliser: str, config: MetricConfig | None = None
) -> tuple[Metric, Normaliser]:
    """Build a metric and a normaliser by their registered names.

    Raises:
        PluginError: No such metric or normaliser, or it does not say which values are better.
        RequestError: They do not go together.
    """
    metric_class, normalise = load("metric", metric), load("normaliser", normaliser)()
    if getattr(metric_class, "better", None) not in get_args(Better):
        raise PluginError(f"metric '{metric}': its `better` has to be {listing(get_args(Better))}")
    needed = [name for name, option in declared(metric_class.Config).items() if option.required]
    if config is None and needed:
        raise RequestError(f"metric '{metric}': {listing(needed)} must be given")
    try:
        built = metric_class(metric_class.Config() if config is None else config)
        built.check(normalise)
    except ValueError as error:
        raise RequestError(f"metric '{metric}' with normaliser '{normaliser}': {error}") from error
    return built, normalise

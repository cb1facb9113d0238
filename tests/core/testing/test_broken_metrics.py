"""Metrics that each break the contract in one way, and the check that has to notice."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import pytest

from kikimimi import Metric, MetricConfig, Normaliser
from kikimimi.testing import ContractError, list_checks, parametrize_checks
from kikimimi.testing.checks import FOR_METRICS
from kikimimi_metrics.error_rates import CER, WER

Details = Mapping[str, float]


class Share(Metric):
    """Words that stand: a metric of one's own that keeps the contract, and that the others break."""

    @dataclass(kw_only=True, frozen=True)
    class Config(MetricConfig):
        case: bool = True
        """Whether upper and lower case differ."""

    better: ClassVar[Literal["lower", "higher"]] = "higher"

    def measure(self, references: Sequence[str], predictions: Sequence[str]) -> Sequence[Details | None]:
        return [self.one(r, p) for r, p in zip(references, predictions, strict=True)]

    def one(self, reference: str, prediction: str) -> Details | None:
        said = self.words(reference)
        return {"words": len(said), "right": len(said & self.words(prediction))} if said else None

    def words(self, text: str) -> set[str]:
        return set((text if self.config.case else text.lower()).split())

    def value(self, details: Details) -> float:
        return details["right"] / details["words"]


@parametrize_checks(Share, exact=Share.Config(), folded=Share.Config(case=False))
def test_a_metric_of_ones_own_passes(check: Any) -> None:
    # Its module is this one, which needs torch.
    if check.name != "import_is_light":
        check()


@parametrize_checks(CER)
def test_contract_of_cer(check: Any) -> None:
    check()


@parametrize_checks(WER)
def test_contract_of_wer(check: Any) -> None:
    check()


class Loose(Share):
    Config: ClassVar[Any] = Share.Config  # pyright: ignore[reportIncompatibleVariableOverride]


class OfAComponent(Loose):
    @dataclass(kw_only=True, frozen=True)
    class Config:
        case: bool = True
        """Whether upper and lower case differ."""


class NoDefault(Loose):
    @dataclass(kw_only=True, frozen=True)
    class Config(MetricConfig):
        case: bool
        """Whether upper and lower case differ."""


class Undocumented(Loose):
    @dataclass(kw_only=True, frozen=True)
    class Config(MetricConfig):
        case: bool = True


class Named(Loose):
    @dataclass(kw_only=True, frozen=True)
    class Config(MetricConfig):
        name: str = "x"
        """What recipes call the plugin."""


class Sideways(Share):
    better: ClassVar[Any] = "faster"


class OddLabel(Share):
    labels: ClassVar[Mapping[str, str]] = {"letters": "letters"}


class UpsideDown(Share):
    better = "lower"


class Generous(Share):
    def value(self, details: Details) -> float:
        return 1.0


class Counting(Share):
    calls = count()

    def one(self, reference: str, prediction: str) -> Details | None:
        return {"words": 1, "right": 0.5 + next(self.calls)}


class Sorting(Share):
    def measure(self, references: Sequence[str], predictions: Sequence[str]) -> Sequence[Details | None]:
        found = super().measure(references, predictions)
        predictions.sort()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
        return found


class Ranking(Share):
    def measure(self, references: Sequence[str], predictions: Sequence[str]) -> Sequence[Details | None]:
        found = super().measure(references, predictions)
        return [None if one is None else {**one, "rank": number} for number, one in enumerate(found)]


class Averaging(Share):
    def measure(self, references: Sequence[str], predictions: Sequence[str]) -> Sequence[Details | None]:
        mean = sum(map(len, predictions)) / max(1, len(predictions))
        found = super().measure(references, predictions)
        return [None if one is None else {**one, "mean": mean} for one in found]


class Short(Share):
    def measure(self, references: Sequence[str], predictions: Sequence[str]) -> Sequence[Details | None]:
        return [one for one in super().measure(references, predictions) if one is not None][1:]


class Total(Share):
    def value(self, details: Details) -> float:
        return details["right"]


class Infinite(Share):
    def value(self, details: Details) -> float:
        return float("inf")


class Taken(Share):
    def one(self, reference: str, prediction: str) -> Details | None:
        found = super().one(reference, prediction)
        return None if found is None else {**found, "count": 1}


class Tensors(Share):
    def one(self, reference: str, prediction: str) -> Details | None:
        found = super().one(reference, prediction)
        return None if found is None else {**found, "right": True}


class Divides(Share):
    def one(self, reference: str, prediction: str) -> Details | None:
        return {"words": 1, "right": len(self.words(prediction)) / len(self.words(reference))}


class Letters(Share):
    def words(self, text: str) -> set[str]:
        if "\x00" in text:
            raise KeyError(text)
        return super().words(text)


class InShares(Share):
    """Words that stand [%]."""

    unit = "%"


class OneByOne(Share):
    def measure(self, references: Sequence[str], predictions: Sequence[str]) -> Sequence[Details | None]:
        return cast("list[Details | None]", iter(super().measure(references, predictions)))


class InheritsItsWords(Metric):
    better: ClassVar[Literal["lower", "higher"]] = "higher"
    Config = Share.Config
    measure, one, words, value = Share.measure, Share.one, Share.words, Share.value


class RefusesByAKey(Share):
    """Words that stand."""

    def check(self, normalise: Normaliser) -> None:
        raise KeyError("cer")


class RefusesWithoutWords(Share):
    """Words that stand."""

    def check(self, normalise: Normaliser) -> None:
        raise ValueError


class TakesDetailsAway(Share):
    def value(self, details: Details) -> float:
        return cast("dict[str, float]", details).pop("right") / details["words"]


class Written(Share):
    def value(self, details: Details) -> float:
        return cast(float, f"{super().value(details):.2f}")


class ChangesItsConfig(Share):
    @dataclass(kw_only=True, frozen=True)
    class Config(MetricConfig):
        case: bool = True
        """Whether upper and lower case differ."""

    def measure(self, references: Sequence[str], predictions: Sequence[str]) -> Sequence[Details | None]:
        object.__setattr__(self.config, "case", False)
        return super().measure(references, predictions)


@pytest.mark.parametrize(
    ("metric", "check", "message"),
    [
        (
            InShares,
            "states_unit_and_direction",
            r"unit '%': expected values of up to about 100, found shares",
        ),
        (
            ChangesItsConfig,
            "a_perfect_answer_is_best",
            r"left as it was, .*True\), found .*False",
        ),
        (OneByOne, "again_is_the_same", r"measure: expected a list, found list_iterator"),
        (InheritsItsWords, "states_its_definition", r"expected a docstring with its definition, found none"),
        (RefusesByAKey, "states_its_definition", r"check: expected a ValueError or none, found KeyError"),
        (RefusesWithoutWords, "states_its_definition", r"check: expected an error that says why"),
        (
            TakesDetailsAway,
            "value_comes_from_details",
            r"value: expected the details as they were, \{'words'",
        ),
        (Written, "a_perfect_answer_is_best", r"value: expected a finite number, found '1\.00'"),
        (OfAComponent, "config_is_a_frozen_dataclass", r"expected a subclass of kikimimi\.MetricConfig"),
        (NoDefault, "config_has_defaults", r"case: expected a default, found none"),
        (Undocumented, "config_is_documented", r"a docstring under every field"),
        (Named, "config_survives_yaml", "recipes use that key themselves"),
        (Sideways, "states_unit_and_direction", "better: expected 'lower' or 'higher', found 'faster'"),
        (OddLabel, "states_unit_and_direction", r"labels: expected names of details \(words, right\)"),
        (UpsideDown, "a_perfect_answer_is_best", r"flawed answers: expected a value no better than .* 1 "),
        (Generous, "a_perfect_answer_is_best", "unrelated answers: expected a value worse than"),
        (Counting, "again_is_the_same", "the same texts again: expected the same details"),
        (Sorting, "again_is_the_same", "expected the lists of texts as they were, found them changed"),
        (Ranking, "order_changes_nothing", "utterances in reverse: expected the same details of each"),
        (Averaging, "order_changes_nothing", "utterances one by one: expected the same details of each"),
        (Short, "order_changes_nothing", "expected one result for each of 4 utterances, found 3"),
        (Total, "value_comes_from_details", "value: expected .* of every utterance twice as of each once"),
        (Infinite, "value_comes_from_details", "value: expected a finite number, found inf"),
        (Taken, "value_comes_from_details", r"names that scores do not use themselves, found \['count'\]"),
        (Tensors, "value_comes_from_details", "right: expected a finite int or float, found True"),
        (Divides, "empty_references_are_taken_or_left_out", "expected details or None, found ZeroDivision"),
        (Averaging, "empty_references_are_taken_or_left_out", "the same details of the others, found others"),
        (Letters, "odd_texts_are_taken_or_refused", "expected details or a ValueError, found KeyError"),
    ],
)
def test_a_broken_metric_is_noticed(metric: type[Metric], check: str, message: str) -> None:
    found = next(one for one in list_checks("metric", metric) if one.name == check)
    with pytest.raises(ContractError, match=message):
        found()


def test_a_metric_that_imports_torch_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "import torch\nfrom kikimimi import Metric\n\nclass Heavy(Metric):\n    pass\n"
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "third_metric.py").write_text(source)
    component = importlib.import_module("third_metric").Heavy
    check = next(one for one in list_checks("metric", component) if one.name == "import_is_light")
    assert "leaves torch alone, found it imported" in (check.result().error or "")


def test_every_check_is_broken_by_a_metric() -> None:
    """The list above and the test after it."""
    mark = next(m for m in test_a_broken_metric_is_noticed.pytestmark if m.name == "parametrize")  # type: ignore[attr-defined]
    broken = {check for _, check, _ in mark.args[1]} | {"import_is_light"}
    assert broken == {function.__name__ for function in FOR_METRICS}

"""Checks of metrics: what they make of perfect, wrong, empty and odd answers, in any order."""

import inspect
import math
from collections.abc import Sequence
from typing import Any

from kikimimi.contracts.metric import Details, Metric, MetricConfig, Score
from kikimimi.contracts.normaliser import Normaliser
from kikimimi.testing.subject import (
    ContractError,
    ExampleSubject,
    check_named,
    expect,
    expect_no_error,
    expect_type,
)

_REFERENCES = (
    "今日は 良い 天気 です ね",
    "the quick brown fox jumps over the lazy dog",
    "明日 の 朝 八時 に 駅 で 会いましょう",
    "it was raining all night long",
)
_WORSE = (
    "今日は 悪い 天気 でした",
    "the quick brown fox jumped over a lazy dog",
    "明日 の 朝 八時 駅 で 会い ましょう か",
    "it rained",
)
_UNRELATED = ("zzz qqq", "ヌヌ ヌヌヌ", "xxx vvv jjj", "ゾゾ")
_ODD = ("", " ", "\n\t", "。", "\x00", "\U0001f442" * 3, "e\u0301", "あ" * 3000, "a " * 1000)


class MetricSubject(ExampleSubject[Metric]):
    """A metric under test."""

    config_base = MetricConfig

    example_is_for = "config to try"

    @property
    def needs_defaults(self) -> bool:
        """Whether it has no example of its own."""
        return vars(Metric)["example"].__func__ is self.component.example.__func__

    def measure(self, references: Sequence[str], predictions: Sequence[str]) -> list[Details | None]:
        """Measure utterances with a metric that is new each time; there is one result for each."""
        given: Any = self.build().measure(list(references), list(predictions))
        expect_type(given, Sequence, "measure: expected a list")
        found = list(given)
        expect(
            len(found) == len(references),
            f"measure: expected one result for each of {len(references)} utterances, found {len(found)}",
        )
        return found

    def value(self, references: Sequence[str], predictions: Sequence[str]) -> float:
        """Return the value of a corpus, none of whose utterances may be left out."""
        kept = [details for details in self.measure(references, predictions) if details is not None]
        expect(
            len(kept) == len(references), f"measure: expected details of {references}, found some left out"
        )
        return self.value_of(_sums(kept))

    def value_of(self, details: Details) -> float:
        """Return the value of details, which are left as they are."""
        before = dict(details)
        found: Any = self.build().value(details)
        expect(
            isinstance(found, float | int) and math.isfinite(found),
            f"value: expected a finite number, found {found!r}",
        )
        expect(details == before, f"value: expected the details as they were, {before}, found {details}")
        return float(found)


class _AsItIs(Normaliser):
    """Nothing: the text as it is."""

    def __call__(self, text: str) -> str:
        """Return the text."""
        return text


@check_named("states_its_definition")
def metric_states_its_definition(subject: MetricSubject) -> None:
    """Its docstring says what it is: a value means nothing without that. `check` takes any normaliser, or a
    ValueError refuses it.
    """
    said = inspect.getdoc(subject.component) or ""
    expect(
        bool(said.strip()) and said != inspect.getdoc(Metric),
        f"{subject.component.__name__}: expected a docstring with its definition, found none",
    )
    try:
        with expect_no_error("check: expected a ValueError or none", ValueError):
            subject.build().check(_AsItIs())
    except ValueError as error:
        expect(bool(str(error).strip()), "check: expected an error that says why, found an empty one")


def states_unit_and_direction(subject: MetricSubject) -> None:
    """`better` is ``lower`` or ``higher``, `unit` a text, and every label names a detail; values of the unit
    ``%`` are no shares of 1.
    """
    better, unit = getattr(subject.component, "better", None), getattr(subject.component, "unit", None)
    expect(better in ("lower", "higher"), f"better: expected 'lower' or 'higher', found {better!r}")
    expect(isinstance(unit, str), f"unit: expected a text, found {unit!r}")
    details = subject.measure(_REFERENCES, _WORSE)[0] or {}
    unknown = [name for name in subject.component.labels if name not in details]
    expect(not unknown, f"labels: expected names of details ({', '.join(details)}), found {unknown}")
    if unit == "%":
        values = [subject.value(_REFERENCES, answers) for answers in (_REFERENCES, _WORSE, _UNRELATED)]
        expect(
            max(map(abs, values)) > 1,
            f"unit '%': expected values of up to about 100, found shares of 1, {values}",
        )


def a_perfect_answer_is_best(subject: MetricSubject) -> None:
    """No answer is better than the reference itself, and one that has nothing of it is worse."""
    perfect = subject.value(_REFERENCES, _REFERENCES)
    sign = 1 if subject.component.better == "higher" else -1
    for what, answers in (("flawed", _WORSE), ("unrelated", _UNRELATED), ("empty", [""] * len(_REFERENCES))):
        found = subject.value(_REFERENCES, answers)
        expect(
            sign * found <= sign * perfect,
            f"{what} answers: expected a value no better than the references' own, {perfect:g} "
            f"({subject.component.better} is better), found {found:g}",
        )
    expect(
        subject.value(_REFERENCES, _UNRELATED) != perfect,
        f"unrelated answers: expected a value worse than the references' own, {perfect:g}, found the same",
    )


def again_is_the_same(subject: MetricSubject) -> None:
    """The same texts have the same details each time, and are left as they are."""
    references, predictions = list(_REFERENCES), list(_WORSE)
    metric = subject.build()
    first = list(metric.measure(references, predictions))
    expect(
        (references, predictions) == (list(_REFERENCES), list(_WORSE)),
        "measure: expected the lists of texts as they were, found them changed",
    )
    again = list(metric.measure(references, predictions))
    expect(
        first == again == subject.measure(_REFERENCES, _WORSE),
        "the same texts again: expected the same details, found others",
    )


def order_changes_nothing(subject: MetricSubject) -> None:
    """An utterance has the same details in any order, and alone."""
    found = subject.measure(_REFERENCES, _WORSE)
    expect(
        subject.measure(_REFERENCES[::-1], _WORSE[::-1]) == found[::-1],
        "utterances in reverse: expected the same details of each, found others",
    )
    alone = [subject.measure([r], [p])[0] for r, p in zip(_REFERENCES, _WORSE, strict=True)]
    expect(alone == found, "utterances one by one: expected the same details of each, found others")


def value_comes_from_details(subject: MetricSubject) -> None:
    """Details are finite numbers that add up, and the value of a part, and of all, comes from their sums."""
    found = [details for details in subject.measure(_REFERENCES, _WORSE) if details is not None]
    expect(bool(found), "measure: expected details of ordinary sentences, found all left out")
    for details in found:
        expect(
            list(details) == list(found[0]),
            f"details: expected the names {list(found[0])} of every utterance, found {list(details)}",
        )
        _expect_plain(details)
        taken = sorted(Score.reserved() & set(details))
        expect(not taken, f"details: expected names that scores do not use themselves, found {taken}")
    subject.value_of(_sums(found[:1]))
    once, twice = (subject.value_of(_sums(found * times)) for times in (1, 2))
    expect(
        math.isclose(once, twice, rel_tol=1e-9, abs_tol=1e-12),
        f"value: expected {once:g} of every utterance twice as of each once, found {twice:g}",
    )


def empty_references_are_taken_or_left_out(subject: MetricSubject) -> None:
    """An empty reference has details, or none (it is left out), and changes nothing of the others."""
    references, predictions = [*_REFERENCES, ""], [*_WORSE, "said all the same"]
    with expect_no_error("an empty reference: expected details or None"):
        found = subject.measure(references, predictions)
        subject.measure([""], [""])
    if found[-1] is not None:
        _expect_plain(found[-1])
    expect(
        found[:-1] == subject.measure(_REFERENCES, _WORSE),
        "an empty reference among others: expected the same details of the others, found others",
    )


def odd_texts_are_taken_or_refused(subject: MetricSubject) -> None:
    """Any text gets finite details, or a ValueError that says what is wrong; never another error."""
    for odd in _ODD:
        for pair in ((_REFERENCES[0], odd), (odd, _WORSE[0]), (odd, odd)):
            shown = f"reference {pair[0][:20]!r}, prediction {pair[1][:20]!r}"
            try:
                with expect_no_error("expected details or a ValueError", ValueError):
                    details = subject.measure([pair[0]], [pair[1]])[0]
                    if details is not None:
                        _expect_plain(details)
                        subject.value_of(details)
            except ContractError as error:
                raise ContractError(f"{shown}: {error}") from error
            except ValueError:
                continue


def _sums(details: Sequence[Details]) -> Details:
    return {name: sum(one[name] for one in details) for name in details[0]}


def _expect_plain(details: Details) -> None:
    for name, number in details.items():
        expect(
            type(number) in (int, float) and math.isfinite(number),
            f"{name}: expected a finite int or float, found {number!r}",
        )

"""What readings say of each guard, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from kikimimi.guards.readings import AskedKind, GuardReply, Readings
from kikimimi.guards.sets import short_questions
from kikimimi.guards.verdict import GuardRow, judge_readings, shown_value
from kikimimi.recipe import Guards

NO_BEFORE = "the LLM is new"
ENGLISH = Guards(languages=["en"])


def reply(
    kind: AskedKind, name: str, answer: str, asked: str = "transcript", *, reference: str = ""
) -> GuardReply:
    return {
        "kind": kind,
        "name": name,
        "language": "en",
        "asked": asked,
        "answer": answer,
        "reference": reference,
    }


def answered(right: int, wrong: str = "no idea") -> list[GuardReply]:
    """Answer the English questions, so many of them right."""
    return [
        reply("question", f"en/{number}", one.answers[0] if number < right else wrong, one.question)
        for number, one in enumerate(short_questions("en"))
    ]


def readings(
    *replies: GuardReply, loss: float | None = None, missing: dict[str, str] | None = None
) -> Readings:
    losses: Any = {} if loss is None else {"en": [(loss * 3, 3), (loss * 5, 5)]}
    return {
        "identity": {"weights": "x", "heard": "nothing"},
        "losses": losses,
        "replies": list(replies),
        "missing": missing or {},
    }


def judged(
    after: Readings, before: Readings | None = None, guards: Guards = ENGLISH
) -> dict[str, list[GuardRow]]:
    found: dict[str, list[GuardRow]] = {}
    for row in judge_readings(after, before, NO_BEFORE, guards):
        found.setdefault(row["guard"], []).append(row)
    assert list(found) == ["forgetting", "silence", "refusals", "instructions", "repetition", "language"]
    return found


@pytest.mark.parametrize(
    ("now", "passed", "why"),
    [(2.0, True, ""), (1.5, True, ""), (2.2, True, ""), (2.3, False, "it has risen by 15.0 %")],
)
def test_the_loss_may_rise_by_a_tenth(now: float, passed: bool, why: str) -> None:
    (row, _) = judged(readings(loss=now), readings(loss=2.0))["forgetting"]
    assert [row["before"], row["after"]] == pytest.approx([2.0, now])
    assert (row["passed"], row["why"]) == (passed, why)
    (row, _) = judged(readings(loss=now), readings(loss=2.0), Guards(languages=["en"], loss=0.2))[
        "forgetting"
    ]
    assert row["passed"]


def test_of_a_loss_near_zero_a_small_rise_counts_for_nothing() -> None:
    (row, _) = judged(readings(loss=0.05), readings(loss=0.01))["forgetting"]
    assert row["passed"]
    (row, _) = judged(readings(loss=0.07), readings(loss=0.01))["forgetting"]
    assert (row["passed"], row["why"]) == (False, "it has risen by 600.0 %")


def test_a_loss_without_a_before_is_shown_and_judged_by_nobody() -> None:
    (row, _) = judged(readings(loss=2.0))["forgetting"]
    assert (row["before"], row["after"], row["passed"], row["why"]) == (None, 2.0, None, NO_BEFORE)


def test_a_loss_that_is_no_number_fails() -> None:
    (row, _) = judged(readings(loss=float("nan")), readings(loss=2.0))["forgetting"]
    assert (row["after"], row["passed"], row["why"]) == (None, False, "the loss is no number")


def test_what_could_not_be_measured_says_why() -> None:
    missing = {"loss en": "it spells none", "questions en": "too few", "silence": "no clips"}
    found = judged(readings(missing=missing))
    assert [row["why"] for row in found["forgetting"]] == ["it spells none", "too few"]
    assert [row["why"] for row in found["silence"]] == ["no clips"]
    assert all(row["passed"] is None for rows in found.values() for row in rows)


@pytest.mark.parametrize(
    ("now", "passed"),
    [(42, True), (40, True), (39, True), (37, False), (0, False)],
)
def test_right_answers_may_fall_by_a_tenth(now: int, passed: bool) -> None:
    (_, row) = judged(readings(*answered(now)), readings(*answered(42)))["forgetting"]
    assert row["after"] == pytest.approx(now / 42)
    assert row["before"] == 1
    assert row["passed"] is passed
    assert row["why"] == "" if passed else f"fallen by {100 * (42 - now) / 42:.1f} points" in row["why"]


def test_a_fall_that_may_be_chance_does_not_fail() -> None:
    # 5 questions more are wrong and 4 others right: the interval holds 0, whatever the bound.
    then, now = answered(20), answered(20)
    for number in range(5):
        now[number]["answer"] = "no idea"
    for number in range(20, 24):
        now[number]["answer"] = short_questions("en")[number].answers[0]
    (_, row) = judged(readings(*now), readings(*then), Guards(languages=["en"], answers=0))["forgetting"]
    assert row["before"] == pytest.approx(20 / 42)
    assert row["after"] == pytest.approx(19 / 42)
    assert row["passed"]


def test_words_out_of_silence() -> None:
    quiet = [reply("silence", f"white noise, {number} s", "(silence)") for number in range(19)]
    (row,) = judged(readings(*quiet, reply("silence", "hum", "")))["silence"]
    assert (row["after"], row["passed"], row["why"]) == (0, True, "")
    (row,) = judged(readings(*quiet, reply("silence", "hum", "Thank you.")))["silence"]
    assert (row["after"], row["passed"]) == (0.05, True)
    (row,) = judged(readings(*quiet[1:], *[reply("silence", "hum", "Thank you.")] * 2))["silence"]
    assert (row["after"], row["passed"]) == (0.1, False)
    assert row["why"] == "2 answers, such as to hum: Thank you."


def test_refusals_count_where_training_brought_them() -> None:
    sorry = "I'm sorry, I cannot answer."
    after, before = readings(*answered(21, sorry)), readings(*answered(21))
    written, heard = judged(after, before)["refusals"]
    assert (written["before"], written["after"], written["passed"]) == (0, 0.5, False)
    assert "21 answers, such as to" in written["why"]
    assert heard["passed"] is None
    written, _ = judged(after, after)["refusals"]
    assert (written["before"], written["after"], written["passed"]) == (0.5, 0.5, True)
    written, _ = judged(after)["refusals"]  # without a before, the share itself is bounded
    assert (written["before"], written["passed"], written["bound"]) == (None, False, "at most 5 %")


def test_a_clip_in_which_somebody_refuses_is_no_refusal() -> None:
    said = "I'm sorry, I can't come."
    _, heard = judged(readings(reply("transcript", "a", said, reference=said)))["refusals"]
    assert (heard["after"], heard["passed"]) == (0, True)
    _, heard = judged(readings(reply("transcript", "a", said, reference="Good morning.")))["refusals"]
    assert (heard["after"], heard["passed"]) == (1, False)


def test_a_model_that_writes_down_whatever_it_is_asked() -> None:
    clips = [
        reply("transcript", "a", "Two men came in."),
        reply("instruction", "a", "Two men came in", "yes"),
        reply("instruction", "a", "2", "count"),
        reply("transcript", "b", "It rains."),
        reply("instruction", "b", "it rains", "yes"),
        reply("instruction", "b", "1", "count"),
        reply("transcript", "c", ""),
        reply("instruction", "c", "", "count"),
    ]
    (row,) = judged(readings(*clips))["instructions"]
    assert (row["after"], row["passed"]) == (0.5, False)  # of c nothing can be said
    assert row["what"].startswith("4 answers")
    assert row["why"] == "2 answers, such as to a (yes): Two men came in"
    (row,) = judged(readings(*clips[-2:]))["instructions"]
    assert (row["passed"], row["why"]) == (None, "no clip has a transcript with words in it")


def test_loops_in_any_answer() -> None:
    loop = "yes " * 20
    after = readings(*answered(42), reply("silence", "hum", loop), reply("transcript", "a", "It rains."))
    written, heard = judged(after, readings(*answered(42)))["repetition"]
    assert (written["after"], written["passed"]) == (0, True)
    assert (heard["after"], heard["passed"]) == (0.5, False)
    _, heard = judged(readings(reply("transcript", "a", loop, reference=loop)))["repetition"]
    assert heard["after"] == 0  # it was said so
    written, _ = judged(readings(*answered(0, loop)), readings(*answered(42)))["repetition"]
    assert (written["after"], written["passed"]) == (1, False)


def test_answers_in_another_script() -> None:
    after = readings(
        *answered(0, "東京"),
        reply("instruction", "a", "雨", "topic"),
        reply("instruction", "a", "雨が降る", "translate"),  # which is asked for
        reply("transcript", "a", "It rains."),
        reply("silence", "hum", "雨"),  # a guard of its own
    )
    written, heard = judged(after, readings(*answered(42)))["language"]
    assert (written["before"], written["after"], written["passed"]) == (0, 1, False)
    assert (heard["after"], heard["passed"]) == (0.5, False)


def test_values_in_words() -> None:
    assert shown_value(0.0714, "share") == "7.1 %"
    assert shown_value(2.3456, "nats") == "2.346"
    assert shown_value(None, "share") == "-"

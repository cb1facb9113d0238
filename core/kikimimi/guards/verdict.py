"""What readings of a model, before and after training, say of each guard."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from statistics import fmean
from typing import ClassVar

from typing_extensions import TypedDict

from kikimimi.console.words import counted
from kikimimi.contracts.metric import Better, Details, Metric, MetricConfig
from kikimimi.evaluation.bootstrap import compare
from kikimimi.evaluation.loops import has_loop
from kikimimi.guards.readings import ELSEWHERE, OWN, GuardReply, Readings
from kikimimi.guards.sets import short_questions
from kikimimi.guards.wording import drifts, has_words, holds_answer, letters, refuses, same_text
from kikimimi.recipe.schema import GuardLanguage, GuardName, Guards

LANGUAGE_NAMES: dict[str, str] = {"ja": "Japanese", "en": "English"}
"""What languages are called."""
_SETS: tuple[GuardLanguage, ...] = ("ja", "en")
LEAST_RISE = 0.05
"""Smallest rise of a loss that counts [nats per token]: of a loss near 0 any rise is many times that."""
_ROUNDING = 1e-9  # of a difference of shares


class GuardRow(TypedDict):
    """A line of a verdict.

    Attributes:
        guard: The guard that it is of.
        what: What was measured.
        unit: ``nats`` per token, or ``share`` [0 to 1].
        before: Value before training; None where there is none.
        after: Value as the run left it; None where there is none.
        bound: What it is held against, in words.
        passed: Whether it is in its bound; None where that is not applicable.
        why: Why it failed, or is not applicable; empty where it passed.
    """

    guard: GuardName
    what: str
    unit: str
    before: float | None
    after: float | None
    bound: str
    passed: bool | None
    why: str


class Verdict(TypedDict):
    """What the guards say of weights of a run.

    Attributes:
        weights: What tells the weights from others.
        stage: The stage that left them, or has reached them.
        before: What they are compared with, in words.
        rows: The lines, guard by guard.
    """

    weights: str
    stage: str
    before: str
    rows: list[GuardRow]


class RightShare(Metric):
    """Share of answers that are right."""

    Config = MetricConfig
    better: ClassVar[Better] = "higher"

    def measure(self, references: Sequence[str], predictions: Sequence[str]) -> Sequence[Details | None]:
        """Return of each answer whether it is the reference."""
        return [{"right": r == p, "asked": 1} for r, p in zip(references, predictions, strict=True)]

    def value(self, details: Details) -> float:
        """Return the share."""
        return details["right"] / details["asked"]


def judge_readings(
    after: Readings, before: Readings | None, no_before: str, guards: Guards
) -> list[GuardRow]:
    """Return what readings say of each guard.

    Args:
        after: Readings of the trained model.
        before: Readings of its LLM before training; None where there are none.
        no_before: Why there are none.
        guards: The bounds.
    """
    rows = [*_losses(after, before, no_before, guards), *_rights(after, before, no_before, guards)]
    rows.append(_silence(after, guards))
    rows += _shares(
        "refusals",
        lambda one: refuses(one["answer"]) and not refuses(one["reference"]),
        after,
        before,
        guards.refusals,
        "{} that are refused",
    )
    rows.append(_instructions(after, guards))
    rows += _shares(
        "repetition",
        lambda one: has_loop(one["answer"]) and not has_loop(one["reference"]),
        after,
        before,
        guards.repetition,
        "answers to {} that loop",
        silence=True,
    )
    rows += _shares(
        "language",
        lambda one: drifts(one["answer"], one["language"]),
        after,
        before,
        guards.language,
        "answers to {} in another script",
    )
    return rows


def _row(
    guard: GuardName,
    what: str,
    after: float | None,
    bound: str,
    passed: bool | None,
    why: str = "",
    *,
    before: float | None = None,
    unit: str = "share",
) -> GuardRow:
    return {
        "guard": guard,
        "what": what,
        "unit": unit,
        "before": before,
        "after": after,
        "bound": bound,
        "passed": passed,
        "why": "" if passed else why,
    }


def shown_value(value: float | None, unit: str) -> str:
    """Return a value of a row in words; a dash where there is none."""
    if value is None:
        return "-"
    return f"{100 * value:.1f} %" if unit == "share" else f"{value:.3f}"


def _losses(after: Readings, before: Readings | None, no_before: str, guards: Guards) -> Iterator[GuardRow]:
    bound = f"rise of at most {100 * guards.loss:g} %"
    for language in _parts(after, guards):
        held_out = f"{LANGUAGE_NAMES[language]} text" if language != OWN else "answers of an evaluation"
        what = f"loss of held-out {held_out} [nats/token]"
        now, then = _loss(after, language), None if before is None else _loss(before, language)
        if now is None:
            missing = after["missing"].get(f"loss {language}", "it was not measured")
            yield _row("forgetting", what, None, bound, None, missing, unit="nats")
        elif not math.isfinite(now):
            why = "the loss is no number"
            yield _row("forgetting", what, None, bound, False, why, before=then, unit="nats")
        elif then is None or not math.isfinite(then):
            why = no_before if then is None else "the loss before training is no number"
            yield _row("forgetting", what, now, bound, None, why, unit="nats")
        else:
            rise = now / then - 1 if then else math.inf
            why = f"it has risen by {100 * rise:.1f} %"
            passed = now <= max(then * (1 + guards.loss), then + LEAST_RISE)
            yield _row("forgetting", what, now, bound, passed, why, before=then, unit="nats")


def _parts(readings: Readings, guards: Guards) -> list[str]:
    """Return the languages that were asked in, or what stands in for them."""
    own = OWN in readings["losses"] or f"loss {OWN}" in readings["missing"]
    return [OWN] if own else list(guards.languages)


def _loss(readings: Readings, language: str) -> float | None:
    """Return the mean over all tokens [nats]; None where nothing was measured."""
    found = readings["losses"].get(language)
    return sum(loss for loss, _ in found) / sum(tokens for _, tokens in found) if found else None


def _rights(after: Readings, before: Readings | None, no_before: str, guards: Guards) -> Iterator[GuardRow]:
    bound = f"fall of at most {100 * guards.answers:g} points"
    for language in _parts(after, guards):
        now = _right(after, language)
        asked = f"{LANGUAGE_NAMES[language]} questions" if language != OWN else "requests of an evaluation"
        what = f"right answers to {len(now) or ''} {asked}".replace("  ", " ")
        if not now:
            missing = after["missing"].get(f"questions {language}", "they were not asked")
            yield _row("forgetting", what, None, bound, None, missing)
            continue
        then = {} if before is None else _right(before, language)
        both = [name for name in now if name in then]
        share = fmean(now.values())
        if not both:
            yield _row("forgetting", what, share, bound, None, no_before)
            continue
        one, other = ([{"right": said[name], "asked": 1} for name in both] for said in (now, then))
        compared = compare(RightShare(MetricConfig()), one, other)
        earlier = fmean(then[name] for name in both)
        fall = earlier - share
        surely = compared is not None and compared.high < 0
        why = f"it has fallen by {100 * fall:.1f} points"
        if compared is not None:
            why += f" (95 % interval {-100 * compared.high:.1f} to {-100 * compared.low:.1f})"
        passed = not (surely and fall > guards.answers)
        yield _row("forgetting", what, share, bound, passed, why, before=earlier)


def _right(readings: Readings, language: str) -> dict[str, bool]:
    """Return of each question that was asked in a language whether the answer is right."""
    asked = [one for one in readings["replies"] if one["kind"] == "question"]
    asked = [one for one in asked if one["name"].startswith(f"{language}/")]
    if language == OWN:
        return {one["name"]: letters(one["answer"]) == letters(one["reference"]) for one in asked}
    questions = {f"{name}/{n}": one for name in _SETS for n, one in enumerate(short_questions(name))}
    return {one["name"]: holds_answer(one["answer"], questions[one["name"]].answers) for one in asked}


def _silence(after: Readings, guards: Guards) -> GuardRow:
    replies = [one for one in after["replies"] if one["kind"] == "silence"]
    bound = f"at most {100 * guards.silence:g} %"
    if not replies:
        missing = after["missing"].get("silence", "none was heard")
        return _row("silence", "clips without speech that yield words", None, bound, None, missing)
    wordy = [one for one in replies if has_words(one["answer"])]
    share = len(wordy) / len(replies)
    what = f"{len(replies)} clips without speech that yield words"
    return _row("silence", what, share, bound, share <= guards.silence, _example(wordy))


def _example(replies: Sequence[GuardReply]) -> str:
    """Return in words what was answered first, of answers that ought not to be so."""
    if not replies:
        return ""
    first = replies[0]
    clip = first["name"] if first["kind"] == "silence" else f"{first['name']} ({first['asked']})"
    asked = first["asked"] if first["kind"] == "question" else clip
    said = " ".join(first["answer"].split())
    said = said if len(said) <= 60 else f"{said[:57]}..."
    return f"{counted(len(replies), 'answer')}, such as to {asked}: {said}"


def _instructions(after: Readings, guards: Guards) -> GuardRow:
    replies = after["replies"]
    transcripts = {one["name"]: one["answer"] for one in replies if one["kind"] == "transcript"}
    others = [
        one for one in replies if one["kind"] == "instruction" and letters(transcripts.get(one["name"], ""))
    ]
    bound = f"at most {100 * guards.instructions:g} %"
    what = "answers to other instructions that are the transcript"
    if not others:
        missing = after["missing"].get("clips") or (
            "no clip has a transcript with words in it" if transcripts else "no clip was asked about"
        )
        return _row("instructions", what, None, bound, None, missing)
    same = [one for one in others if same_text(transcripts[one["name"]], one["answer"])]
    share = len(same) / len(others)
    what = f"{len(others)} answers to other instructions that are the transcript"
    return _row("instructions", what, share, bound, share <= guards.instructions, _example(same))


def _shares(
    guard: GuardName,
    is_so: Callable[[GuardReply], bool],
    after: Readings,
    before: Readings | None,
    most: float,
    what: str,
    *,
    silence: bool = False,
) -> Iterator[GuardRow]:
    """Yield a row of the answers in writing, and one of those about clips."""
    now, then = (
        [] if of is None else [one for one in of["replies"] if one["kind"] == "question"]
        for of in (after, before)
    )
    known = bool(then)
    bound = f"{'rise of ' if known else ''}at most {100 * most:g} {'points' if known else '%'}"
    title = what.format(f"{len(now) or ''} questions in writing".strip())
    if now:
        found = [one for one in now if is_so(one)]
        share = len(found) / len(now)
        earlier = sum(map(is_so, then)) / len(then) if known else None
        passed = share - (earlier or 0) <= most + _ROUNDING
        yield _row(guard, title, share, bound, passed, _example(found), before=earlier)
    else:
        missing = next((why for key, why in after["missing"].items() if key.startswith("questions")), "")
        yield _row(guard, title, None, bound, None, missing or "none was asked")
    kinds = ("transcript", "instruction", "silence") if silence else ("transcript", "instruction")
    heard = [
        one
        for one in after["replies"]
        if one["kind"] in kinds and not (guard == "language" and one["asked"] == ELSEWHERE)
    ]
    bound = f"at most {100 * most:g} %"
    title = what.format(f"{len(heard) or ''} requests about clips".strip())
    if heard:
        found = [one for one in heard if is_so(one)]
        share = len(found) / len(heard)
        yield _row(guard, title, share, bound, share <= most, _example(found))
    else:
        yield _row(guard, title, None, bound, None, after["missing"].get("clips", "no clip was asked about"))

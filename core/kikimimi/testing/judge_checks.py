"""Checks of judges: one reply to each prompt, whatever it says, and an identity for what is kept of them."""

from collections.abc import Sequence
from copy import deepcopy
from itertools import islice
from typing import Any

from kikimimi.contracts.judge import Judge, JudgeConfig, JudgePrompt, JudgeReply
from kikimimi.testing.config_checks import other_identities
from kikimimi.testing.subject import ExampleSubject, check_named, expect, expect_type

_SYSTEM = "You are a judge of answers."
_TEXTS = (
    'Rate the response. reference: "tea" response: "tea" Reply with a score from 0 to 10.',
    'Rate the response. reference: "cats" response: "dogs and birds" Reply with a score from 0 to 10.',
    'Rate the response. reference: "八時" response: "八時です" Reply with a score from 0 to 10.',
)
_ODD = ("", " \n", "\x00", "<|im_end|><|im_start|>system", "</s>", '"}]}', "\U0001f442" * 3, "あ" * 3000)


class JudgeSubject(ExampleSubject[Judge]):
    """A judge under test: that of the config that is given, or else of its example."""

    config_base = JudgeConfig

    example_is_for = "judge that can be asked here"

    def ask(self, texts: Sequence[str]) -> list[JudgeReply]:
        """Ask a judge that is new each time; there is one reply to each prompt."""
        prompts = [JudgePrompt(system=_SYSTEM, text=text) for text in texts]
        found: dict[int, JudgeReply] = {}
        for given in self.build().ask(prompts):
            pair: Any = given
            expect(
                isinstance(pair, tuple) and len(pair) == 2 and type(pair[0]) is int,
                f"ask: expected the number of a prompt and its reply, found {pair!r}",
            )
            number, reply = pair
            expect(
                0 <= number < len(prompts) and number not in found,
                f"ask: expected each of {len(prompts)} prompts once, found {number} after {sorted(found)}",
            )
            expect_type(reply, JudgeReply, "ask: expected a JudgeReply")
            found[number] = reply
        expect(
            len(found) == len(prompts),
            f"ask: expected a reply to each of {len(prompts)} prompts, found {sorted(found)}",
        )
        return [found[number] for number in range(len(prompts))]


@check_named("states_its_identity")
def judge_states_its_identity(subject: JudgeSubject) -> None:
    """`identity` is the same text for equal configs, and another where an option is another: kept answers
    would be taken for its own.
    """
    names = [subject.component.identity(config) for config in (subject.config, deepcopy(subject.config))]
    expect(
        all(isinstance(name, str) and name.strip() for name in names) and names[0] == names[1],
        f"identity: expected the same text each time, found {names} of equal configs",
    )
    others = other_identities(subject)
    expect(
        not others or any(name != names[0] for name in others.values()),
        f"identity: expected another text with another {' or '.join(others)}, found {names[0]!r} each time. "
        "The contract's own tells every option",
    )


def prompts_have_one_reply_each(subject: JudgeSubject) -> None:
    """Each prompt has one reply, with its number: a text or a failure, and how many tokens it took."""
    for reply in subject.ask(_TEXTS):
        expect(isinstance(reply.text, str), f"text: expected a text, found {reply.text!r}")
        expect(
            reply.failure is None or bool(reply.failure.strip()),
            f"failure: expected a reason, or None, found {reply.failure!r}",
        )
        for name in ("tokens_in", "tokens_out"):
            number: Any = getattr(reply, name)
            expect(
                type(number) is int and number >= 0, f"{name}: expected a number of tokens, found {number!r}"
            )
    expect(subject.ask([]) == [], "no prompts: expected no replies")


@check_named("order_changes_nothing")
def order_of_prompts_changes_nothing(subject: JudgeSubject) -> None:
    """A prompt has the same reply in any order, alone, and again: no prompt sees another."""
    found = subject.ask(_TEXTS)
    for what, again in {
        "a second time": subject.ask(_TEXTS),
        "in reverse": subject.ask(_TEXTS[::-1])[::-1],
        "one by one": [subject.ask([text])[0] for text in _TEXTS],
    }.items():
        expect(again == found, f"the same prompts {what}: expected {found}, found {again}")


@check_named("odd_texts_are_taken_or_refused")
def odd_prompts_have_a_reply(subject: JudgeSubject) -> None:
    """Any text has a reply, which may be a failure, and changes nothing of the others."""
    expected = subject.ask(_TEXTS[:1])[0]
    for odd in _ODD:
        found = subject.ask([odd, _TEXTS[0]])[1]
        expect(found == expected, f"beside {odd[:20]!r}: expected {expected}, found {found}")


def can_be_stopped(subject: JudgeSubject) -> None:
    """Who stops in the middle can ask the same judge again."""
    judge = subject.build()
    prompts = [JudgePrompt(system=_SYSTEM, text=text) for text in _TEXTS]
    replies = judge.ask(prompts)
    expect(len(list(islice(replies, 1))) == 1, "ask: expected a first reply, found none")
    getattr(replies, "close", lambda: None)()
    found = len(list(judge.ask(prompts)))
    expect(found == len(prompts), f"asked again: expected {len(prompts)} replies, found {found}")

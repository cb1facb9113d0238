"""Checks of recognisers: what they make of clips, one by one and in batches."""

import math
from collections.abc import Sequence
from contextlib import suppress
from copy import deepcopy
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kikimimi.contracts.conversation import AudioPart, Conversation, Message, TextPart
from kikimimi.contracts.recogniser import Recogniser, RecogniserConfig
from kikimimi.data.stream import MIN_SECONDS
from kikimimi.errors import AudioError
from kikimimi.testing.config_checks import other_identities
from kikimimi.testing.subject import (
    ExampleSubject,
    check_named,
    expect,
    expect_no_error,
    expect_raised,
)

_LANGUAGE = "en"
_LONGEST = 60.0
"""Clips longer than `max_seconds` are tried up to here [s]."""


class RecogniserSubject(ExampleSubject[Recogniser]):
    """A recogniser under test: that of the config that is given, or else of its example."""

    config_base = RecogniserConfig

    example_is_for = "small model to transcribe with"

    @cached_property
    def recogniser(self) -> Recogniser:
        """The recogniser, which is built once: it may be large."""
        return self.build()

    def clips(self) -> list[NDArray[np.float32]]:
        """Return clips of unequal lengths."""
        rate = self.recogniser.sample_rate
        draw = np.random.default_rng(0)
        return [
            (0.1 * draw.standard_normal(int(seconds * rate))).astype(np.float32)
            for seconds in (0.5, 1.2, 0.3)
        ]

    def transcribe(self, clips: list[NDArray[np.float32]], language: str | None = _LANGUAGE) -> list[str]:
        """Transcribe clips, and check that there is one text for each."""
        return _texts("transcribe", self.recogniser.transcribe(clips, language), len(clips))


def identities_differ_with_options(subject: RecogniserSubject) -> None:
    """`identity` is another text where an option is another: saved transcripts would be taken for its own."""
    own, others = subject.component.identity(subject.config), other_identities(subject)
    expect(
        not others or any(name != own for name in others.values()),
        f"identity: expected another text with another {' or '.join(others)}, found {own!r} each time. The "
        "contract's own tells every option",
    )


def _texts(method: str, found: Any, number: int) -> list[str]:
    """Return what a method gave, if it is one text for each clip."""
    expect(
        isinstance(found, Sequence)
        and not isinstance(found, str)
        and all(isinstance(text, str) for text in found)
        and len(found) == number,
        f"{method}: expected a list of {number} texts, found {found!r}",
    )
    return list(found)


def states_what_it_takes(subject: RecogniserSubject) -> None:
    """`sample_rate` is a whole number of hertz, `max_seconds` above 0 or None, `identity` a text."""
    rate, bound = subject.recogniser.sample_rate, subject.recogniser.max_seconds
    expect(type(rate) is int and rate > 0, f"sample_rate: expected a whole number above 0, found {rate!r}")
    expect(bound is None or bound > 0, f"max_seconds: expected a number above 0 or None, found {bound!r}")
    names = [subject.component.identity(config) for config in (subject.config, deepcopy(subject.config))]
    expect(
        all(isinstance(name, str) and name.strip() for name in names) and names[0] == names[1],
        f"identity: expected the same text each time, found {names} of equal configs",
    )


def clips_have_one_text_each(subject: RecogniserSubject) -> None:
    """There is one text for each clip, in their order; the same clips have the same again, and alone."""
    clips = subject.clips()
    before = [clip.copy() for clip in clips]
    found = subject.transcribe(clips)
    expect(
        all((one == other).all() for one, other in zip(clips, before, strict=True)),
        "transcribe: expected the clips as they were, found them changed",
    )
    for what, again in {
        "a second time": subject.transcribe(clips),
        "in reverse": subject.transcribe(clips[::-1])[::-1],
        "one by one": [subject.transcribe([clip])[0] for clip in clips],
    }.items():
        expect(again == found, f"the same clips {what}: expected {found}, found {again}")
    expect(subject.transcribe([]) == [], "no clips: expected no texts")


def prompts_have_one_answer_each(subject: RecogniserSubject) -> None:
    """What an evaluation asks about clips has one answer each, in their order, and the same alone."""
    clips = subject.clips()
    prompts = [_asked(words) for words in ("What is said?", "Who speaks?", "What is said?")]

    def respond(chosen: list[int]) -> list[str]:
        found = subject.recogniser.respond(
            [prompts[i] for i in chosen], [clips[i] for i in chosen], _LANGUAGE
        )
        return _texts("respond", found, len(chosen))

    found = respond([0, 1, 2])
    for what, again in {
        "in reverse": respond([2, 1, 0])[::-1],
        "one by one": [respond([i])[0] for i in range(3)],
    }.items():
        expect(again == found, f"respond: the same prompts {what}: expected {found}, found {again}")


def _asked(words: str) -> Conversation:
    return Conversation((Message("user", (AudioPart("0.flac"), TextPart(words))),))


def silence_is_taken(subject: RecogniserSubject) -> None:
    """Silence, the shortest clip that data may hold, and a clip whose language is not known, have a text,
    which may be empty.
    """
    rate = subject.recogniser.sample_rate
    shortest = subject.clips()[0][: math.ceil(MIN_SECONDS * rate)]
    for what, clip in {"silence": np.zeros(rate, np.float32), f"{MIN_SECONDS} s": shortest}.items():
        with expect_no_error(f"a clip of {what}: expected a text"):
            subject.transcribe([clip])
    subject.transcribe(subject.clips(), None)


def nothing_is_remembered(subject: RecogniserSubject) -> None:
    """A recogniser that is new gives the same texts as one that heard other clips in another language."""
    clips, used = subject.clips(), subject.recogniser
    expected = list(subject.build().transcribe(clips, None))
    subject.transcribe(clips[::-1])
    found = list(used.transcribe(clips, None))
    expect(found == expected, f"expected {expected} as of one that is new, found {found}")


@check_named("longest_clip_works")
def too_long_clips_are_refused(subject: RecogniserSubject) -> None:
    """A clip of `max_seconds` has a text; a longer one is an AudioError, never cut."""
    bound, rate = subject.recogniser.max_seconds, subject.recogniser.sample_rate
    if bound is None or bound > _LONGEST:
        return
    subject.transcribe([np.zeros(int(bound * rate), np.float32)])
    what = f"a clip of {bound + 1:g} s, longer than max_seconds"
    with suppress(AudioError), expect_raised(AudioError, what):
        subject.transcribe([np.zeros(int((bound + 1) * rate), np.float32)])

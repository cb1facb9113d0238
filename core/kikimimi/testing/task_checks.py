"""Checks of tasks: what they make of records, and what they say of records that they cannot use."""

import json
import pickle
import random
import re
from collections.abc import Iterator
from copy import deepcopy
from functools import cached_property
from random import Random
from typing import Any

from kikimimi.contracts.conversation import AudioPart, Conversation, TextPart
from kikimimi.contracts.task import Task, TaskConfig
from kikimimi.testing.records import CLIP, conversation, labelled_clip, refusal
from kikimimi.testing.subject import (
    ContractError,
    PlainSubject,
    check_named,
    expect,
    expect_no_error,
    expect_type,
)

_SEEDS = (None, *range(20))
"""Random numbers that a check tries; None gives none to draw."""
_ODD: tuple[Any, ...] = ({"odd": [1]}, [{}], [], "", 3.5, True)
"""What a field should not hold, or seldom does."""


class TaskSubject(PlainSubject[Task]):
    """A task under test, and a record that it takes."""

    config_base = TaskConfig

    @cached_property
    def record(self) -> tuple[dict[str, Any], list[str]]:
        """A record that the task takes, and the names of its clips: its own example, or one of the kit's."""
        task = self.build()
        example = task.example()
        if example is not None:
            return example
        refusals: list[str] = []
        for record in (labelled_clip(Random(0)), conversation(Random(0), said=True)):
            if (said := refusal(task, deepcopy(record))) is None:
                return record, [CLIP]
            refusals.append(said)
        raise ContractError(
            f"{self.component.__name__}: expected it to take a record, found that it refuses a labelled clip "
            f"({refusals[0]}) and a conversation ({refusals[1]}). Return one that it takes from `example`"
        )

    def converse(self, seed: int | None = None, task: Task | None = None) -> Conversation:
        """Make the conversation of the record with the random numbers of a seed; None gives none to draw."""
        record, clips = deepcopy(self.record)
        rng = None if seed is None else Random(seed)
        found = (task or self.build()).conversation(record, clips, rng)
        expect_type(found, Conversation, "conversation: expected a kikimimi.Conversation")
        return found

    def converse_often(self) -> list[Conversation]:
        """Return the conversation without random numbers, and those of several seeds."""
        return [self.converse(seed) for seed in _SEEDS]


def conversation_ends_in_an_answer(subject: TaskSubject) -> None:
    """A conversation has turns, none of them empty, and ends with what the assistant has to learn."""
    for found in subject.converse_often():
        expect(bool(found.messages), "conversation: expected at least one turn, found none")
        for number, message in enumerate(found.messages):
            said = [part for part in message.parts if isinstance(part, AudioPart) or part.text.strip()]
            expect(bool(said), f"turn {number} ({message.role}): expected words or audio, found none")
        last = found.messages[-1].role
        expect(last == "assistant", f"last turn: expected the assistant's, found the {last}'s")
        expect(bool(found.reference().strip()), "last turn: expected the text of an answer, found none")
        expect(
            any(message.role == "user" for message in found.messages),
            "conversation: expected a turn of the user, found none",
        )


def audio_parts_are_the_clips(subject: TaskSubject) -> None:
    """Every audio part names a clip of the record; without clips there is no audio, or an error."""
    record, clips = subject.record
    for found in subject.converse_often():
        for name in found.clips():
            expect(name in clips, f"audio part: expected one of the record's clips {clips}, found {name!r}")
    if clips:
        silent = _try(subject, deepcopy(record), [], "clips []")
        expect(
            isinstance(silent, ValueError) or not silent.clips(),
            "a record without clips: expected a ValueError or a conversation without audio, found audio",
        )


def the_same_draw_is_the_same(subject: TaskSubject) -> None:
    """The random numbers that it is given decide, and nothing else; the record is left as it is."""
    state = random.getstate()
    try:
        for seed in (None, 0, 1, 2):
            found = []
            for other in (1, 2, 3):
                random.seed(other)
                found.append(subject.converse(seed))
            expect(
                found[0] == found[1] == found[2],
                f"rng {'None' if seed is None else f'Random({seed})'}: expected the same conversation each "
                "time, found others",
            )
    finally:
        random.setstate(state)
    record, clips = deepcopy(subject.record)
    subject.build().conversation(record, clips, None)
    expect((record, clips) == subject.record, "expected the record as it was, found it changed")


def without_draw_the_first_is_asked(subject: TaskSubject) -> None:
    """Without random numbers, what is asked is what `question` asks: evaluation and use agree."""
    question = _question(subject, subject.record[0].get("language"))
    if question is None:
        return
    asked, wanted = _texts(subject.converse().prompt()), _texts(question)
    expect(
        asked[: len(wanted)] == wanted, f"rng None: expected the texts of question(), {wanted}, found {asked}"
    )


def question_is_of_one_clip(subject: TaskSubject) -> None:
    """`question` asks of the clip ``0`` and leaves the answer open, or raises a ValueError."""
    for language in (None, "ja", "en", "xx"):
        found = _question(subject, language)
        if found is None:
            continue
        expect(
            found.clips() == ["0"], f"question({language!r}): expected the clip '0', found {found.clips()}"
        )
        last = found.messages[-1].role
        expect(last == "user", f"question({language!r}): expected the user's turn last, found the {last}'s")


def phrasings_are_all_it_adds(subject: TaskSubject) -> None:
    """Every text is made of the record's own and of `phrasings`: a tokenizer can be built of the two."""
    task = subject.build()
    phrasings = task.phrasings()
    expect(
        all(isinstance(text, str) and text for text in phrasings),
        f"phrasings: expected texts, found {phrasings}",
    )
    expect(
        len(set(phrasings)) == len(phrasings),
        f"phrasings: expected each text once, found {sorted(t for t in phrasings if phrasings.count(t) > 1)}",
    )
    pieces = sorted({*phrasings, *_strings(subject.record[0])}, key=len, reverse=True)
    made = re.compile("(?:" + "|".join(map(re.escape, filter(None, pieces))) + ")*")
    for found in subject.converse_often():
        for text in _texts(found):
            expect(
                made.fullmatch(text) is not None,
                f"expected a text of the record or of phrasings(), found {text!r}",
            )


def a_missing_field_is_named(subject: TaskSubject) -> None:
    """Where a record lacks a field that is needed, the ValueError names it; an empty record is refused."""
    record, clips = subject.record
    for name in record:
        without = {key: deepcopy(value) for key, value in record.items() if key != name}
        what = f"a record without {name!r}"
        found = _try(subject, without, list(clips), what)
        said = str(found) if isinstance(found, ValueError) else name
        expect(name in said, f"{what}: expected a ValueError that names it, found: {said}")
    found = _try(subject, {}, list(clips), "an empty record")
    expect(isinstance(found, ValueError), "an empty record: expected a ValueError, found a conversation")
    expect(
        any(re.search(rf"\b{re.escape(name)}\b", str(found)) for name in record),
        f"an empty record: expected a ValueError that names a field, found: {found}",
    )


def odd_fields_are_refused(subject: TaskSubject) -> None:
    """A field that holds something odd gives a ValueError, or is not read; never another error."""
    record, clips = subject.record
    for name in record:
        for odd in _ODD:
            changed = deepcopy(record) | {name: deepcopy(odd)}
            found = _try(subject, changed, list(clips), f"{name}: {odd!r}")
            for message in found.messages if isinstance(found, Conversation) else ():
                for part in message.parts:
                    expect(
                        part.text is None or isinstance(part.text, str),
                        f"{name}: {odd!r}: expected a ValueError, found it as the text of a turn",
                    )


@check_named("pickling_keeps_it")
def task_pickling_keeps_it(subject: TaskSubject) -> None:
    """Pickling, by which a task reaches the processes of a data loader, changes nothing."""
    restored = pickle.loads(pickle.dumps(subject.build()))
    for seed in (None, 0, 1):
        expect(
            subject.converse(seed, restored) == subject.converse(seed),
            "pickled and unpickled: expected the same conversation, found another",
        )


def _try(
    subject: TaskSubject, record: dict[str, Any], clips: list[str], what: str
) -> Conversation | ValueError:
    """Return the conversation, or the error by which the record is refused as it should be."""
    try:
        with expect_no_error(f"{what}: expected a ValueError", ValueError):
            return subject.build().conversation(record, clips, None)
    except ValueError as error:
        return error


def _question(subject: TaskSubject, language: Any) -> Conversation | None:
    try:
        return subject.build().question(language)
    except ValueError:
        return None


def _texts(conversation: Conversation) -> list[str]:
    return [
        part.text for message in conversation.messages for part in message.parts if isinstance(part, TextPart)
    ]


def _strings(value: Any) -> Iterator[str]:
    """Yield every text and number of a record, as texts."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)
    elif isinstance(value, str):
        yield value
    elif value is not None:
        yield json.dumps(value)

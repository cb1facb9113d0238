"""Checks of tasks: what they make of records, and what they say of records that they cannot use."""

import json
import pickle
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from copy import deepcopy
from functools import cached_property, partial
from random import Random
from typing import Any

from kikimimi.console.words import listing
from kikimimi.contracts.conversation import AudioPart, Conversation, TextPart
from kikimimi.contracts.task import Task, TaskConfig
from kikimimi.testing.import_check import conversations_elsewhere
from kikimimi.testing.records import CLIP, conversation, labelled_clip, refusal
from kikimimi.testing.subject import (
    ContractError,
    NotTriedError,
    PlainSubject,
    check_named,
    expect,
    expect_no_error,
    expect_not_seeded,
    expect_type,
)

_SEEDS = (None, *range(20))
"""Random numbers that a check tries; None gives none to draw."""
_HASH_SEEDS = ("1", "2", "3")
"""``PYTHONHASHSEED`` of the processes that are asked; some agree by chance where a set has few members."""
_WORDS = "津軽、岩木山"
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
            found.rejected != found.reference(),
            f"rejected: expected another text than the answer, found the same, {found.rejected!r}",
        )
        expect(
            any(message.role == "user" for message in found.messages),
            "conversation: expected a turn of the user, found none",
        )


def audio_parts_are_the_clips(subject: TaskSubject) -> None:
    """Every audio part names a clip of the record, whatever that is called, and where there are clips one is
    heard; without clips there is no audio, or an error.
    """
    record, clips = subject.record
    for found in subject.converse_often():
        for name in found.clips():
            expect(name in clips, f"audio part: expected one of the record's clips {clips}, found {name!r}")
        expect(
            bool(found.clips()) or not clips,
            "conversation: expected the clip in a turn, found no audio. Where a task has no use for audio, "
            "let `example` give a record without clips",
        )
    if clips:
        silent = _try(subject, deepcopy(record), [], "clips []")
        expect(
            isinstance(silent, ValueError) or not silent.clips(),
            "a record without clips: expected a ValueError or a conversation without audio, found audio",
        )
        names = {name: f"{number}.opus" for number, name in enumerate(clips)}
        renamed = _try(subject, _renamed(record, names), list(names.values()), "clips of other names")
        heard = renamed.clips() if isinstance(renamed, Conversation) else [f"a ValueError: {renamed}"]
        expect(
            set(heard) <= set(names.values()),
            f"clips called {listing(names.values())}: expected these names in audio parts, found "
            f"{listing(heard)}",
        )


def the_same_draw_is_the_same(subject: TaskSubject) -> None:
    """The random numbers that it is given decide, and nothing else, such as a record before; the record is
    left as it is.
    """
    used = subject.build()
    with suppress(ValueError):
        used.conversation(*_another(subject.record), Random(0))
    for seed in (None, 0, 1, 2):
        which = f"rng {'None' if seed is None else f'Random({seed})'}"
        first, second = expect_not_seeded(partial(subject.converse, seed))
        expect(first == second, f"{which}: expected the same conversation each time, found others")
        expect(
            subject.converse(seed, used) == first,
            f"{which}: expected the same conversation after another record, found another",
        )
    record, clips = deepcopy(subject.record)
    subject.build().conversation(record, clips, None)
    expect((record, clips) == subject.record, "expected the record as it was, found it changed")


def another_process_draws_the_same(subject: TaskSubject) -> None:
    """In another process the same draw is the same: neither ``hash`` nor the order of a set decides, which
    differ from one to the next.
    """
    if "<locals>" in subject.component.__qualname__:
        raise NotTriedError("its class stands in a function, and no other process finds it there")
    record, clips = subject.record
    words = sorted({text for text in _strings(record) if text not in clips})
    others = [{text: text * times} for text in words for times in (2, 3, 4, 5)]
    records = [(_renamed(record, other), clips) for other in ({}, *others)]
    taken = [(one, names) for one, names in records if _refused(subject, one, names) is None]
    here = [subject.build().conversation(deepcopy(one), list(names), Random(0)) for one, names in taken]
    said = [repr((made.messages, made.rejected)) for made in here]
    expect(
        all(conversations_elsewhere(subject, taken, seed) == said for seed in _HASH_SEEDS),
        "in another process: expected the same conversations, found others. Draw by the random numbers that "
        "are given, and from a list: hash() of a text and the order of a set are others in each process",
    )


def _refused(subject: TaskSubject, record: dict[str, Any], clips: list[str]) -> ValueError | None:
    """Return the error by which a record is refused, or None where it is taken."""
    found = _try(subject, deepcopy(record), list(clips), "a record of other words")
    return found if isinstance(found, ValueError) else None


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
    """`question` asks of the clip ``0`` and leaves the answer open, or raises a ValueError, but not where the
    task `transcribes`; `question_in_context` does so with the words that it is given, or raises one.
    """
    if subject.component.transcribes:
        with expect_no_error("question, as `transcribes` is true: expected one for any language"):
            subject.build().question(None)
    for language in (None, "ja", "en", "xx"):
        found = _question(subject, language)
        if found is None:
            continue
        expect(
            found.clips() == ["0"], f"question({language!r}): expected the clip '0', found {found.clips()}"
        )
        last = found.messages[-1].role
        expect(last == "user", f"question({language!r}): expected the user's turn last, found the {last}'s")
        try:
            beside = subject.build().question_in_context(language, _WORDS)
        except ValueError:
            continue
        expect(
            beside.clips() == ["0"] and any(_WORDS in text for text in _texts(beside)),
            f"question_in_context({language!r}): expected the clip '0' and the words, found {beside}",
        )


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
    """Where a record, or its ``meta``, lacks a field that is needed, the ValueError names it; an empty record
    is refused.
    """
    record, clips = subject.record
    inside = list(_meta(record))
    for name in (*record, *(f"meta.{inner}" for inner in inside)):
        what = f"a record without {name!r}"
        found = _try(subject, _with_field(record, name, None), list(clips), what)
        said = str(found) if isinstance(found, ValueError) else name
        wanted = [name.removeprefix("meta."), *(inside if name == "meta" else ())]
        expect(
            any(one in said for one in wanted), f"{what}: expected a ValueError that names it, found: {said}"
        )
    found = _try(subject, {}, list(clips), "an empty record")
    expect(isinstance(found, ValueError), "an empty record: expected a ValueError, found a conversation")
    expect(
        any(re.search(rf"\b{re.escape(name)}\b", str(found)) for name in (*record, *inside)),
        f"an empty record: expected a ValueError that names a field, found: {found}",
    )


def odd_fields_are_refused(subject: TaskSubject) -> None:
    """A field, of ``meta`` too, that holds something odd gives a ValueError, or is not read; never another
    error.
    """
    record, clips = subject.record
    for name in (*record, *(f"meta.{inner}" for inner in _meta(record))):
        for odd in _ODD:
            found = _try(subject, _with_field(record, name, odd), list(clips), f"{name}: {odd!r}")
            for message in found.messages if isinstance(found, Conversation) else ():
                for part in message.parts:
                    expect(
                        part.text is None or isinstance(part.text, str),
                        f"{name}: {odd!r}: expected a ValueError, found it as the text of a turn",
                    )


def fields_may_stand_in_meta(subject: TaskSubject) -> None:
    """What is known of a clip besides text and language is taken from ``meta``, where packing keeps it, as
    from the record's top level.
    """
    record, clips = deepcopy(subject.record)
    kept = {"text", "language", "meta", "messages", "rejected"}
    moved = [name for name in record if name not in kept and not set(_strings(record[name])) & set(clips)]
    known = _meta(record) | {name: record[name] for name in moved}
    for inside, outside in ((list(known), []), ([], list(known))):
        bare = {name: value for name, value in record.items() if name not in known and name != "meta"}
        changed = bare | {name: known[name] for name in outside}
        what = "in `meta`" if inside else "at the top level"
        placed = changed | ({"meta": {name: known[name] for name in inside}} if inside else {})
        found = _try(subject, placed, list(clips), f"{listing(known)} {what}")
        expect(
            isinstance(found, Conversation) and found.messages == subject.converse().messages,
            f"{listing(known)} {what}: expected the same conversation, found "
            f"{f'a ValueError: {found}' if isinstance(found, ValueError) else 'another'}",
        )


def _meta(record: Mapping[str, Any]) -> dict[str, Any]:
    held = record.get("meta")
    return dict(held) if isinstance(held, dict) else {}


def _with_field(record: Mapping[str, Any], name: str, value: Any) -> dict[str, Any]:
    """Return a record with another value in a field, of ``meta`` as ``meta.name``; None leaves it out."""
    changed = deepcopy(dict(record))
    outer, _, inner = name.rpartition(".")
    place = changed["meta"] if outer else changed
    place.pop(inner)
    if value is not None:
        place[inner] = deepcopy(value)
    return changed


def transcripts_are_what_is_said(subject: TaskSubject) -> None:
    """`transcribes` is true or false, and where it is true, the answer is what the record's ``text`` says."""
    transcribes: Any = subject.component.transcribes
    expect(isinstance(transcribes, bool), f"transcribes: expected true or false, found {transcribes!r}")
    said = subject.record[0].get("text")
    if transcribes and isinstance(said, str):
        answer = subject.converse().reference()
        expect(
            said in answer, f"transcribes: expected {said!r}, what is said, in the answer, found {answer!r}"
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


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """Return a record in which clips have other names."""
    if isinstance(value, dict):
        return {key: _renamed(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [_renamed(item, names) for item in value]
    return names.get(value, value) if isinstance(value, str) else deepcopy(value)


def _another(given: tuple[dict[str, Any], list[str]]) -> tuple[dict[str, Any], list[str]]:
    """Return a record that has other words, and names its clips in another way."""
    record, clips = given
    words = {text: f"{text} {text}" for text in _strings(record) if text not in clips}
    names = {name: f"{number}.opus" for number, name in enumerate(clips)}
    return _renamed(record, words | names), list(names.values())


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

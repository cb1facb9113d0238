"""Checks of tasks: what they make of records, and what they say of records that they cannot use."""

from __future__ import annotations

import json
import pickle
import random
import re
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from kikimimi.contracts.conversation import AudioPart, Conversation, TextPart
from kikimimi.testing.contract import ContractError, expect
from kikimimi.testing.task_subject import TaskSubject

ODD: tuple[Any, ...] = ({"odd": [1]}, [{}], [], "", 3.5, True)
"""What a field should not hold, or seldom does."""


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
        found_without = _try(subject, deepcopy(record), [])
        expect(
            found_without is None or not found_without.clips(),
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
        asked[: len(wanted)] == wanted,
        f"rng None: expected the texts of question(), {wanted}, found {asked}",
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
        try:
            subject.build().conversation(without, list(clips), None)
        except ValueError as error:
            expect(
                name in str(error),
                f"a record without {name!r}: expected a ValueError that names it, found: {error}",
            )
        except Exception as error:
            raise _not_a_value_error(f"a record without {name!r}", error) from error
    try:
        subject.build().conversation({}, list(clips), None)
    except ValueError as error:
        expect(
            any(re.search(rf"\b{re.escape(name)}\b", str(error)) for name in record),
            f"an empty record: expected a ValueError that names a field, found: {error}",
        )
    except Exception as error:
        raise _not_a_value_error("an empty record", error) from error
    else:
        raise ContractError("an empty record: expected a ValueError, found a conversation")


def odd_fields_are_refused(subject: TaskSubject) -> None:
    """A field that holds something odd gives a ValueError, or is not read; never another error."""
    record, clips = subject.record
    for name in record:
        for odd in ODD:
            changed = deepcopy(record) | {name: deepcopy(odd)}
            found = _try(subject, changed, list(clips), f"{name}: {odd!r}")
            for message in found.messages if found else ():
                for part in message.parts:
                    expect(
                        part.text is None or isinstance(part.text, str),
                        f"{name}: {odd!r}: expected a ValueError, found it as the text of a turn",
                    )


def pickling_keeps_it(subject: TaskSubject) -> None:
    """Pickling, by which a task reaches the processes of a data loader, changes nothing."""
    restored = pickle.loads(pickle.dumps(subject.build()))
    for seed in (None, 0, 1):
        expect(
            subject.converse(seed, restored) == subject.converse(seed),
            "pickled and unpickled: expected the same conversation, found another",
        )


def _try(
    subject: TaskSubject, record: dict[str, Any], clips: list[str], what: str = ""
) -> Conversation | None:
    """Return the conversation, or None where the record is refused as it should be."""
    try:
        return subject.build().conversation(record, clips, None)
    except ValueError:
        return None
    except Exception as error:
        raise _not_a_value_error(what or f"clips {clips}", error) from error


def _question(subject: TaskSubject, language: Any) -> Conversation | None:
    try:
        return subject.build().question(language)
    except ValueError:
        return None


def _not_a_value_error(what: str, error: Exception) -> ContractError:
    return ContractError(f"{what}: expected a ValueError, found {type(error).__name__}: {error}")


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

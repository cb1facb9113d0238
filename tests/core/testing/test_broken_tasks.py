"""Tasks that each break the contract in one way, and the check that has to notice."""

from __future__ import annotations

import importlib
import random
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import pytest

from kikimimi import AudioPart, BankConfig, Conversation, Message, Task, TaskConfig, TextPart
from kikimimi.testing import ContractError, list_checks, parametrize_checks
from kikimimi.testing.checks import FOR_TASKS
from kikimimi_tasks.chat import Chat
from kikimimi_tasks.labels import ASR

ASKED = ("何と言っていますか。", "書いてください。")


class Sound(Task):
    """A task of one's own that keeps the contract, and that the others break."""

    @dataclass(kw_only=True, frozen=True)
    class Config(TaskConfig):
        polite: bool = True
        """Whether a request is made."""

    def requests(self) -> list[str]:
        return list(ASKED)

    def conversation(self, record: dict[str, Any], clips: list[str], rng: Random | None) -> Conversation:
        meta = record.get("meta")
        text = {**(meta if isinstance(meta, dict) else {}), **record}.get("dialect")
        if not isinstance(text, str) or not text:
            raise ValueError("dialect: expected a text")
        if len(clips) != 1:
            raise ValueError("one clip is needed")
        asked = self.draw(rng)
        user = Message("user", (AudioPart(self.clip(clips)), TextPart(asked)))
        return Conversation((user, *self.reply(text)))

    def draw(self, rng: Random | None) -> str:
        return self.requests()[0] if rng is None else rng.choice(self.requests())

    def clip(self, clips: list[str]) -> str:
        return clips[0]

    def reply(self, text: str) -> tuple[Message, ...]:
        return (Message("assistant", (TextPart(text),)),)

    def phrasings(self) -> list[str]:
        return self.requests()

    def question(self, language: str | None) -> Conversation:
        return Conversation((Message("user", (AudioPart("0"), TextPart(ASKED[0]))),))

    def example(self) -> tuple[dict[str, Any], list[str]] | None:
        return {"dialect": "津軽弁", "language": "ja"}, ["0.wav"]


@parametrize_checks(Sound, polite=Sound.Config(), blunt=Sound.Config(polite=False))
def test_a_task_of_ones_own_passes(check: Any) -> None:
    # Its module is this one, which needs torch.
    if check.name not in ("import_is_light", "another_process_draws_the_same"):
        check()


class AtTheTop(Sound):
    def conversation(self, record: dict[str, Any], clips: list[str], rng: Random | None) -> Conversation:
        if not record.get("dialect"):
            raise ValueError("dialect: expected a text")
        return super().conversation(record, clips, rng)


class InMetaAlone(Sound):
    def conversation(self, record: dict[str, Any], clips: list[str], rng: Random | None) -> Conversation:
        return super().conversation({"dialect": record["meta"]["dialect"]}, clips, rng)

    def example(self) -> tuple[dict[str, Any], list[str]] | None:
        return {"meta": {"dialect": "津軽弁"}}, ["0.wav"]


class TakesAnythingInMeta(Sound):
    def conversation(self, record: dict[str, Any], clips: list[str], rng: Random | None) -> Conversation:
        held = record.get("meta")
        if not isinstance(held, dict):
            raise ValueError("meta: expected a mapping")
        if "dialect" not in held:
            raise ValueError("dialect: expected a text")
        return super().conversation({"dialect": held["dialect"].strip()}, clips, rng)

    def example(self) -> tuple[dict[str, Any], list[str]] | None:
        return {"meta": {"dialect": "津軽弁"}}, ["0.wav"]


class ChangesItsConfig(Sound):
    @dataclass(kw_only=True, frozen=True)
    class Config(TaskConfig):
        polite: bool = True
        """Whether a request is made."""

    def conversation(self, record: dict[str, Any], clips: list[str], rng: Random | None) -> Conversation:
        object.__setattr__(self.config, "polite", False)
        return super().conversation(record, clips, rng)


class Loose(Sound):
    Config: ClassVar[Any] = Sound.Config  # pyright: ignore[reportIncompatibleVariableOverride]


class Thawed(Loose):
    @dataclass(kw_only=True)
    class Config:
        polite: bool = True
        """Whether a request is made."""


class OfAComponent(Loose):
    @dataclass(kw_only=True, frozen=True)
    class Config:
        polite: bool = True
        """Whether a request is made."""


class NoDefault(Loose):
    @dataclass(kw_only=True, frozen=True)
    class Config(TaskConfig):
        polite: bool
        """Whether a request is made."""


class Undocumented(Loose):
    @dataclass(kw_only=True, frozen=True)
    class Config(TaskConfig):
        polite: bool = True


class Named(Loose):
    @dataclass(kw_only=True, frozen=True)
    class Config(TaskConfig):
        name: str = "x"
        """What recipes call the plugin."""


class Silent(Sound):
    def reply(self, text: str) -> tuple[Message, ...]:
        return ()


class Blank(Sound):
    def reply(self, text: str) -> tuple[Message, ...]:
        return (Message("assistant", (TextPart("\n"),)),)


class EmptyTurn(Sound):
    def reply(self, text: str) -> tuple[Message, ...]:
        return (Message("user", ()), Message("assistant", (TextPart(text),)))


class NoUser(Sound):
    def conversation(self, record: dict[str, Any], clips: list[str], rng: Random | None) -> Conversation:
        return Conversation(super().conversation(record, clips, rng).messages[1:])


class JSONInstead(Sound):
    def conversation(self, record: dict[str, Any], clips: list[str], rng: Random | None) -> Any:
        return {"messages": []}


class InventedClip(Sound):
    def clip(self, clips: list[str]) -> str:
        return "0.flac"


class AnyClips(Sound):
    def conversation(self, record: dict[str, Any], clips: list[str], rng: Random | None) -> Conversation:
        return super().conversation(record, ["0.wav"], rng)


class OwnDice(Sound):
    def draw(self, rng: Random | None) -> str:
        return random.choice([f"{ASKED[0]}{'。' * n}" for n in range(1000)])


class Counting(Sound):
    def conversation(self, record: dict[str, Any], clips: list[str], rng: Random | None) -> Conversation:
        found = super().conversation(record, clips, rng)
        record["seen"] = True
        return found


class LastFirst(Sound):
    def draw(self, rng: Random | None) -> str:
        return self.requests()[-1]


class AsksOfTwo(Sound):
    def question(self, language: str | None) -> Conversation:
        return Conversation((Message("user", (AudioPart("0"), AudioPart("1"), TextPart(ASKED[0]))),))


class AnswersItself(Sound):
    def question(self, language: str | None) -> Conversation:
        return Conversation((*super().question(language).messages, Message("assistant", (TextPart("はい"),))))


class ForgetsTheWords(Sound):
    def question_in_context(self, language: str | None, context: str) -> Conversation:
        return super().question(language)


class Secretive(Sound):
    def phrasings(self) -> list[str]:
        return [ASKED[0]]


class Adding(Sound):
    def reply(self, text: str) -> tuple[Message, ...]:
        return (Message("assistant", (TextPart(f"Answer: {text}"),)),)


class Repetitive(Sound):
    def phrasings(self) -> list[str]:
        return [*ASKED, ASKED[0]]


class EmptyPhrasing(Sound):
    def phrasings(self) -> list[str]:
        return [*ASKED, ""]


class Terse(Sound):
    def conversation(self, record: dict[str, Any], clips: list[str], rng: Random | None) -> Conversation:
        if "dialect" not in record:
            raise ValueError("something is missing")
        return super().conversation(record, clips, rng)


class KeyErrors(Sound):
    def conversation(self, record: dict[str, Any], clips: list[str], rng: Random | None) -> Conversation:
        return super().conversation(record | {"dialect": record["dialect"]}, clips, rng)


class Undemanding(Sound):
    def conversation(self, record: dict[str, Any], clips: list[str], rng: Random | None) -> Conversation:
        return super().conversation({"dialect": "京都弁"} | record, clips, rng)


class Trusting(Sound):
    def conversation(self, record: dict[str, Any], clips: list[str], rng: Random | None) -> Conversation:
        dialect = record.get("dialect", "")
        return super().conversation(record | {"dialect": "".join(dialect)}, clips, rng)


class PassesOn(Sound):
    def conversation(self, record: dict[str, Any], clips: list[str], rng: Random | None) -> Conversation:
        if not record.get("dialect"):
            raise ValueError("dialect: is missing")
        found = super().conversation({"dialect": "京都弁"}, clips, rng)
        return Conversation((*found.messages[:-1], Message("assistant", (TextPart(record["dialect"]),))))


class Unpicklable(Sound):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.function = lambda text: text


class Forgetful(Sound):
    def __getstate__(self) -> dict[str, Any]:
        return {"config": self.config, "forgotten": True}

    def requests(self) -> list[str]:
        return list(ASKED[::-1] if hasattr(self, "forgotten") else ASKED)


class Deaf(Sound):
    def conversation(self, record: dict[str, Any], clips: list[str], rng: Random | None) -> Conversation:
        found = super().conversation(record, clips, rng)
        asked = Message("user", (TextPart(self.draw(rng)),))
        return Conversation((asked, *found.messages[1:]))


class OneNameForClips(Sound):
    def clip(self, clips: list[str]) -> str:
        return "0.wav"


class Reseeds(Sound):
    def draw(self, rng: Random | None) -> str:
        random.seed(0)
        return super().draw(rng)


class Remembers(Sound):
    said = ""

    def reply(self, text: str) -> tuple[Message, ...]:
        self.said = self.said or text
        return super().reply(self.said)


class RejectsTheAnswer(Sound):
    def conversation(self, record: dict[str, Any], clips: list[str], rng: Random | None) -> Conversation:
        found = super().conversation(record, clips, rng)
        return Conversation(found.messages, found.reference())


class AsksNothing(Sound):
    transcribes = True

    def question(self, language: str | None) -> Conversation:
        raise ValueError("there is no question")


class TranscribesSomethingElse(Sound):
    transcribes = True

    def example(self) -> tuple[dict[str, Any], list[str]] | None:
        return {"dialect": "津軽弁", "text": "おはよう"}, ["0.wav"]


class Sometimes(Sound):
    transcribes: ClassVar[Any] = "ja"


class Choosy(Sound):
    def example(self) -> tuple[dict[str, Any], list[str]] | None:
        return None


@pytest.mark.parametrize(
    ("task", "check", "message"),
    [
        (Thawed, "config_is_a_frozen_dataclass", r"expected a subclass of kikimimi\.TaskConfig"),
        (OfAComponent, "config_is_a_frozen_dataclass", r"expected a subclass of kikimimi\.TaskConfig"),
        (NoDefault, "config_has_defaults", r"polite: expected a default, found none"),
        (
            Undocumented,
            "config_is_documented",
            r"a docstring under every field .* Undocumented\.Config\.polite",
        ),
        (Named, "config_survives_yaml", "recipes use that key themselves"),
        (Deaf, "audio_parts_are_the_clips", "expected the clip in a turn, found no audio"),
        (OneNameForClips, "audio_parts_are_the_clips", r"clips called 0\.opus: expected these names in"),
        (Reseeds, "the_same_draw_is_the_same", "left alone, found that of random seeded"),
        (Remembers, "the_same_draw_is_the_same", "expected the same conversation after another record"),
        (
            RejectsTheAnswer,
            "conversation_ends_in_an_answer",
            "rejected: expected another text than the answer",
        ),
        (AsksNothing, "question_is_of_one_clip", "as `transcribes` is true: expected one for any language"),
        (TranscribesSomethingElse, "transcripts_are_what_is_said", "expected 'おはよう', what is said, in"),
        (Sometimes, "transcripts_are_what_is_said", "transcribes: expected true or false, found 'ja'"),
        (Silent, "conversation_ends_in_an_answer", "last turn: expected the assistant's, found the user's"),
        (Blank, "conversation_ends_in_an_answer", r"turn 1 \(assistant\): expected words or audio"),
        (EmptyTurn, "conversation_ends_in_an_answer", r"turn 1 \(user\): expected words or audio"),
        (NoUser, "conversation_ends_in_an_answer", "expected a turn of the user, found none"),
        (JSONInstead, "conversation_ends_in_an_answer", r"expected a kikimimi\.Conversation, found dict"),
        (
            InventedClip,
            "audio_parts_are_the_clips",
            r"one of the record's clips \['0\.wav'\], found '0\.flac'",
        ),
        (AnyClips, "audio_parts_are_the_clips", "a record without clips: expected a ValueError or"),
        (OwnDice, "the_same_draw_is_the_same", "rng None: expected the same conversation each time"),
        (Counting, "the_same_draw_is_the_same", "expected the record as it was, found it changed"),
        (LastFirst, "without_draw_the_first_is_asked", r"rng None: expected the texts of question\(\)"),
        (
            AsksOfTwo,
            "question_is_of_one_clip",
            r"question\(None\): expected the clip '0', found \['0', '1'\]",
        ),
        (AnswersItself, "question_is_of_one_clip", "expected the user's turn last, found the assistant's"),
        (ForgetsTheWords, "question_is_of_one_clip", "expected the clip '0' and the words, found"),
        (Secretive, "phrasings_are_all_it_adds", "found '書いてください。'"),
        (Adding, "phrasings_are_all_it_adds", "found 'Answer: 津軽弁'"),
        (Repetitive, "phrasings_are_all_it_adds", "expected each text once"),
        (EmptyPhrasing, "phrasings_are_all_it_adds", "phrasings: expected texts, found"),
        (
            Terse,
            "a_missing_field_is_named",
            "a record without 'dialect': expected a ValueError that names it",
        ),
        (KeyErrors, "a_missing_field_is_named", "expected a ValueError, found KeyError: 'dialect'"),
        (Undemanding, "a_missing_field_is_named", "an empty record: expected a ValueError, found a conv"),
        (Trusting, "odd_fields_are_refused", r"dialect: \[\{\}\]: expected a ValueError, found TypeError"),
        (
            PassesOn,
            "odd_fields_are_refused",
            r"dialect: \{'odd': \[1\]\}: expected a ValueError, found it as",
        ),
        (Forgetful, "pickling_keeps_it", "pickled and unpickled: expected the same conversation"),
        (Choosy, "the_same_draw_is_the_same", r"refuses a labelled clip \(dialect: .* from `example`"),
        (
            AtTheTop,
            "fields_may_stand_in_meta",
            r"dialect in `meta`: expected the same conver",
        ),
        (
            InMetaAlone,
            "a_missing_field_is_named",
            r"without 'meta': expected a ValueError, found K",
        ),
        (
            TakesAnythingInMeta,
            "odd_fields_are_refused",
            r"meta\.dialect: .*: expected a ValueError, found AttributeError",
        ),
        (TakesAnythingInMeta, "fields_may_stand_in_meta", r"dialect at the top level: expected the same"),
        (ChangesItsConfig, "conversation_ends_in_an_answer", r"the config left as it was, .*polite=True"),
    ],
)
def test_a_broken_task_is_noticed(task: type[Task], check: str, message: str) -> None:
    found = next(one for one in list_checks("task", task) if one.name == check)
    with pytest.raises(ContractError, match=message):
        found()


def test_what_cannot_be_pickled_fails() -> None:
    found = next(one for one in list_checks("task", Unpicklable) if one.name == "pickling_keeps_it")
    result = found.result()
    assert result.error is not None
    assert "pickle" in result.error


def test_a_task_that_imports_torch_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "import {}\nfrom kikimimi import Task\n\nclass Heavy(Task):\n    pass\n"
    monkeypatch.syspath_prepend(tmp_path)
    for library, complaint in (("json", None), ("torch", "leaves torch alone, found it imported")):
        (tmp_path / f"third_task_{library}.py").write_text(source.format(library))
        component = importlib.import_module(f"third_task_{library}").Heavy
        check = next(one for one in list_checks("task", component) if one.name == "import_is_light")
        error = check.result().error
        assert (error is None) if complaint is None else (error is not None and complaint in error)


HASHES = """
from kikimimi import AudioPart, Conversation, Message, Task, TaskConfig, TextPart

class Draws(Task):
    Config = TaskConfig

    def conversation(self, record, clips, rng):
        if not isinstance(record.get("text"), str):
            raise ValueError("text: expected a text")
        asked = ("one", "two")[DRAWN]
        user = Message("user", (AudioPart(clips[0]), TextPart(asked)))
        return Conversation((user, Message("assistant", (TextPart(record["text"]),))))

    def question(self, language):
        raise ValueError("none")
"""


@pytest.mark.parametrize(
    ("drawn", "sound"),
    [("hash(record['text']) % 2", False), ("int(rng is not None and rng.random() < 0.5)", True)],
)
def test_what_differs_between_processes_is_noticed(
    drawn: str, sound: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    name = f"third_task_drawn_{sound}"
    (tmp_path / f"{name}.py").write_text(HASHES.replace("DRAWN", drawn))
    component = importlib.import_module(name).Draws
    checks = list_checks("task", component)
    error = next(one for one in checks if one.name == "another_process_draws_the_same").result().error
    assert (error is None) if sound else "expected the same conversations, found others" in (error or "")


def test_every_check_is_broken_by_a_task() -> None:
    """The list above and the three tests after it."""
    mark = next(m for m in test_a_broken_task_is_noticed.pytestmark if m.name == "parametrize")  # type: ignore[attr-defined]
    broken = {check for _, check, _ in mark.args[1]} | {"import_is_light", "another_process_draws_the_same"}
    assert broken == {function.__name__ for function in FOR_TASKS}


@parametrize_checks(
    ASR,
    none=BankConfig(prompt="none", system="書き起こす。"),
    own=BankConfig(request="聞こえた言葉は。"),
    system=BankConfig(ask="system", language="en"),
)
def test_contract_of_asr(check: Any) -> None:
    check()


@parametrize_checks(Chat)
def test_contract_of_chat(check: Any) -> None:
    check()

from __future__ import annotations

import errno
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from kikimimi import AudioPart, Conversation, Generation, Message, TextPart
from kikimimi.errors import DataError, RequestError, RoomError
from kikimimi.inference.cutting import CutPiece
from kikimimi.inference.engine import Engine
from kikimimi.inference.live import LiveEngine
from kikimimi.recipe import load_recipe
from kikimimi.talking.dialogue import Answering, Dialogue, Request
from kikimimi.talking.recording import Ears, Recording
from kikimimi.testing import tiny_model

Record = Callable[[float], Recording]


def test_a_prompt_holds_all_turns_and_clips_in_order(live: Any, recording: Record) -> None:
    dialogue = Dialogue("be kind")
    dialogue.ask(recording(1.0), "what?")
    assert "".join(Answering(live, dialogue, Generation())) == "answer 1"
    dialogue.ask("and then?")
    list(Answering(live, dialogue, Generation()))
    dialogue.ask("this:", recording(0.5))
    list(Answering(live, dialogue, Generation()))
    assert live.said() == [
        ("system", "be kind"),
        ("user", "16000+what?"),
        ("assistant", "answer 1"),
        ("user", "and then?"),
        ("assistant", "answer 2"),
        ("user", "this:+8000"),
    ]
    assert live.asked[-1].conversation.clips() == ["0", "1"]
    dialogue.clear()
    dialogue.ask("who?")
    assert dialogue.prompt().conversation.messages[0].role == "system"
    assert len(dialogue) == 1
    assert dialogue.prompt().clips == []


def test_a_turn_says_something() -> None:
    with pytest.raises(RequestError, match="nothing was asked"):
        Dialogue().ask("", " ")


def test_a_long_recording_is_several_parts_of_one_turn(ears: Ears) -> None:
    """Nothing is left out, each part fits, the cut is in the pause, and it is told."""
    samples = np.full(16_000 * 3, 0.5, np.float32)
    samples[28_800:30_400] = 0
    heard = ears.hear(samples, "long")
    assert [len(piece) for piece in heard.pieces] == [29_600, 18_400]
    assert torch.equal(torch.cat(heard.pieces), torch.from_numpy(samples))
    assert heard.told == (
        "long: 3.0 s, longer than the encoder's 2 s: it is heard in 2 pieces, cut where nobody speaks"
    )
    dialogue = Dialogue()
    dialogue.ask(*Request(after="what?").parts(heard))
    assert [type(part) for part in dialogue.prompt().conversation.messages[0].parts] == [
        AudioPart,
        AudioPart,
        TextPart,
    ]
    assert ears.hear(samples[:32_000], "short").told == "short: 2.0 s"
    assert len(Ears(16_000, None).hear(samples, "any").pieces) == 1


@pytest.mark.parametrize(
    ("spoken", "begins"),
    [
        ([(0, 30), (40, 70)], [0, 40]),
        ([(10, 30), (95, 130)], [0, 10, 95]),
        ([(10, 30), (99, 120)], [0, 10, 99]),
        ([(70, 130)], [0, 70]),
    ],
)
def test_cuts_are_where_somebody_begins_to_speak(
    monkeypatch: pytest.MonkeyPatch, spoken: list[tuple[int, int]], begins: list[int]
) -> None:
    assert cuts(monkeypatch, spoken, 130) == [*begins, 130]


def test_a_long_rest_is_cut_by_its_loudness(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {200, 280} <= set(cuts(monkeypatch, [(200, 240)], 280))
    assert {90, 250, 280} <= set(cuts(monkeypatch, [(0, 90), (250, 260)], 280))
    cuts(monkeypatch, [], 280)


def cuts(monkeypatch: pytest.MonkeyPatch, spoken: list[tuple[int, int]], total: int) -> list[int]:
    """Return where ears that take 100 samples cut, and check that nothing is lost."""
    samples = np.arange(1, total + 1).astype(np.float32)
    found = [CutPiece(start, samples[start:end]) for start, end in spoken]
    monkeypatch.setattr("kikimimi.talking.recording.cut_recording", lambda *_, **__: iter(found))
    pieces = Ears(100, 1.0).hear(samples, "it").pieces
    assert torch.equal(torch.cat(pieces), torch.from_numpy(samples))
    assert all(0 < len(piece) <= 100 for piece in pieces)
    return [0, *np.cumsum([len(piece) for piece in pieces]).tolist()]


def test_what_cannot_be_heard(ears: Ears, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^quiet: silence: nothing can be heard"):
        ears.hear(np.zeros(16_000, np.float32), "quiet")
    soundfile.write(tmp_path / "mine.wav", np.full(8_000, 0.3), 8_000)
    assert ears.hear_file(tmp_path / "mine.wav", "yours").name == "yours"
    with pytest.raises(RequestError, match=r"no such audio file\. Did you mean 'mine\.wav'\?"):
        ears.hear_file(tmp_path / "mime.wav")
    with pytest.raises(RequestError, match=r"is a folder, not an audio file\.$"):
        ears.hear_file(tmp_path)
    os.mkfifo(tmp_path / "live.wav")
    with pytest.raises(RequestError, match=r"live\.wav: is a pipe or a device, not an audio file\.$"):
        ears.hear_file(tmp_path / "live.wav")
    (tmp_path / "a\nb.wav").touch()
    with pytest.raises(RequestError, match=r"Did you mean 'a\\nb\.wav'"):
        ears.hear_file(tmp_path / "anb.wav")


def test_what_the_system_refuses_to_read_is_told(
    ears: Ears, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: object, *_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr("kikimimi.talking.recording.os.listdir", refuse)
    with pytest.raises(DataError, match=r"^mine: Permission denied\. Ask for permission to read it$"):
        ears.hear_file(tmp_path / "a.wav", "mine")
    monkeypatch.setattr("kikimimi.talking.recording.decode", lambda path, **_: refuse(path))
    (tmp_path / "b.wav").touch()
    with pytest.raises(DataError, match=r"^yours: Permission denied\. Ask for permission to read it$"):
        ears.hear_file(tmp_path / "b.wav", "yours")


def test_a_name_is_found_however_its_letters_are_put_together(ears: Ears, tmp_path: Path) -> None:
    soundfile.write(tmp_path / unicodedata.normalize("NFD", "が.wav"), np.full(8_000, 0.3), 8_000)
    assert ears.hear_file(tmp_path / "が.wav").seconds == 1.0


@pytest.mark.parametrize(
    ("messages", "request_", "words"),
    [
        ([("user", "0", "what?")], Request(after="what?"), "what?"),
        ([("user", "what?", "0")], Request(before="what?"), "what?"),
        ([("system", "be kind"), ("user", "0")], Request(system="be kind"), "be kind"),
        ([("user", "0")], Request(), ""),
    ],
)
def test_what_a_task_asks(messages: list[tuple[Any, ...]], request_: Request, words: str) -> None:
    turns = tuple(
        Message(role, tuple(AudioPart(part) if part == "0" else TextPart(part) for part in parts))
        for role, *parts in messages
    )
    assert Request.of(Conversation(turns)) == request_
    assert request_.words == words


def test_what_does_not_fit_is_forgotten_from_the_first_turn_on_and_counted(live: Any) -> None:
    dialogue = Dialogue()
    for word in ("one", "two"):
        dialogue.ask(word)
        list(Answering(live, dialogue, Generation()))
    dialogue.ask("three")
    live.outcomes = [RoomError("too long"), RoomError("too long"), ["yes"]]
    answering = Answering(live, dialogue, Generation())
    assert list(answering) == ["yes"]
    assert answering.forgotten == 2
    assert live.said() == [("user", "three")]
    dialogue.ask("four")
    assert [turn.role for turn in dialogue.prompt().conversation.messages] == ["user", "assistant", "user"]


def test_a_turn_that_alone_does_not_fit_is_refused_and_taken_back(live: Any) -> None:
    dialogue = Dialogue()
    dialogue.ask("one")
    live.outcomes = [RoomError("too long")]
    with pytest.raises(RoomError):
        list(Answering(live, dialogue, Generation()))
    assert len(dialogue) == 0


def test_another_error_forgets_no_turn_but_the_last(live: Any) -> None:
    dialogue = Dialogue()
    dialogue.ask("one")
    list(Answering(live, dialogue, Generation()))
    dialogue.ask("two")
    live.outcomes = [DataError("no template")]
    with pytest.raises(DataError, match="no template"):
        list(Answering(live, dialogue, Generation()))
    assert len(dialogue) == 1


def test_stopping(live: Any) -> None:
    """What was said until then is remembered, and the engine is told; what said nothing is taken back."""
    dialogue = Dialogue()
    dialogue.ask("one")
    live.outcomes = [None]
    answering = Answering(live, dialogue, Generation())
    pieces = iter(answering)
    submit = live.submit

    def speak(*given: Any) -> Any:
        reply = submit(*given)
        reply.give("so f")
        return reply

    live.submit = speak
    assert next(pieces) == "so f"
    answering.stop()
    assert list(pieces) == []
    assert live.replies[-1].cancelled
    assert answering.stopped
    assert dialogue.prompt().conversation.reference() == "so f"
    dialogue.ask("two")
    live.submit, live.outcomes = submit, [None]
    answering = Answering(live, dialogue, Generation())
    answering.stop()
    assert list(answering) == []
    assert len(dialogue) == 1


def test_who_listens_no_longer_frees_the_engine(live: Any) -> None:
    dialogue = Dialogue()
    dialogue.ask("one")
    live.outcomes = [["a", "b"]]
    pieces = iter(Answering(live, dialogue, Generation()))
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert live.replies[-1].cancelled


def test_an_empty_answer_is_one_and_a_cut_one_says_so(live: Any) -> None:
    dialogue = Dialogue()
    dialogue.ask("one")
    live.outcomes, live.cut = [[]], True
    answering = Answering(live, dialogue, Generation())
    assert list(answering) == []
    assert (answering.cut, answering.stopped) == (True, False)
    assert dialogue.prompt().conversation.messages[-1] == Message("assistant", (TextPart(""),))


@pytest.fixture(scope="module")
def engine() -> Engine:
    recipe = load_recipe(Path(__file__).parents[3] / "recipes" / "quickstart.yaml")
    return Engine(tiny_model(recipe).eval(), torch.device("cpu"))


def test_a_model_that_has_never_seen_a_turn_of_text_alone_answers_one(engine: Engine) -> None:
    """And turns after it that bring clips, as the engine answers them; two dialogues share nothing."""
    short = Generation(max_new_tokens=3)
    ears = Ears(engine.sample_rate, engine.max_seconds)
    noise = np.random.default_rng(0).normal(0, 0.1, 8_000).astype(np.float32)
    with LiveEngine(engine) as live:
        spoken, written = Dialogue(), Dialogue()
        for dialogue, parts in (
            (written, ("どこ",)),
            (spoken, (ears.hear(noise, "a"), "何")),
            (written, ("なぜ",)),
        ):
            dialogue.ask(*parts)
            prompt = dialogue.prompt()
            assert "".join(Answering(live, dialogue, short)) == engine.answer([prompt], short)[0].spoken
    assert [len(written), len(spoken)] == [2, 1]
    assert written.prompt().clips == []


def test_a_dialogue_outgrows_the_context_of_a_real_model(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    short, dialogue = Generation(max_new_tokens=3), Dialogue()
    dialogue.ask("何" * 9)
    _, packed, _ = engine.pack([dialogue.prompt()])
    monkeypatch.setattr(engine.model.llm, "context_length", int(packed.lengths[0]) + 4)
    with LiveEngine(engine) as live:
        list(Answering(live, dialogue, short))
        dialogue.ask("何" * 9)
        answering = Answering(live, dialogue, short)
        list(answering)
    assert (answering.forgotten, len(dialogue)) == (1, 1)

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from kikimimi import Generation
from kikimimi.errors import DataError, RoomError
from kikimimi.inference.live import BusyError
from kikimimi.talking.dialogue import Request
from kikimimi.talking.interface import LANGUAGES, preferred, words_of
from kikimimi.talking.recording import Ears
from kikimimi.talking.session import Session, Wish


@pytest.fixture
def clip(tmp_path: Path) -> Any:
    def write(seconds: float, name: str = "clip.wav") -> str:
        samples = np.random.default_rng(0).normal(0, 0.1, round(16_000 * seconds))
        soundfile.write(tmp_path / name, samples, 16_000)
        return str(tmp_path / name)

    return write


def wish(mode: str = "custom", request: Request | None = None, system: str = "") -> Wish:
    return Wish(mode, request or Request(after="what?"), system, Generation(max_new_tokens=5))


class Page:
    """A session whose messages are looked at as the page shows them."""

    def __init__(self, live: Any, ears: Ears) -> None:
        self.session, self._live, self._ears = Session(), live, ears

    def send(self, text: str = "", *files: str, wanted: Wish | None = None) -> list[str]:
        """Return the contents that are shown at the end."""
        shown: Any = []
        for shown in self.session.send(self._live, self._ears, text, files, wanted or wish()):
            assert all(set(message) == {"role", "content"} for message in shown)
        return [message["content"] for message in shown]


@pytest.fixture
def page(live: Any, ears: Ears) -> Page:
    return Page(live, ears)


def test_what_is_sent_with_a_broken_file_is_shown(page: Page, live: Any, clip: Any, tmp_path: Path) -> None:
    """Nobody has to type it again; nothing is asked."""
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    first, *others = page.send("my words", str(tmp_path / "broken.wav"), clip(0.5))
    assert [first, *others[:-1]] == ["\u266a broken.wav", "\u266a clip.wav (0.5 s)", "my words"]
    assert others[-1].startswith("\u24d8 Error: broken.wav: ")
    assert live.asked == []


def test_turns_and_clips_are_remembered(page: Page, live: Any, clip: Any) -> None:
    assert page.send("", clip(0.5)) == ["\u266a clip.wav (0.5 s)", "answer 1"]
    shown = page.send("and?", wanted=wish("instruction", system="be kind"))
    assert shown[2:] == ["and?", "answer 2"]
    page.send("both", clip(0.5, "a.wav"), clip(0.6, "b.wav"))
    assert live.said() == [
        ("user", "8000+what?"),
        ("assistant", "answer 1"),
        ("user", "and?"),
        ("assistant", "answer 2"),
        ("user", "8000+9600+both"),
    ]
    assert live.said(1)[0] == ("system", "be kind")
    page.session.clear()
    assert page.send("new") == ["new", "answer 4"]
    assert live.said() == [("user", "new")]


def test_transcription_hears_each_piece_of_a_long_recording_alone_and_says_so(
    page: Page, live: Any, clip: Any
) -> None:
    live.outcomes = [["to", "ne"], [" tone"], ["x"]]
    shown = page.send("", clip(3.0), wanted=wish("transcription"))
    assert shown == [
        "\u266a clip.wav (3.0 s)",
        "\u24d8 The recording is longer than the 2 s that the model hears at once, so it was cut into 2 "
        "pieces where nobody speaks; nothing is left out.",
        "tone tone",
    ]
    assert [len(asked.clips) for asked in live.asked] == [1, 1]
    assert sum(len(asked.clips[0]) for asked in live.asked) == 48_000
    assert page.send("note", clip(0.5), wanted=wish("description"))[-1] == "x"
    assert live.said() == [("user", "8000+note")]
    page.send("so?")  # the conversation knows nothing of these
    assert live.said() == [("user", "so?")]


def test_a_long_recording_in_a_conversation_is_one_turn(page: Page, live: Any, clip: Any) -> None:
    shown = page.send("", clip(3.0))
    assert "cut into 2 pieces" in shown[1]
    (turn,) = live.said()
    assert turn[1].count("+") == 2


def test_text_alone_cannot_be_transcribed(page: Page, live: Any) -> None:
    shown = page.send("hello", wanted=wish("transcription"))
    assert shown == ["hello", "\u24d8 Error: Transcription and description need a recording."]
    assert live.asked == []


def test_what_goes_wrong_is_shown_and_forgotten(page: Page, live: Any, clip: Any, tmp_path: Path) -> None:
    (tmp_path / "no.wav").write_text("no audio")
    live.outcomes = [BusyError("64 wait"), DataError("no template"), [], ["fine"]]
    assert "Too many people" in page.send("a")[-1]
    assert page.send("b")[-1] == "\u24d8 Error: no template"
    assert page.send("c")[-1] == "\u24d8 (an empty answer)"
    assert "no.wav: cannot be decoded" in page.send("", str(tmp_path / "no.wav"))[-1]
    assert "nothing was asked" in page.send(" ")[-1]
    assert page.send("d")[-1] == "fine"
    assert [turn for turn in live.said() if turn[0] == "user"] == [("user", "c"), ("user", "d")]


def test_what_was_forgotten_and_cut_is_shown(page: Page, live: Any) -> None:
    live.outcomes, live.cut = [["a"], RoomError("too long"), ["b"]], True
    page.send("one")
    shown = page.send("two")
    assert shown[-3] == "b"
    assert "The first turns of the conversation (1) were forgotten" in shown[-2]
    assert "no more tokens were allowed" in shown[-1]


def test_what_a_model_writes_is_visible(page: Page, live: Any) -> None:
    live.outcomes = [["a\u202eb\x1b", "\nc"]]
    assert page.send("one")[-1] == "a\\u202eb\\x1b\nc"


def test_stopping_and_clearing_while_it_answers(page: Page, live: Any, ears: Ears) -> None:
    live.outcomes = [["a", "b", "c"], ["a", "b", "c"], ["a", "b"]]
    sending = page.session.send(live, ears, "one", [], wish())
    next(sending)
    next(sending)
    page.session.stop()
    shown = list(sending)[-1]
    assert shown[-1]["content"] == "\u24d8 Stopped."
    sending = page.session.send(live, ears, "two", [], wish())
    next(sending)
    next(sending)
    page.session.clear()
    assert list(sending) == []  # nothing of it comes back
    assert page.session.shown == []
    assert page.send("three") == ["three", "ab"]
    assert live.said() == [("user", "three")]


def test_two_browsers_share_nothing_but_the_engine(live: Any, ears: Ears, clip: Any) -> None:
    first = Page(live, ears)
    second = Page(live, ears)
    second.session = copy.deepcopy(first.session)  # as Gradio makes one for each browser
    file = clip(0.5)
    ours = first.session.send(live, ears, "secret", [file], wish())
    next(ours)
    assert second.send("mine") == ["mine", "answer 1"]
    assert live.said() == [("user", "mine")]
    for _ in ours:
        pass
    assert second.session.shown[0]["content"] == "mine"
    assert second.send("again")[:2] == ["mine", "answer 1"]
    assert [turn for _, turn in live.said()] == ["mine", "answer 1", "again"]


def test_all_languages_say_the_same_things() -> None:
    def places(words: Any) -> Any:
        if isinstance(words, dict):
            return {name: places(value) for name, value in words.items()}
        if isinstance(words, list):
            return len(words)
        return sorted(part.split(":")[0].split("}")[0] for part in words.split("{")[1:])

    assert len({str(places(words_of(language))) for language in LANGUAGES}) == 1


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        ("ja-JP,ja;q=0.9,en;q=0.8", "ja"),
        ("en-GB,ja;q=0.9", "en"),
        ("de,fr;q=0.9", "en"),
        ("de,en;q=0.3,ja;q=0.5", "ja"),
        ("", "en"),
        ("ja;q=x,*", "en"),
    ],
)
def test_the_language_that_a_browser_prefers(accepted: str, language: str) -> None:
    assert preferred(accepted) == language

from __future__ import annotations

import io
import os
import pty
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from kikimimi import Generation
from kikimimi.errors import DataError, KikimimiError, MissingExtraError, RequestError, RoomError
from kikimimi.talking import chat, microphone
from kikimimi.talking.chat import TerminalChat, changed, split_path
from kikimimi.talking.dialogue import Request

Tell = Callable[..., int]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "a b.wav"
    soundfile.write(path, np.sin(np.arange(8_000) / 9) / 4, 16_000)
    return path


@pytest.fixture
def tell(live: Any, monkeypatch: pytest.MonkeyPatch) -> Tell:
    """Run a chat whose input comes from a pipe."""

    def tell(*lines: str | bytes, **options: Any) -> int:
        content = b"".join(line if isinstance(line, bytes) else f"{line}\n".encode() for line in lines)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))
        return TerminalChat(live, **options).run()

    return tell


def test_from_a_pipe_each_line_is_a_message_and_answers_alone_are_printed(
    tell: Tell, live: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tell("hello", "", "  ", "why?") == 0
    assert live.said() == [("user", "hello"), ("assistant", "answer 1"), ("user", "why?")]
    assert capsys.readouterr() == ("answer 1\nanswer 2\n", "")


def test_files_in_all_spellings(
    tell: Tell, live: Any, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    escaped = str(clip).replace(" ", "\\ ")
    lines = [
        f"/audio {clip}",
        f"/audio '{clip}' what's that?",
        f'/audio "{clip}"  who?',
        f"/audio {escaped} when?",
        f"'{clip}' ",
        f"{escaped} how?",
    ]
    assert tell(*lines, request=Request(after="text?")) == 0
    asked = [turn for who, turn in live.said() if who == "user"]
    assert asked == [f"8000+{text}" for text in ("text?", "what's that?", "who?", "when?", "text?", "how?")]
    assert capsys.readouterr().err == f"({clip}: 0.5 s)\n" * 6


@pytest.mark.parametrize(
    ("text", "path", "rest"),
    [
        ("a.wav", "a.wav", ""),
        ("a.wav why it's so", "a.wav", "why it's so"),
        ("'a b.wav'", "a b.wav", ""),
        ("it's.wav", "it's.wav", ""),
        ("'half.wav x", "'half.wav", "x"),
        (r"a\ b\'c.wav d", "a b'c.wav", "d"),
        ("\\", "\\", ""),
        ("~no-such-user/a.wav", "~no-such-user/a.wav", ""),
        ("あ.wav 何", "あ.wav", "何"),
        ("x" * 5000, "x" * 5000, ""),
    ],
)
def test_where_a_path_ends(text: str, path: str, rest: str) -> None:
    assert split_path(text) == (Path(path), rest)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/aduio x.wav", "no such command: /aduio. Did you mean '/audio'? /help lists them."),
        ("/quti", "Did you mean '/quit'?"),
        ("/audio", "/audio FILE [TEXT]: name an audio file"),
        ("/audio nowhere.wav", "nowhere.wav: no such audio file"),
        ('/audio "open quote', "\"open quote: the quote (\") has no end: /audio 'a path' TEXT"),
        ("/microphone", "/microphone needs a terminal"),
        ("/set temperatur 1", "no such option: temperatur. Did you mean 'temperature'? Options: max_new"),
        ("/set temperature", "temperature: must be a number (at least 0), none is given"),
        ("/set temperature -1", "temperature: must be at least 0, not -1.0"),
        ("/set temperature nan", "temperature: must be"),
        ("/set max_new_tokens 1.5", "max_new_tokens: must be a whole number (at least 1), not '1.5'"),
        ("/set top_p 0.5", "top_p is read only when sampling: set temperature above 0, or top_p to 1"),
        (b"a\xff\n", "this line is not UTF-8"),
        (b"/audio a\xff.wav\n", "no such audio file"),
        ("/audio /dev/null", "/dev/null: is a pipe or a device, not an audio file.\n"),
    ],
)
def test_a_line_that_fails_is_told_and_the_next_one_answered(
    tell: Tell, line: str | bytes, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tell(line, "still there?") == 1
    said = capsys.readouterr()
    assert said.out == "answer 1\n"
    assert said.err.startswith("error: ")
    assert message in said.err


def test_settings_system_request_and_clear(
    tell: Tell, live: Any, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["/set temperature 0.7 top_p=0.9", "one", "/system be kind", "/clear", "/ask", f"/audio {clip}"]
    assert tell(*lines, "/ask so?", f"/audio {clip}", "/system", " /x", "/set", "/quit", "never asked") == 0
    assert live.generations[0] == Generation(temperature=0.7, top_p=0.9)
    assert live.said(1) == [("system", "be kind"), ("user", "8000")]
    assert live.said() == [
        ("user", "8000"),
        ("assistant", "answer 2"),
        ("user", "8000+so?"),
        ("assistant", "answer 3"),
        ("user", "/x"),
    ]
    told = capsys.readouterr().err
    assert "(max_new_tokens 256, temperature 0.7, top_p 0.9, num_beams 1)\n" in told
    assert "(system prompt, also of what was said before: be kind)\n" in told


def test_the_system_prompt_of_a_task_stands_where_none_is_given(tell: Tell, live: Any) -> None:
    tell("a", request=Request(system="transcribe"))
    tell("a", request=Request(system="transcribe"), system="mine")
    assert [live.said(number)[0] for number in (0, 1)] == [("system", "transcribe"), ("system", "mine")]


@pytest.mark.parametrize("space", [" ", "  ", "\t", "\u3000"])
def test_any_space_ends_a_command(space: str, tell: Tell, live: Any, clip: Path) -> None:
    assert tell(f"/audio{space}'{clip}'{space}who?", f"/quit{space}now", "never asked") == 0
    assert live.said() == [("user", "8000+who?")]


def test_a_space_makes_a_message_of_a_command(tell: Tell, live: Any) -> None:
    assert tell(" /quit") == 0
    assert live.said() == [("user", "/quit")]


def test_help_names_all_commands(tell: Tell, live: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert tell("/help") == 0
    told = capsys.readouterr().err
    for command in (*TerminalChat(live)._commands, "/quit"):
        assert f"\n{command}" in f"\n{told}"


def test_what_a_model_writes_steers_no_terminal(
    tell: Tell, live: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    live.outcomes = [["a\x1b[31", "m\x07\u202eb", "\nc\r", "d\n"], []]
    tell("one", "two")
    said = capsys.readouterr()
    assert said.out == "a\\x1b[31m\\x07\\u202eb\nc\\rd\n\n"
    assert said.err == "(an empty answer)\n"


def test_what_was_forgotten_and_cut_is_told(
    tell: Tell, live: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    live.outcomes, live.cut = (
        [["one"], RoomError("too long"), ["two"], RoomError("too long: shorten it")],
        True,
    )
    assert tell("a", "b", "/clear", "c") == 1
    said = capsys.readouterr()
    assert said.out == "one\ntwo\n"
    cut = "(cut: no more tokens were allowed: /set max_new_tokens 512, or /clear if the context is full)\n"
    assert said.err == (
        f"{cut}(the first turn and its answer were forgotten: all of it does not fit into the LLM's "
        "context)\n"
        f"{cut}(forgotten)\nerror: too long: shorten it\n"
    )


def test_changed_keeps_what_is_not_named() -> None:
    before = Generation(temperature=0.5, top_p=0.9, max_new_tokens=7)
    assert changed(before, "") == before
    assert changed(before, "top_p 1 temperature=0") == Generation(max_new_tokens=7)
    with pytest.raises(RequestError, match="top_p is read only when sampling"):
        changed(before, "temperature 0")


PATIENCE = 2.0
"""How long a signal has to show an effect [s]."""


class Terminal:
    """A pseudo-terminal at whose other end a thread types, when it has read what it waits for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.master, slave = pty.openpty()
        self.shown = ""
        files = [os.fdopen(os.dup(slave), mode, encoding="utf-8") for mode in ("r", "w", "w")]
        os.close(slave)
        self._patch, self._files = monkeypatch, files

    def type(self, *steps: tuple[str, str | int]) -> None:
        """Type a text or send a signal, each when what goes before is shown.

        A signal that comes between the prompt and the reading of a line is not seen by Python, so that one
        without any effect is sent again.
        """

        def follow() -> None:
            seen, before = 0, None
            for wanted, step in steps:
                while wanted not in self.shown[seen:]:
                    if not select.select([self.master], [], [], PATIENCE)[0]:
                        if isinstance(before, int):
                            os.kill(os.getpid(), before)
                        continue
                    self.shown += os.read(self.master, 4096).decode(errors="replace")
                before = step
                seen = self.shown.index(wanted, seen) + len(wanted)
                if isinstance(step, str):
                    os.write(self.master, step.encode())
                else:
                    os.kill(os.getpid(), step)

        for name, file in zip(("stdin", "stdout", "stderr"), self._files, strict=True):
            self._patch.setattr(sys, name, file)  # here: pytest sets them anew for each phase of a test
        self._thread = threading.Thread(target=follow, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._thread.join()
        for file in self._files:
            file.close()
        while True:
            try:
                more = os.read(self.master, 4096)
            except OSError:
                break
            self.shown += more.decode(errors="replace")
        os.close(self.master)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    with monkeypatch.context() as patch:
        yield Terminal(patch)


def test_ctrl_c_stops_an_answer_and_keeps_the_chat(live: Any, terminal: Terminal) -> None:
    live.outcomes = [None]
    before = signal.getsignal(signal.SIGINT)
    submit = live.submit

    def submit_slowly(*given: Any) -> Any:
        reply = submit(*given)
        if len(live.asked) == 1:
            reply.give("so far")
        return reply

    live.submit = submit_slowly
    terminal.type(
        ("> ", "one\n"),
        ("so far", signal.SIGINT),
        ("(stopped)", ""),
        ("> ", signal.SIGINT),
        ("(Ctrl-D ends the chat)", ""),
        ("> ", "two\n"),
        ("answer 2", ""),
        ("> ", "\x04"),
    )
    assert TerminalChat(live, request=Request(after="what?"), name="tiny").run() == 0
    terminal.close()
    assert signal.getsignal(signal.SIGINT) is before
    assert live.said() == [("user", "one"), ("assistant", "so far"), ("user", "two")]
    assert "tiny. /help lists what you can do" in terminal.shown
    assert "Audio without words is asked: what?" in terminal.shown
    assert "\x1b" not in terminal.shown


def test_the_microphone(live: Any, terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    def heard(sample_rate: int, until: Callable[[], object]) -> Any:
        until()
        return np.full(sample_rate, 0.2, np.float32)

    monkeypatch.setattr(chat, "record", heard)
    terminal.type(
        ("> ", "/microphone who?\n"),
        ("recording; Enter ends it", "\n"),
        ("answer 1", ""),
        ("> ", "/microphone\n"),
        ("recording", signal.SIGINT),
        ("(stopped)", ""),
        ("> ", "\x04"),
    )
    assert TerminalChat(live).run() == 0
    terminal.close()
    assert live.said() == [("user", "16000+who?")]


class Sound:
    """Stands in for sounddevice."""

    class PortAudioError(Exception):
        pass

    def __init__(self, error: str | None = None) -> None:
        self.error = error

    def InputStream(self, *, callback: Callable[..., None], **given: Any) -> Any:  # noqa: N802
        if self.error is not None:
            raise self.PortAudioError(self.error)
        assert given == {"samplerate": 16_000, "channels": 1, "dtype": "float32"}
        self.callback = callback
        return io.BytesIO()  # any context


def test_what_the_microphone_gives_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = Sound()
    monkeypatch.setitem(sys.modules, "sounddevice", sound)
    block = np.zeros((4, 1), np.float32)

    def until() -> None:
        for number in (1, 2):
            block[:] = number  # the library uses its buffer again
            sound.callback(block, 4, None, None)

    assert microphone.record(16_000, until).tolist() == [1, 1, 1, 1, 2, 2, 2, 2]
    assert len(microphone.record(16_000, lambda: None)) == 0


def test_no_microphone_and_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", Sound("no device"))
    with pytest.raises(KikimimiError, match="the microphone cannot be used: no device"):
        microphone.record(16_000, lambda: None)
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'kikimimi\[mic\]'"):
        microphone.record(16_000, lambda: None)

    class Without:
        def find_spec(self, name: str, *_: Any) -> Any:
            if name == "sounddevice":
                raise OSError("PortAudio library not found")
            return None

    monkeypatch.delitem(sys.modules, "sounddevice")
    monkeypatch.setattr(sys, "meta_path", [Without(), *sys.meta_path])
    with pytest.raises(KikimimiError, match="needs PortAudio, which is not installed"):
        microphone.record(16_000, lambda: None)


def test_an_error_of_the_engine_that_nobody_foresaw_is_not_hidden(tell: Tell, live: Any) -> None:
    live.outcomes = [ZeroDivisionError("a bug")]
    with pytest.raises(ZeroDivisionError):
        tell("one")


def test_a_data_error_leaves_the_dialogue_as_it_was(tell: Tell, live: Any) -> None:
    live.outcomes = [["a"], DataError("no template"), ["c"]]
    assert tell("one", "two", "three") == 1
    assert live.said() == [("user", "one"), ("assistant", "a"), ("user", "three")]

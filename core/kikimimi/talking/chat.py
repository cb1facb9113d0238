"""A chat in a terminal: a line is a message or a command, answers come as they are written.

On a terminal Ctrl-C stops an answer, and the chat goes on. Where the input is no terminal, each line is asked
in turn, and answers alone are written to the standard output.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from pathlib import Path
from types import FrameType
from typing import Any

from kikimimi.console.terminal import say
from kikimimi.console.words import nearest
from kikimimi.contracts.generation import Generation
from kikimimi.contracts.options import declared, describe_type, without_none
from kikimimi.data.audio import AUDIO_SUFFIXES
from kikimimi.errors import KikimimiError, RequestError
from kikimimi.inference.live import LiveEngine
from kikimimi.talking.dialogue import Answering, Dialogue, Request
from kikimimi.talking.microphone import record
from kikimimi.talking.recording import Ears, Recording

PROMPT = "> "
_QUOTES = "'\""
_HELP = {
    "/audio FILE [TEXT]": "let the model hear a file, with your words beside it; 'a path' with spaces",
    "/microphone [TEXT]": "record until you press Enter, and let the model hear that",
    "/ask [TEXT]": "what is asked of audio that comes without words; without TEXT: nothing",
    "/system [TEXT]": "the system prompt; without TEXT: none",
    "/set [NAME VALUE ...]": "how answers are made; without NAME: show it",
    "/clear": "forget what was said and heard",
    "/help": "this list",
    "/quit": "end the chat (also Ctrl-D); Ctrl-C stops an answer",
}


class TerminalChat:
    """A chat with a model.

    Args:
        live: The engine.
        system: Text of the system turn; empty for none, or for what `request` says.
        request: What is asked of a recording without words.
        generation: How answers are made.
        name: The model's name.

    Attributes:
        watched: Whether somebody sits at a terminal.
    """

    def __init__(
        self,
        live: LiveEngine,
        *,
        system: str = "",
        request: Request | None = None,
        generation: Generation | None = None,
        name: str = "the model",
    ) -> None:
        self.request, self.generation, self.name = request or Request(), generation or Generation(), name
        self.ears = Ears(live.engine.sample_rate, live.engine.max_seconds)
        self.dialogue = Dialogue(system or self.request.system)
        self.failed, self.watched = 0, sys.stdin.isatty()
        self._live = live
        self._answering: Answering | None = None
        self._commands: dict[str, Callable[[str], object]] = {
            "/audio": self._audio,
            "/microphone": self._microphone,
            "/ask": self._ask,
            "/system": self._system,
            "/set": self._set,
            "/clear": self._clear,
            "/help": self._help,
        }

    def run(self) -> int:
        """Talk until the input ends or somebody quits.

        Returns:
            Number of messages and commands that failed.
        """
        if self.watched:
            _note(f"{self.name}. /help lists what you can do, Ctrl-D ends the chat.")
            if self.request.words:
                _note(f"Audio without words is asked: {self.request.words}")
        with self._interrupts():
            for line in _lines():
                if line.split(maxsplit=1)[:1] == ["/quit"] and line.startswith("/"):
                    break
                try:
                    self._take(line)
                except KikimimiError as error:
                    self.failed += 1
                    say(f"error: {error}", error=True)
                except KeyboardInterrupt:  # while a file was read
                    _note("(stopped)")
        return self.failed

    @contextmanager
    def _interrupts(self) -> Iterator[None]:
        """Let Ctrl-C stop an answer, or what a line began, where somebody sits at a terminal."""
        if not self.watched:
            yield
            return

        def stop(number: int, frame: FrameType | None) -> None:
            if self._answering is None:
                raise KeyboardInterrupt
            self._answering.stop()

        before = signal.signal(signal.SIGINT, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _take(self, line: str) -> None:
        if not line.strip():
            return
        try:
            line.encode()
        except UnicodeEncodeError as error:
            if not line.startswith("/audio"):  # the names of files may be anything
                raise RequestError("this line is not UTF-8") from error
        if dropped := _dropped(line):
            self._hear(*dropped)
        elif line.startswith("/"):
            command, *rest = line.split(maxsplit=1)  # also at a tab, and at the space of Japanese
            if command not in self._commands:
                raise RequestError(
                    f"no such command: {command}.{nearest(command, [*self._commands, '/quit'])} "
                    "/help lists them. Before a message that begins with /, put a space"
                )
            self._commands[command]("".join(rest).strip())
        else:
            self.dialogue.ask(line.strip())
            self._answer()

    def _audio(self, rest: str) -> None:
        if not rest:
            raise RequestError("/audio FILE [TEXT]: name an audio file")
        path, text = split_path(rest)
        if rest[0] in _QUOTES and rest[0] not in rest[1:] and not _is_file(path):
            raise RequestError(f"{rest}: the quote ({rest[0]}) has no end: /audio 'a path' TEXT")
        self._hear(path, text)

    def _hear(self, path: Path, text: str) -> None:
        self._send(self.ears.hear_file(path), text)

    def _microphone(self, text: str) -> None:
        if not self.watched:
            raise RequestError("/microphone needs a terminal, where Enter ends it; use /audio FILE")

        def until() -> None:
            _note("recording; Enter ends it, Ctrl-C throws it away")
            with suppress(EOFError):
                input()

        samples = record(self.ears.sample_rate, until)
        self._send(self.ears.hear(samples, "the recording"), text)

    def _send(self, recording: Recording, text: str) -> None:
        _note(f"({recording.told})")
        self.dialogue.ask(*((recording, text) if text else self.request.parts(recording)))
        self._answer()

    def _ask(self, text: str) -> None:
        self.request = Request(after=text)
        _note(f"(audio without words is asked: {text})" if text else "(audio without words stands alone)")

    def _system(self, text: str) -> None:
        self.dialogue.system = text
        turns = ", also of what was said before" if len(self.dialogue) else ""
        _note(f"(system prompt{turns}: {text})" if text else "(no system prompt)")

    def _set(self, rest: str) -> None:
        self.generation = changed(self.generation, rest)
        now = (f"{field.name} {getattr(self.generation, field.name)}" for field in fields(self.generation))
        _note(f"({', '.join(now)})")

    def _clear(self, rest: str) -> None:
        self.dialogue.clear()
        _note("(forgotten)")

    def _help(self, rest: str) -> None:
        width = max(map(len, _HELP))
        for command, what in _HELP.items():
            _note(f"{command:<{width}}  {what}")
        _note("Anything else is a message. A file that is dropped onto the terminal is heard.")

    def _answer(self) -> None:
        answering = self._answering = Answering(self._live, self.dialogue, self.generation)
        forgotten, last = 0, "\n"
        try:
            for piece in answering:
                if answering.forgotten > forgotten:
                    forgotten = answering.forgotten
                    _note(_told_forgotten(forgotten))
                say(piece, end="")
                last = piece or last
        finally:
            self._answering = None
            if not last.endswith("\n"):
                say()
        if answering.stopped:
            _note("(stopped)")
        elif last == "\n":
            say()
            _note("(an empty answer)")
        elif answering.cut:
            _note(
                f"(cut: no more tokens were allowed: /set max_new_tokens {2 * self.generation.max_new_tokens}"
                ", or /clear if the context is full)"
            )


def _told_forgotten(count: int) -> str:
    turns = "turn and its answer were" if count == 1 else f"{count} turns and their answers were"
    return f"(the first {turns} forgotten: all of it does not fit into the LLM's context)"


def changed(generation: Generation, text: str) -> Generation:
    """Return another way to make answers.

    Args:
        generation: What is not named stays as it is here.
        text: Names and values: ``temperature 0.7 top_p=0.9``.

    Raises:
        RequestError: There is no such option, or it cannot have that value.
    """
    words = re.split(r"[\s=]+", text.strip()) if text.strip() else []
    options = declared(Generation)
    values: dict[str, Any] = {}
    for name, value in zip(words[::2], [*words[1::2], None], strict=False):
        if name not in options:
            raise RequestError(
                f"no such option: {name}.{nearest(name, options)} Options: {', '.join(options)}"
            )
        annotation = options[name].annotation
        kind = int if without_none(annotation)[0] is int else float
        try:
            values[name] = kind(value or "")
        except ValueError as error:
            got = "none is given" if value is None else f"not {value!r}"
            raise RequestError(f"{name}: must be {describe_type(annotation)}, {got}") from error
    try:
        return replace(generation, **values)
    except RequestError:
        raise
    except ValueError as error:
        raise RequestError(str(error)) from error


def split_path(text: str) -> tuple[Path, str]:
    r"""Return the path with which a text begins, and the rest of the text.

    The path is all of the text where that is a file; else it may stand in quotes, or have ``\`` before
    spaces, as terminals write the files that are dropped onto them.
    """
    text = text.strip()
    whole = _path(text)
    if _is_file(whole):
        return whole, ""
    if text[0] in _QUOTES and text[0] in text[1:]:
        path, _, rest = text[1:].partition(text[0])
        return _path(path), rest.strip()
    found = re.match(r"(?:\\.|[^\\\s])+", text)
    path = found[0] if found else text
    rest = text[len(path) :].strip()
    return _path(re.sub(r"\\(.)", r"\1", path)), rest


def _path(text: str) -> Path:
    return Path(os.path.expanduser(text))  # that of Path refuses names that begin with ~


def _dropped(line: str) -> tuple[Path, str] | None:
    """Return the audio file with whose whole path a line begins, and the rest; None where it does not."""
    path, rest = split_path(line)
    suffix = path.suffix.lower().removeprefix(".")
    return (path, rest) if path.is_absolute() and suffix in AUDIO_SUFFIXES and _is_file(path) else None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # longer than a name may be; a null character
        return False


def _lines() -> Iterator[str]:
    """Yield the lines of the input without their ends."""
    if not sys.stdin.isatty():
        if reconfigure := getattr(sys.stdin, "reconfigure", None):
            reconfigure(errors="surrogateescape")
        for line in sys.stdin:
            yield line.rstrip("\r\n")
        return
    with suppress(ImportError):
        import readline  # noqa: F401 - lines can be edited, and come back with the arrow keys
    while True:
        try:
            yield input(PROMPT if sys.stdout.isatty() else "")
        except KeyboardInterrupt:
            _note("\n(Ctrl-D ends the chat)")
        except EOFError:
            say(error=True)
            return
        except UnicodeDecodeError:
            say("error: this line is not UTF-8", error=True)


def _note(text: str) -> None:
    """Say something that is no answer."""
    say(text, error=True)

"""One browser's conversation in the demo; it shares the engine with others, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kikimimi.console.terminal import visible
from kikimimi.contracts.generation import Generation
from kikimimi.errors import KikimimiError, RequestError
from kikimimi.inference.live import BusyError, LiveEngine
from kikimimi.inference.transcript import join_texts
from kikimimi.talking.dialogue import Answering, Dialogue, Request
from kikimimi.talking.interface import LANGUAGES, words_of
from kikimimi.talking.recording import Ears, Recording

ShownTurns = list[dict[str, str]]
"""What the page shows: role and content of each message."""
ALONE = ("transcription", "description")
"""Modes that hear each clip by itself, and remember nothing."""
_MARK = "\u24d8"  # an i in a circle


@dataclass(frozen=True)
class Wish:
    """How a message is to be answered.

    Attributes:
        mode: Name of one that the page offers.
        request: What is asked of a recording without words.
        system: Text of the system turn; empty for that of the request.
        generation: How the answer is made.
    """

    mode: str
    request: Request
    system: str
    generation: Generation


class Session:
    """What was said in one browser, and what it shows.

    Args:
        language: Language of its page.

    Attributes:
        language: Language of its page.
        shown: What it shows.
    """

    def __init__(self, language: str = LANGUAGES[0]) -> None:
        self.language, self.shown = language, ShownTurns()
        self._dialogue = Dialogue()
        self._answering: Answering | None = None

    def stop(self) -> None:
        """Stop the answer that is being made."""
        if self._answering is not None:
            self._answering.stop()

    def clear(self) -> None:
        """Forget what was said and heard."""
        self.stop()
        self._dialogue, self.shown = Dialogue(), []

    def send(
        self, live: LiveEngine, ears: Ears, text: str, files: Sequence[str | Path], wish: Wish
    ) -> Iterator[ShownTurns]:
        """Answer a message.

        Args:
            live: The engine.
            ears: What its model can hear.
            text: What was typed.
            files: Recordings.
            wish: How it is answered.

        Yields:
            What the page shows then; what is wrong is shown, too.
        """
        shown, words = self.shown, words_of(self.language)
        try:
            recordings: list[Recording] = []
            wrong: KikimimiError | None = None
            for file in map(Path, files):
                try:
                    recordings.append(heard := ears.hear_file(file, file.name))
                    _show(shown, "user", words["recording"].format(name=file.name, seconds=heard.seconds))
                except KikimimiError as error:
                    wrong = wrong or error
                    _show(shown, "user", words["unheard"].format(name=file.name))
            if text.strip():
                _show(shown, "user", text)
            if wrong is not None:  # all of it is shown: nobody has to type it again
                raise wrong
            for recording in recordings:
                if len(recording.pieces) > 1:
                    limit, count = recording.max_seconds, len(recording.pieces)
                    _note(shown, words["cut"].format(limit=limit, count=count))
            yield shown
            for _ in self._answers(live, text.strip(), recordings, wish):
                if self.shown is not shown:  # somebody has cleared it
                    return
                yield shown
        except BusyError:
            _note(shown, words["busy"])
        except KikimimiError as error:
            _note(shown, words["error"].format(error=error))
        if self.shown is shown:
            yield shown

    def _answers(
        self, live: LiveEngine, text: str, recordings: list[Recording], wish: Wish
    ) -> Iterator[None]:
        shown = self.shown
        if wish.mode in ALONE:
            if not recordings:
                raise RequestError(words_of(self.language)["needs_recording"])
            for recording in recordings:
                answer = _Answer(shown)
                for piece in recording.pieces:
                    part = replace(recording, pieces=(piece,))
                    dialogue = Dialogue()
                    dialogue.ask(*((part, text) if text else wish.request.parts(part)))
                    yield from self._answer(live, dialogue, wish, answer)
                    if answer.stopped:
                        return
            return
        dialogue = self._dialogue
        if text or not recordings:
            dialogue.ask(*recordings, text)
        else:
            dialogue.ask(wish.request.before, *recordings, wish.request.after)
        yield from self._answer(live, dialogue, wish, _Answer(shown))

    def _answer(self, live: LiveEngine, dialogue: Dialogue, wish: Wish, answer: _Answer) -> Iterator[None]:
        dialogue.system = wish.system or wish.request.system
        answering = self._answering = Answering(live, dialogue, wish.generation)
        try:
            for piece in answering:
                answer.add(piece)
                yield
        finally:
            self._answering = None
        answer.end(answering, words_of(self.language))
        yield


class _Answer:
    """A message of the model on the page, to which the answers about the pieces of a recording add up."""

    def __init__(self, shown: ShownTurns) -> None:
        self.stopped = False
        self._shown, self._message = shown, {"role": "assistant", "content": ""}
        self._before = self._piece = ""

    def add(self, piece: str) -> None:
        if not self._message["content"]:
            self._shown.append(self._message)
        self._piece += piece
        self._message["content"] = visible(join_texts([self._before, self._piece]), lines=True)

    def end(self, answering: Answering, words: dict[str, Any]) -> None:
        self.stopped = answering.stopped
        notes = {
            words["forgotten"].format(count=answering.forgotten): answering.forgotten > 0,
            words["stopped"]: answering.stopped,
            words["no_more"]: answering.cut,
            words["nothing"]: not self._piece and not answering.stopped,
        }
        self._before, self._piece = join_texts([self._before, self._piece]), ""
        for note, holds in notes.items():
            if holds:
                _note(self._shown, note)


def _show(shown: ShownTurns, role: str, text: str) -> None:
    shown.append({"role": role, "content": visible(text, lines=True)})


def _note(shown: ShownTurns, text: str) -> None:
    """Show something that the model has not said."""
    _show(shown, "assistant", f"{_MARK} {text}")

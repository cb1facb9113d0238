"""A dialogue: what was said and heard so far, and the prompt that comes of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from kikimimi.contracts.conversation import AudioPart, Conversation, Message, TextPart
from kikimimi.contracts.generation import Generation
from kikimimi.errors import RequestError, RoomError
from kikimimi.inference.engine import Prompt
from kikimimi.inference.live import LiveEngine
from kikimimi.inference.reply import Reply
from kikimimi.talking.recording import Recording


@dataclass(frozen=True)
class Request:
    """What is asked of a recording that comes without words.

    Attributes:
        system: Text of the system turn; empty where there is none.
        before: Text before the audio; empty where there is none.
        after: Text after the audio; empty where there is none.
    """

    system: str = ""
    before: str = ""
    after: str = ""

    @classmethod
    def of(cls, question: Conversation) -> Request:
        """Return what a task asks of one clip."""
        texts = {"system": "", "before": "", "after": ""}
        for message in question.messages:
            place = "system" if message.role == "system" else "before"
            for part in message.parts:
                if isinstance(part, AudioPart):
                    place = "after"
                else:
                    texts[place] += part.text
        return cls(**texts)

    @property
    def words(self) -> str:
        """What is asked, wherever it stands; empty where the audio stands alone."""
        return " ".join(filter(None, (self.system, self.before, self.after)))

    def parts(self, recording: Recording) -> tuple[str | Recording, ...]:
        """Return the parts of the turn that asks it."""
        return tuple(part for part in (self.before, recording, self.after) if part)


@dataclass
class _Exchange:
    """A turn of the person, and the model's answer to it."""

    parts: tuple[str | Recording, ...]
    answer: str | None = None


class Dialogue:
    """What a person and a model said to each other; recordings are remembered.

    Attributes:
        system: Text of the system turn; empty where there is none.
    """

    def __init__(self, system: str = "") -> None:
        self.system = system
        self._exchanges: list[_Exchange] = []

    def __len__(self) -> int:
        """Return the number of the person's turns."""
        return len(self._exchanges)

    def ask(self, *parts: str | Recording) -> None:
        """Add a turn of the person, in order of its texts and recordings.

        Raises:
            RequestError: It says nothing.
        """
        kept = tuple(part for part in parts if not isinstance(part, str) or part.strip())
        if not kept:
            raise RequestError("nothing was asked")
        self._exchanges.append(_Exchange(kept))

    def answered(self, text: str) -> None:
        """Add the answer to the last turn."""
        self._exchanges[-1].answer = text

    def take_back(self) -> None:
        """Forget the last turn, which was not answered."""
        self._exchanges.pop()

    def forget_first(self) -> bool:
        """Forget the first turn and its answer, unless it is the only one; tell whether it was."""
        if len(self._exchanges) < 2:
            return False
        self._exchanges.pop(0)
        return True

    def clear(self) -> None:
        """Forget all turns; what the system turn says stays."""
        self._exchanges.clear()

    def prompt(self) -> Prompt:
        """Return what the model is asked now."""
        messages: list[Message] = []
        clips: list[Tensor] = []
        if self.system:
            messages.append(Message("system", (TextPart(self.system),)))
        for exchange in self._exchanges:
            turn: list[TextPart | AudioPart] = []
            for part in exchange.parts:
                if isinstance(part, str):
                    turn.append(TextPart(part))
                    continue
                for piece in part.pieces:
                    turn.append(AudioPart(str(len(clips))))
                    clips.append(piece)
            messages.append(Message("user", tuple(turn)))
            if exchange.answer is not None:
                messages.append(Message("assistant", (TextPart(exchange.answer),)))
        return Prompt("", Conversation(tuple(messages)), clips)


class Answering:
    """The answer to a dialogue's last turn, while it is being made.

    Where the dialogue does not fit into the LLM's context, its first turns are forgotten, and counted.

    Args:
        live: The engine.
        dialogue: Its last turn is the person's. The answer becomes part of it, as far as it came; where none
            came, that turn is taken back.
        generation: How it is answered.

    Attributes:
        forgotten: Number of the turns that were forgotten.
        cut: Whether the answer ended because no more tokens were allowed.
        stopped: Whether somebody stopped it.
    """

    def __init__(self, live: LiveEngine, dialogue: Dialogue, generation: Generation) -> None:
        self.forgotten, self.cut, self.stopped = 0, False, False
        self._live, self._dialogue, self._generation = live, dialogue, generation
        self._reply: Reply | None = None

    def stop(self) -> None:
        """Stop it; from any thread, and from a handler of signals."""
        self.stopped = True
        if self._reply is not None:
            self._reply.cancel()

    def __iter__(self) -> Iterator[str]:
        """Yield pieces of the answer as they come.

        Raises:
            KikimimiError: It cannot be answered.
        """
        said, whole = "", False
        try:
            while not self.stopped:
                try:
                    for piece in self._ask():
                        said += piece
                        yield piece
                    break
                except RoomError:
                    if said or not self._dialogue.forget_first():
                        raise
                    self.forgotten += 1
            if self._reply is not None and not self._reply.cancelled:
                whole, self.cut = True, bool(self._reply.answer().cut)
            self.stopped = not whole
        finally:
            if self._reply is not None:
                self._reply.cancel()  # nobody listens any longer
            if said or whole:
                self._dialogue.answered(said)
            else:
                self._dialogue.take_back()

    def _ask(self) -> Iterator[str]:
        self._reply = self._live.submit(self._dialogue.prompt(), self._generation)
        if self.stopped:  # a moment before
            self._reply.cancel()
        return iter(self._reply)

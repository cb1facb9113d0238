"""Rendering a conversation through a tokenizer's own chat template, with audio slots and a loss mask.

The text is exactly what `apply_chat_template` gives, and so are the ids, with two exceptions that are the
point of this module: an audio part becomes one slot, and a control token spelled out in somebody's text is
encoded as ordinary characters.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from kikimimi.conversation import AudioPart, Conversation, Message, TextPart
from kikimimi.interfaces import Rendered

# Noncharacters of Unicode: no text that people write holds them.
_CONTENT = "\ufdd0"
_AUDIO = "\ufdd1"
SLOT_ID = 0


@dataclass(frozen=True)
class _Span:
    """A stretch of the rendered text that is somebody's content, [start, end)."""

    start: int
    end: int
    assistant: bool


class ChatTemplate:
    """A tokenizer with its chat template.

    Args:
        tokenizer: A fast tokenizer of transformers that has a chat template.
        source: What to call it in messages.

    Raises:
        ValueError: The tokenizer has no chat template, or the template ends an assistant turn with no
            control token, so that generation could not stop.
    """

    def __init__(self, tokenizer: Any, *, source: str) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise ValueError(f"{source}: needs a fast tokenizer (tokenizer.json), for character offsets")
        if tokenizer.chat_template is None:
            raise ValueError(
                f"{source}: the tokenizer has no chat template. Use an instruction-tuned model, or add "
                "chat_template.jinja to a local copy of its folder."
            )
        self.tokenizer = tokenizer
        self.source = source
        self._control = {token: token_id for token, token_id in tokenizer.get_added_vocab().items() if token}
        self._control_ids = set(self._control.values()) | set(tokenizer.all_special_ids)
        self.end_of_turn = self._find_end_of_turn()
        self.stop_ids = sorted({self.end_of_turn} | ({tokenizer.eos_token_id} - {None}))

    def _find_end_of_turn(self) -> int:
        text, spans = self._lay_out(
            Conversation((Message("user", (TextPart("a"),)), Message("assistant", (TextPart("b"),)))), False
        )
        for token_id in self.tokenizer.encode(text[spans[-1].end :], add_special_tokens=False):
            if token_id in self._control_ids:
                return int(token_id)
        raise ValueError(f"{self.source}: the chat template ends an assistant turn with no control token")

    def text(self, conversation: Conversation, *, generate: bool = False) -> str:
        """Return the rendered text; an audio part is one noncharacter."""
        return self._lay_out(conversation, generate)[0]

    def render(self, conversation: Conversation, *, generate: bool = False) -> Rendered:
        """Render to ids, loss mask and slots.

        Args:
            conversation: The turns.
            generate: End with the header of an assistant turn.

        Raises:
            ValueError: The template refuses the conversation or rewrites its texts, or a text cannot be
                encoded without forming a control token.
        """
        text, spans = self._lay_out(conversation, generate)
        ids: list[int] = []
        loss: list[bool] = []
        slots: list[int] = []
        passed = 0  # how many contents lie behind
        ending = False  # after an assistant's content, empty or not, until its turn is closed
        for start, end in self._pieces(text, spans):
            if text[start:end] == _AUDIO:
                slots.append(len(ids))
                ids.append(SLOT_ID)
                loss.append(False)
                continue
            encoded = self.tokenizer(text[start:end], add_special_tokens=False, return_offsets_mapping=True)
            for token_id, (left, right) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
                span = _overlapping(spans, start + left, start + right)
                if span is not None and token_id in self._control_ids and token_id != self._unknown:
                    raise ValueError(
                        f"{self.source}: the text {text[start + left : start + right]!r} would become a "
                        "control token of the tokenizer, and it cannot be encoded otherwise"
                    )
                while passed < len(spans) and spans[passed].end <= start + left:
                    ending = spans[passed].assistant
                    passed += 1
                wanted = ending if span is None else span.assistant
                ids.append(token_id)
                loss.append(wanted)
                if span is None and token_id == self.end_of_turn:
                    ending = False
        return Rendered(ids, loss, slots)

    @property
    def _unknown(self) -> int | None:
        unknown: int | None = self.tokenizer.unk_token_id
        return unknown

    def _lay_out(self, conversation: Conversation, generate: bool) -> tuple[str, list[_Span]]:
        """Return the rendered text and where in it the contents stand."""
        contents = [_flatten(message) for message in conversation.messages]
        roles = [message.role for message in conversation.messages]
        text = self._apply(roles, contents, generate)
        frame = self._apply(roles, [f"{_CONTENT}{i}{_CONTENT}" for i in range(len(roles))], generate)
        spans: list[_Span] = []
        position = 0
        rest = frame
        for i, (role, content) in enumerate(zip(roles, contents, strict=True)):
            before, found, rest = rest.partition(f"{_CONTENT}{i}{_CONTENT}")
            start = position + len(before)
            # Templates take a content as it is or trimmed; anything else would make the spans a guess.
            for form in (content, content.strip()):
                if found and text[position:start] == before and text.startswith(form, start):
                    following = rest.partition(_CONTENT)[0]
                    if text.startswith(following, start + len(form)):
                        break
            else:
                raise ValueError(
                    f"{self.source}: the chat template drops or rewrites the {role} turn {i}, so its "
                    "tokens cannot be told apart"
                )
            position = start + len(form)
            spans.append(_Span(start, position, role == "assistant"))
        if text[position:] != rest:
            raise ValueError(f"{self.source}: the chat template's frame depends on the texts")
        return text, spans

    def _apply(self, roles: list[Any], contents: list[str], generate: bool) -> str:
        messages = [{"role": r, "content": c} for r, c in zip(roles, contents, strict=True)]
        try:
            text = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=generate
            )
        except Exception as error:
            raise ValueError(f"{self.source}: the chat template refuses the conversation: {error}") from error
        return str(text)

    def _pieces(self, text: str, spans: list[_Span]) -> list[tuple[int, int]]:
        """Cut at audio parts, and inside control tokens that somebody spelled out in a content."""
        cuts = {0, len(text)}
        for span in spans:
            position = text.find(_AUDIO, span.start, span.end)
            while position >= 0:
                cuts |= {position, position + 1}
                position = text.find(_AUDIO, position + 1, span.end)
            for token in self._control:
                position = text.find(token, span.start, span.end) if len(token) > 1 else -1
                while position >= 0:
                    cuts.add(position + 1)
                    position = text.find(token, position + 1, span.end)
        ordered = sorted(cuts)
        return list(pairwise(ordered))


def _flatten(message: Message) -> str:
    pieces = []
    for part in message.parts:
        if isinstance(part, AudioPart):
            pieces.append(_AUDIO)
        elif _AUDIO in part.text or _CONTENT in part.text:
            raise ValueError("a text holds the Unicode noncharacter U+FDD0 or U+FDD1")
        else:
            pieces.append(part.text)
    return "".join(pieces)


def _overlapping(spans: list[_Span], start: int, end: int) -> _Span | None:
    for span in spans:
        if start < span.end and end > span.start:
            return span
    return None

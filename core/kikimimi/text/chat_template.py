"""Rendering a conversation through a chat template, with audio slots and a loss mask.

The text is exactly what `apply_chat_template` gives, and so are the ids, with two exceptions that are the
point of this module: an audio part becomes one slot, and a control token spelled out in somebody's text is
encoded as ordinary characters.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kikimimi.console.terminal import shortened, visible
from kikimimi.console.words import listing
from kikimimi.contracts.component import Rendered, Stretch
from kikimimi.contracts.conversation import AudioPart, Conversation, Message, Role, TextPart
from kikimimi.text.guarded_tokenizer import AUDIO, AUDIO_ID, GuardedTokenizer, Token
from kikimimi.text.template_sandbox import TemplateLimitError, render_template
from kikimimi.text.templates import TEMPLATES, find_template

# A noncharacter of Unicode, like AUDIO: it marks where in a template's output a content stands.
_CONTENT = "\ufdd0"
_MARK = re.compile(f"{_CONTENT}(\\d+){_CONTENT}")


@dataclass(frozen=True)
class _Content:
    """A stretch of the rendered text that is somebody's content, [start, end).

    Attributes:
        role: Role whose content it is.
        start: Its first character.
        end: The character after its last one.
        begin: Where the assistant starts to write: after the header that generation starts from.
    """

    role: Role
    start: int
    end: int
    begin: int


class ChatTemplate:
    """A tokenizer with a chat template.

    A template may write `message.audio`: it then gets the clips that a turn starts with there, and only the
    rest of the turn as `message.content`.

    Args:
        tokenizer: A fast tokenizer of transformers; it gets the template where one is given.
        source: What to call it in messages.
        template: Name or Jinja source of a template in place of the tokenizer's own.
        variables: Further variables of the template, such as ``enable_thinking``.
        audio_start: Control token to put before every slot, or None.
        audio_end: Control token to put after every slot, or None.

    Attributes:
        tokenizer: The tokenizer.
        end_of_turn: The control token after the last answer.
        stop_ids: The ids that end an answer, `end_of_turn` among them.

    Raises:
        ValueError: There is no chat template, it ends an assistant turn with no control token, so that
            generation could not stop, it does not read a variable, or a token does not exist.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        source: str,
        template: str | None = None,
        variables: Mapping[str, Any] | None = None,
        audio_start: str | None = None,
        audio_end: str | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.source = source
        self._variables = dict(variables or {})
        if template is not None:
            tokenizer.chat_template = find_template(template)
        if tokenizer.chat_template is None:
            raise ValueError(
                f"{source}: the tokenizer has no chat template. Use an instruction-tuned model, or set "
                f"chat_template to one of {listing(path.stem for path in TEMPLATES.glob('*.jinja'))}, or to "
                "Jinja of your own"
            )
        self._origin = _origin(tokenizer, template)
        self._jinja = str(tokenizer.get_chat_template())
        for name in self._variables:
            if name not in self._jinja:
                raise ValueError(f"{source}: the chat template reads no variable {name!r}")
        self._guarded = GuardedTokenizer(
            tokenizer, source=source, spelled=self._jinja, audio_start=audio_start, audio_end=audio_end
        )
        self._header = self._find_header()
        self.end_of_turn = self._find_end(("a", "b"))
        self.stop_ids = self._find_stop_ids()

    def text(self, conversation: Conversation, *, generate: bool = False) -> str:
        """Return the rendered text; an audio part is one noncharacter."""
        return self._lay_out(conversation, generate)[0]

    def render(self, conversation: Conversation, *, generate: bool = False) -> Rendered:
        """Render to ids, loss mask, slots and spans.

        Args:
            conversation: The turns.
            generate: End with the header of an assistant turn.

        Raises:
            ValueError: The template refuses the conversation or rewrites its texts, or a text cannot be
                encoded without forming a control token.
        """
        text, contents = self._lay_out(conversation, generate)
        tokens = self._guarded.encode(text, [(content.start, content.end) for content in contents])
        # A template may put the clips of a turn outside its content; they keep their order.
        heard: list[Role] = [
            m.role for m in conversation.messages for p in m.parts if isinstance(p, AudioPart)
        ]
        clips = iter(heard)
        stretches: list[Stretch] = []
        for token, wanted in zip(tokens, self._wanted(tokens, contents), strict=True):
            said: Iterator[Role] = (c.role for c in contents if token.start < c.end and c.start < token.end)
            role: Role | None = next(clips if token.id == AUDIO_ID else said, None)
            stretches += self._guarded.stretches(token, role, loss=wanted)
        return Rendered.of(stretches)

    def _wanted(self, tokens: list[Token], contents: list[_Content]) -> list[bool]:
        """Return for each token whether the assistant has to produce it."""
        wanted = [False] * len(tokens)
        starts = [content.start for content in contents[1:]]
        for content, following in zip(contents, [*starts, tokens[-1].end if tokens else 0], strict=True):
            if content.role != "assistant":
                continue
            ending: list[int] = []  # after the content, until the turn is closed
            for place, token in enumerate(tokens):
                if token.start < content.end:
                    wanted[place] |= token.end > content.begin and token.id != AUDIO_ID
                elif token.start >= following or token.id == AUDIO_ID:
                    break
                else:
                    ending.append(place)
                    if token.id in self._guarded.control_ids:
                        wanted[ending[0] : place + 1] = [True] * (place + 1 - ending[0])
                        break
        return wanted

    def _lay_out(self, conversation: Conversation, generate: bool) -> tuple[str, list[_Content]]:
        """Return the rendered text and where in it the contents stand."""
        messages = [self._message(message) for message in conversation.messages]
        text = self._apply(messages, generate)
        marked = [{**m, "content": f"{_CONTENT}{i}{_CONTENT}"} for i, m in enumerate(messages)]
        # Pieces of the frame, and between them the numbers of the turns whose contents stand there.
        frame = _MARK.split(self._apply(marked, generate))
        order = [int(number) for number in frame[1::2]]
        contents: list[_Content] = []
        position = 0
        for before, i, following in zip(frame[::2], order, frame[2::2], strict=False):
            role, content = conversation.messages[i].role, messages[i]["content"]
            start = position + len(before)
            for form in _forms(content):
                if (
                    text[position:start] == before
                    and text.startswith(form, start)
                    and text.startswith(following, start + len(form))
                ):
                    break
            else:
                raise self._rewrites(role, i, "")
            begin = self._begin(messages[:i], text, position, start) if role == "assistant" else start
            position = start + len(form)
            contents.append(_Content(role, start, position, begin))
        for i, message in enumerate(messages):
            if order.count(i) != 1:
                line = self._fixed_line(marked, i, generate) if i not in order else ""
                # A template may print a system line of its own: a turn that says the same is not lost.
                if message["role"] != "system" or message["content"].strip() != line.strip():
                    raise self._rewrites(message["role"], i, line)
        if text[position:] != frame[-1]:
            raise ValueError(f"{self.source}: the chat template's frame depends on the texts")
        heard = [i for i in order if AUDIO in messages[i]["content"]]
        if text.count(AUDIO) != len(conversation.clips()) or heard != sorted(heard):
            raise ValueError(f"{self.source}: the chat template drops, repeats or moves clips")
        return text, contents

    def _begin(self, asked: list[dict[str, str]], text: str, after: int, start: int) -> int:
        """Return where the assistant starts to write: where the rendering that generation continues ends."""
        prompt = self._apply(asked, True) if asked else ""
        if after <= len(prompt) <= start and text.startswith(prompt):
            return len(prompt)
        # Later turns may change what stands before them; the header of an assistant's turn stays.
        header = text.rfind(self._header, after, start)
        return header + len(self._header) if header >= 0 else start

    def _fixed_line(self, messages: list[dict[str, str]], i: int, generate: bool) -> str:
        """Return what the template prints for a turn, whatever the turn says."""
        other = messages[:i] + messages[i + 1 :]
        with_turn, without = self._apply(messages, generate), self._apply(other, generate) if other else ""
        start = _shared(with_turn, without)
        return with_turn[start : len(with_turn) - _shared(with_turn[start:][::-1], without[start:][::-1])]

    def _rewrites(self, role: str, i: int, line: str) -> ValueError:
        hint = f". It prints {line!r} of its own: leave the turn out, or say just that" if line else ""
        return ValueError(
            f"{self.source}: the chat template drops or rewrites the {role} turn {i}, so its "
            f"tokens cannot be told apart{hint}"
        )

    def _message(self, message: Message) -> dict[str, str]:
        content = flatten(message)
        if "message.audio" not in self._jinja:
            return {"role": message.role, "content": content}
        rest = content.lstrip(AUDIO)
        return {"role": message.role, "content": rest, "audio": content[: len(content) - len(rest)]}

    def _apply(self, messages: list[dict[str, str]], generate: bool) -> str:
        variables = {
            **self.tokenizer.special_tokens_map,
            "tools": None,
            "documents": None,
            **self._variables,
            "messages": messages,
            "add_generation_prompt": generate,
        }
        try:
            return render_template(self._jinja, variables)
        except TemplateLimitError as error:
            raise ValueError(
                f"{self.source}: the chat template is not safe to run: {error} ({self._origin})"
            ) from error
        except Exception as error:
            raise ValueError(
                f"{self.source}: the chat template refuses the conversation: {error} ({self._origin})"
            ) from error

    def _find_header(self) -> str:
        """Return what generation puts after the last turn."""
        asked = [self._message(Message("user", (TextPart("a"),)))]
        with_header, without = self._apply(asked, True), self._apply(asked, False)
        return with_header.removeprefix(without) if with_header.startswith(without) else ""

    def _find_end(self, turns: tuple[str, ...]) -> int:
        """Return the first control token after the second of some turns, which is the assistant's."""
        roles: tuple[Role, ...] = ("user", "assistant", "user", "assistant")
        messages = tuple(Message(r, (TextPart(t),)) for r, t in zip(roles, turns, strict=False))
        text, contents = self._lay_out(Conversation(messages), False)
        end = contents[2].start if len(contents) > 2 else len(text)
        for token in self._guarded.encode(text[contents[1].end : end], []):
            if token.id in self._guarded.control_ids:
                return token.id
        raise ValueError(f"{self.source}: the chat template ends an assistant turn with no control token")

    def _find_stop_ids(self) -> list[int]:
        eos: int | None = self.tokenizer.eos_token_id
        found = {self.end_of_turn} if eos is None else {self.end_of_turn, eos}
        # Before a further turn an answer may end otherwise than at the end of the conversation; a template of
        # one turn refuses it, and one may mark the end of the last answer only.
        with suppress(ValueError):
            found.add(self._find_end(("a", "b", "a", "b")))
        return sorted(found)


def _origin(tokenizer: Any, given: str | None) -> str:
    """Return where the template stands, as messages name it."""
    if given is not None:
        return f"chat_template: {shortened(visible(given), 60)}"
    folder = Path(str(tokenizer.name_or_path))
    files = [folder / name for name in ("chat_template.jinja", "tokenizer_config.json")]
    return str(next((file for file in files if file.is_file()), tokenizer.name_or_path or "the tokenizer's"))


def _shared(first: str, second: str) -> int:
    """Return how many characters two texts share at their start."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))


def _forms(content: str) -> list[str]:
    """Return what a template may make of a content: as it is, or trimmed. Else the spans would be a guess."""
    trimmed = [trim(content, of) for of in (None, "\n") for trim in (str.strip, str.lstrip, str.rstrip)]
    return [content, *trimmed]


def flatten(message: Message) -> str:
    """Return the text of a turn, in which a clip is the noncharacter `AUDIO`.

    Raises:
        ValueError: A text holds a noncharacter that is needed here.
    """
    pieces = []
    for part in message.parts:
        if isinstance(part, AudioPart):
            pieces.append(AUDIO)
        elif AUDIO in part.text or _CONTENT in part.text:
            raise ValueError("a text holds the Unicode noncharacter U+FDD0 or U+FDD1")
        else:
            pieces.append(part.text)
    return "".join(pieces)

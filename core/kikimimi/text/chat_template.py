"""Rendering a conversation through a chat template, with audio slots and a loss mask.

The text is exactly what `apply_chat_template` gives, and so are the ids, with four exceptions that are the
point of this module: an audio part becomes one slot, a control token spelled out in somebody's text is
encoded as ordinary characters, the tokens before an answer are those that generation starts from, whatever
the answer begins with, and where a template opens an answer with a thought (an empty one where thinking is
off), it opens every answer so.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from kikimimi.console.terminal import shortened, visible
from kikimimi.console.words import listing
from kikimimi.contracts.answer import THINKING, without_thoughts
from kikimimi.contracts.component import Rendered, Stretch
from kikimimi.contracts.conversation import AudioPart, Conversation, Message, Role, TextPart
from kikimimi.contracts.vocabulary import TokenizerVocabulary
from kikimimi.text.guarded_tokenizer import AUDIO, AUDIO_ID, GuardedTokenizer, Token
from kikimimi.text.template_sandbox import TemplateLimitError, render_template, template_reads
from kikimimi.text.templates import CHAT_TEMPLATES, find_chat_template
from kikimimi.text.thinking import Opening, knows_thinking, thinking_off, thinking_on

# A noncharacter of Unicode, like AUDIO: it marks where in a template's output a content stands.
_CONTENT = "\ufdd0"
_TURN = Conversation((Message("user", (TextPart("a"),)), Message("assistant", (TextPart("b"),))))
_T = TypeVar("_T")
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
        variables: Further variables of the template; they go before what `thinking` sets.
        thinking: Whether the model is to think before it answers. The variables by which templates switch
            that are set, and every answer begins as generation's prompt lets it begin.
        audio_start: Control token to put before every slot, or None.
        audio_end: Control token to put after every slot, or None.

    Attributes:
        tokenizer: The tokenizer.
        jinja: The template's source.
        variables: What it is given besides the turns.
        end_of_turn: The control token after the last answer.
        stop_ids: The ids that end an answer, `end_of_turn` among them.

    Raises:
        ValueError: There is no chat template, it ends an assistant turn with no control token, so that
            generation could not stop, it does not read a variable, it knows no thinking that could be
            switched on, or a token does not exist.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        source: str,
        template: str | None = None,
        variables: Mapping[str, Any] | None = None,
        thinking: bool = False,
        audio_start: str | None = None,
        audio_end: str | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.source = source
        if template is not None:
            tokenizer.chat_template = find_chat_template(template)
        if tokenizer.chat_template is None:
            raise ValueError(
                f"{source}: the tokenizer has no chat template. Use an instruction-tuned model, or set "
                f"chat_template to one of {listing(CHAT_TEMPLATES)}, or to "
                "Jinja of your own"
            )
        self._origin = _origin(tokenizer, template)
        self.jinja = str(tokenizer.get_chat_template())
        self.variables = self._find_variables(dict(variables or {}), thinking)
        self._header = self._find_header()
        self._opening: Opening | None = None
        self._opening = self._find_opening(thinking)
        self._thoughts = self._find_thoughts()
        added = "" if self._opening is None else self._opening.prompt + self._opening.rest
        self._guarded = GuardedTokenizer(
            tokenizer,
            source=source,
            spelled=self.jinja + added,
            audio_start=audio_start,
            audio_end=audio_end,
        )
        self.end_of_turn = self._find_end(("a", "b"))
        self.stop_ids = self._find_stop_ids()

    @property
    def opens_answers(self) -> bool:
        """Whether every answer begins with a thought, an empty one where thinking is off."""
        return self._opening is not None

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
        begins = [content.begin for content in contents if content.role == "assistant"]
        tokens = self._guarded.encode(text, [(content.start, content.end) for content in contents], begins)
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
                    # A control token of the header may take white space that the answer begins with.
                    header = token.start < content.begin and token.id in self._guarded.control_ids
                    wanted[place] |= token.end > content.begin and token.id != AUDIO_ID and not header
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
                raise self._rewrites(role, i, "", any(map(_holds_thought, messages)))
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
        return (text, contents) if self._opening is None else _opened(self._opening, text, contents, generate)

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

    def _rewrites(self, role: str, i: int, line: str, thinks: bool = False) -> ValueError:
        hint = f". It prints {line!r} of its own: leave the turn out, or say just that" if line else ""
        if thinks:
            hint = ". An answer holds a thought, which templates move or leave out: give the answer alone"
        return ValueError(
            f"{self.source}: the chat template drops or rewrites the {role} turn {i}, so its "
            f"tokens cannot be told apart{hint}"
        )

    def _message(self, message: Message) -> dict[str, str]:
        content = flatten_message(message)
        if "message.audio" not in self.jinja:
            return {"role": message.role, "content": content}
        rest = content.lstrip(AUDIO)
        return {"role": message.role, "content": rest, "audio": content[: len(content) - len(rest)]}

    def _apply(self, messages: list[dict[str, str]], generate: bool) -> str:
        return self._within_limits(lambda: self._rendered(messages, generate, self.variables))

    def _rendered(self, messages: list[dict[str, str]], generate: bool, variables: dict[str, Any]) -> str:
        given = {
            **self.tokenizer.special_tokens_map,
            "tools": None,
            "documents": None,
            **variables,
            "messages": messages,
            "add_generation_prompt": generate,
        }
        return render_template(self.jinja, given)

    def _within_limits(self, use: Callable[[], _T]) -> _T:
        """Do what may fail with a template, and say which one it was."""
        try:
            return use()
        except TemplateLimitError as error:
            raise ValueError(
                f"{self.source}: the chat template is not safe to run: {error} ({self._origin})"
            ) from error
        except Exception as error:
            raise ValueError(
                f"{self.source}: the chat template refuses the conversation: {error} ({self._origin})"
            ) from error

    def _find_variables(self, given: dict[str, Any], thinking: bool) -> dict[str, Any]:
        """Return what the template is given besides the turns: what switches thinking, and what was named."""
        reads = self._within_limits(lambda: template_reads(self.jinja))
        for name in given:
            if name not in reads.variables:
                raise ValueError(f"{self.source}: the chat template reads no variable {name!r}")
        if thinking and not knows_thinking(self.jinja, reads):
            raise ValueError(
                f"{self.source}: thinking is true, and the chat template knows of none ({self._origin})"
            )
        asked = [self._message(Message("user", (TextPart("a"),)))]

        def render(variables: dict[str, Any]) -> str:
            return self._within_limits(lambda: self._rendered(asked, True, variables | given))

        return {**(thinking_on(reads) if thinking else thinking_off(reads, render)), **given}

    def _find_opening(self, thinking: bool) -> Opening | None:
        """Return how every answer begins, where the template opens answers with thoughts."""
        try:
            text, contents = self._lay_out(_TURN, False)
        except ValueError:
            return None  # said where the end of a turn is looked for
        frame = text[contents[0].end : contents[1].start]
        return Opening.find(self._header, frame, thinking=thinking)

    def _find_thoughts(self) -> list[tuple[int, int]]:
        """Return the tokens between which thoughts stand, where no decoded text shows them."""
        control = TokenizerVocabulary(self.tokenizer, len(self.tokenizer)).control
        ids = {token: number for number, token in control.items()}
        return [(ids[begin], ids[end]) for begin, end in THINKING if begin in ids and end in ids]

    def outside_thoughts(self, ids: Sequence[int]) -> list[int]:
        """Return the ids that are not in a thought whose tags decoding would leave out, for decoding.

        As in `answer_text`, a thought that is not closed goes on to the end, and an end that nothing opens
        ends one from the start.
        """
        found = list(ids)
        for begin, end in self._thoughts:
            kept: list[int] = []
            inside = False
            for token in found:
                if token == end:
                    kept, inside = kept if inside else [], False
                elif token == begin:
                    inside = True
                elif not inside:
                    kept.append(token)
            found = kept
        return found

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


def _holds_thought(message: dict[str, str]) -> bool:
    return message["role"] == "assistant" and without_thoughts(message["content"]) != message["content"]


def _opened(
    opening: Opening, text: str, contents: list[_Content], generate: bool
) -> tuple[str, list[_Content]]:
    """Return a rendering in which every answer, and the prompt at the end, is opened alike."""
    made, moved, position = "", [], 0
    for content in contents:
        before, said = text[position : content.start], text[content.start : content.end]
        opened = opening.replace(before) if content.role == "assistant" else None
        before, begin = opened or (before, content.begin - position)
        start = len(made) + len(before)
        moved.append(_Content(content.role, start, start + len(said), len(made) + begin))
        made, position = made + before + said, content.end
    made += text[position:]
    if generate and made.endswith(opening.header):
        made = made.removesuffix(opening.header) + opening.prompt
    return made, moved


def _shared(first: str, second: str) -> int:
    """Return how many characters two texts share at their start."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))


def _forms(content: str) -> list[str]:
    """Return what a template may make of a content: as it is, or trimmed. Else the spans would be a guess."""
    trimmed = [trim(content, of) for of in (None, "\n") for trim in (str.strip, str.lstrip, str.rstrip)]
    return [content, *trimmed]


def flatten_message(message: Message) -> str:
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

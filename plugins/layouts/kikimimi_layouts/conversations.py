"""Conversations as training tools write them: a mapping of one of the usual shapes becomes turns and clips.

========================  ===================================================================================
turns                     ``messages`` or ``conversations``: ``role`` and ``content`` (OpenAI), ``from`` and
                          ``value`` (ShareGPT), or a question and its answer in each item (ms-swift); or
                          ``instruction``, ``input``, ``output`` (Alpaca); or ``query``, ``response``; both
                          with ``history``; ``system`` is a turn in front
a clip, in a turn         an audio part: ``{"type": "audio", "audio": "a.wav"}``, with ``path``, ``url`` or
                          ``audio_url`` in place of ``audio``; ``{"type": "audio_url", ...}``;
                          ``{"type": "input_audio", "input_audio": {"data": BASE64, "format": "wav"}}``;
                          in a text: ``<audio>a.wav</audio>``
a clip, beside the turns  ``audios`` (or ``audio``, ``audio_path`` and so on): a name, or a list of them, for
                          the marks ``<audio>`` in the texts and ``{"type": "audio"}``, one for each in order
an answer to push down    ``rejected`` or ``rejected_response``, and ``chosen``: a text or a turn
========================  ===================================================================================

LLaMA-Factory: https://github.com/hiyouga/LLaMA-Factory/tree/main/data. ms-swift:
https://swift.readthedocs.io/en/latest/Customization/Custom-dataset.html. OpenAI:
https://platform.openai.com/docs/guides/audio. No clip is ever lost: what is written in another way is an
error, and never a conversation in text alone.
"""

import base64
import binascii
import re
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from kikimimi import Clip, DataError, Segment, clip_mark, clip_name, counted, listing, parse_conversation
from kikimimi_layouts.segments import cut_alone, is_usual, plain_name, segment_of

MARK = "<audio>"
"""What stands for a clip in the texts of most tools."""

_Fields = dict[str, Any]
_TURNS = ("messages", "conversations", "conversation")
_ASKED = (("instruction", "output"), ("query", "response"))  # a question and its answer, in columns
_ROLES = {
    **{role: role for role in ("system", "user", "assistant")},
    **{"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant"},
}
_PAIR = {"user": ("user", "human", "query"), "assistant": ("assistant", "gpt", "bot", "response")}
_OF_CLIPS = (
    *("audios", "audio", "audiopath", "audiopaths", "audiofile", "audiofiles", "audiofilepath"),
    *("audiofilepaths", "audiourl", "audiourls", "inputaudio", "wav", "wavs", "wavpath", "speech", "sound"),
)
_IN_A_PART = ("audio", "audio_url", "input_audio", "path", "url", "audio_path", "audio_file", "file", "data")
_AUDIO_TYPES = ("audio", "audio_url", "input_audio")
_ELSEWHERE = {
    "images": "holds images",
    "image": "holds an image",
    "videos": "holds videos",
    "video": "holds a video",
    "tools": "tells of tools",
    "rejected_messages": "holds a second conversation; give its last answer as rejected",
}
_FILE = re.compile(r".+\.(?:aac|aif|aiff|amr|flac|m4a|mp3|oga|ogg|opus|sph|wav|webm|wma)", re.IGNORECASE)
_HINTS = re.compile(
    r".*(?:start|begin|stop|from|until|offset|onset|time|seg|interval|range|span|crop|trim|cut|window).*|.*end|to"
)
"""Names of what may tell which part of a recording a clip is, in ways that are not known."""
_REMOTE = re.compile(r"[A-Za-z][\w+.-]+://")
_DEEPEST = 8  # of what is looked into for clips
_LONGEST_NAME = 4096  # what systems take for a path [bytes]


def holds_conversation(fields: Mapping[str, Any]) -> bool:
    """Tell whether a mapping holds turns."""
    return "messages" in fields or any(isinstance(fields.get(name), list) for name in _TURNS)


def holds_question(fields: Mapping[str, Any]) -> bool:
    """Tell whether a mapping holds a question and its answer in columns."""
    return any(question in fields and (answer in fields or "chosen" in fields) for question, answer in _ASKED)


def lost_clips(fields: Mapping[str, Any]) -> str | None:
    """Return the name of a field that holds a clip, or None where there is none."""
    return next((name for name, value in fields.items() if _holds_clip(value)), None)


class ConversationReader:
    """Reads conversations.

    Args:
        folder: Where relative paths begin.
        mark: What stands for a clip in a text.
        cut: Cut the one clip of a row as the row itself tells, beside its turns.
    """

    def __init__(self, folder: Path, mark: str = MARK, *, cut: bool = True) -> None:
        self.folder, self.cut = folder, cut
        closing = mark.replace("<", "</", 1) if re.fullmatch(r"<\w+>", mark) else None
        inside = rf"(?:([^<>\n]*){re.escape(closing)})?" if closing else "()"
        self.mark, self._marks = mark, re.compile(re.escape(mark) + inside)

    def read(self, where: str, fields: _Fields) -> tuple[_Fields, list[tuple[str, Clip]]]:
        """Read one conversation.

        Args:
            where: Its place, for messages.
            fields: What the row holds. What is of the conversation is taken out.

        Returns:
            The record without ``meta``, whose audio parts name clips by number, and the clips, each with the
            name that the row gives it (the place of the row, where it gives the bytes of a clip).

        Raises:
            DataError: It is malformed, or a clip of it would be lost.
        """
        try:
            return _Reading(self, where, fields).read()
        except ValueError as error:
            raise DataError(f"{where}: {error}") from error
        except RecursionError:
            raise DataError(f"{where}: nested too deeply") from None

    def pieces(self, text: str) -> Iterator[tuple[str, str | None]]:
        """Yield each text between two marks, and the file that the mark after it names.

        ``""`` is a mark that names none, None the end.
        """
        at = 0
        for found in self._marks.finditer(text):
            yield text[at : found.start()], (found[1] or "").strip()
            at = found.end()
        yield text[at:], None


class _Reading:
    """One conversation while it is read."""

    def __init__(self, reader: ConversationReader, where: str, fields: _Fields) -> None:
        self.reader, self.where, self.fields = reader, where, fields
        self.clips: list[tuple[str, Clip]] = []
        self.waiting: deque[Any] = deque()  # clips beside the turns that no mark has taken yet
        self.marks = 0
        self.of_turn: _Fields = {}  # which part of its recording the one clip of a turn is

    def read(self) -> tuple[_Fields, list[tuple[str, Clip]]]:
        self._refuse_what_is_not_read()
        turns = _turns(self.fields)
        answers = {name: answer for name in ("chosen", "rejected") if (answer := self._answer(name))}
        column, beside = self._beside()
        self.waiting.extend(beside)
        messages: list[_Fields] = []
        for place, number, turn in turns:
            message = self._message(turn, f"{place}[{number}]")
            if messages and "type" in turn and messages[-1]["role"] == message["role"]:
                messages[-1]["content"] = _parts(messages[-1]) + _parts(message)
            else:
                messages.append(message)
        if self.marks != len(beside) and not self._named_already(beside):
            said = f"{column} has {counted(len(beside), 'clip')}" if column else "there is no field audios"
            raise ValueError(
                f"{said}, but the turns have {counted(self.marks, 'place')} for one: each clip needs a mark "
                f"'{self.reader.mark}' in a text (another mark is chosen with mark=TEXT), or an audio part"
            )
        if not self.clips and (name := lost_clips(self.fields)):
            raise ValueError(
                f"{name}: holds a clip, but no turn does: name it audios and mark where it is heard with "
                f"'{self.reader.mark}', give it as an audio part, or move it into meta"
            )
        record = {"messages": messages, **answers}
        parse_conversation(record)
        if self.reader.cut:
            self._cut()
        return record, self.clips

    def _refuse_what_is_not_read(self) -> None:
        for name, what in _ELSEWHERE.items():
            if self.fields.get(name):
                raise ValueError(f"{name}: {what}, which is not read here")
            self.fields.pop(name, None)
        for name in ("label", "kto_tag"):
            if self.fields.get(name) is False:
                raise ValueError(f"{name}: is false: a bad answer, which would be trained as a good one")

    def _answer(self, name: str) -> str | None:
        names = (name, f"{name}_response")
        given = {key: value for key in names if (value := self.fields.pop(key, None)) is not None}
        if not given:
            return None
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are two names of one answer: leave one of them out")
        ((key, answer),) = given.items()
        if isinstance(answer, list) and len(answer) == 1:
            answer = answer[0]
        if isinstance(answer, dict):
            role, answer = _said(answer, key)
            if role != "assistant":
                raise ValueError(f"{key}: is a turn of the {role}, not an answer")
        if not isinstance(answer, str) or not answer.strip():
            raise ValueError(f"{key}: expected a text that is not empty, or null")
        self._check_text(answer, key)
        return answer

    def _beside(self) -> tuple[str, list[Any]]:
        """Take the clips that stand beside the turns, and the name of their field."""
        names = [name for name in self.fields if plain_name(name) in _OF_CLIPS]
        given = {name: value for name in names if (value := self.fields.pop(name)) not in (None, "", [], {})}
        if len(given) > 1:
            raise ValueError(f"{listing(given)}: each holds clips; give all of them in audios")
        for name, value in given.items():
            return name, value if isinstance(value, list) else [value]
        return "", []

    def _named_already(self, beside: list[Any]) -> bool:
        """Tell whether the clips beside the turns are only those that audio parts name, once more."""
        return not self.marks and beside == [name for name, _ in self.clips]

    def _message(self, turn: Any, place: str) -> _Fields:
        role, content = _said(turn, place)
        is_part = turn.get("type", "text") != "text"  # NeMo: a turn for each clip and each text
        clips: list[Clip] = [Path()] * (1 if is_part else self._places(content))
        told = {name: value for name, value in turn.items() if is_usual(name)}
        cut = cut_alone(turn, clips, f"{self.where}: {place}")
        self.of_turn = told if cut and isinstance(cut[0], Segment) else {}
        if is_part:
            part = {"type": turn["type"], "audio": content}
            return {"role": role, "content": list(self._of_part(part, place))}
        if isinstance(content, str):
            parts = list(self._of_text(content, f"{place}.content"))
            is_text = all(part["type"] == "text" for part in parts)
            return {"role": role, "content": content if is_text else parts}
        if isinstance(content, list):
            content = [
                new
                for number, part in enumerate(content)
                for new in self._of_part(part, f"{place}.content[{number}]")
            ]
        return {"role": role, "content": content}

    def _places(self, content: Any) -> int:
        """Return how many clips a turn has."""
        if isinstance(content, str):
            return sum(mark is not None for _, mark in self.reader.pieces(content))
        parts = content if isinstance(content, list) else []
        return sum(
            self._places(part["text"])
            if _kind(part) == "text" and isinstance(part.get("text"), str)
            else _kind(part) in _AUDIO_TYPES
            for part in parts
            if isinstance(part, dict)
        )

    def _of_text(self, text: str, place: str) -> Iterator[_Fields]:
        for piece, mark in self.reader.pieces(text):
            self._check_text(piece, place)
            if piece:
                yield {"type": "text", "text": piece}
            if mark is not None:
                yield self._clip({"audio": mark} if mark else {}, place)

    def _check_text(self, text: str, place: str) -> None:
        if _is_clip(text.strip()) and len(text.split()) == 1:
            raise ValueError(f"{place}: {_short(text)} is a clip, but would be read as text here")
        if mark := clip_mark(text):
            raise ValueError(
                f"{place}: '{mark}' stands for a clip in many tools, and would be read as text here. The "
                f"mark is '{self.reader.mark}' (another one is chosen with mark=TEXT), in turns only"
            )

    def _of_part(self, part: Any, place: str) -> Iterator[_Fields]:
        if not isinstance(part, dict):
            yield part  # parse_conversation says what is wrong with it
            return
        kind = _kind(part)
        if kind in _AUDIO_TYPES:
            yield self._clip(part, place)
        elif kind == "text" and isinstance(part.get("text"), str):
            if name := lost_clips(part):
                raise ValueError(f"{place}.{name}: holds a clip, but the part is a text")
            yield from self._of_text(part["text"], place)
        else:
            yield part

    def _clip(self, part: _Fields, place: str) -> _Fields:
        """Take the clip that a part names, or the next one that stands beside the turns."""
        told = {**self.of_turn, **part}
        if not any(part.get(name) for name in _IN_A_PART):
            self.marks += 1
            if not self.waiting:
                return {"type": "audio", "audio": "-"}  # counted, and refused when all marks are known
            beside = self.waiting.popleft()
            told = {**told, **beside} if isinstance(beside, dict) else {**told, "audio": beside}
        name, source = self._source(told, place)
        if strange := next((name for name, value in told.items() if _is_unread_segment(name, value)), None):
            raise ValueError(
                f"{place}.{strange}: is not read so; which part of a recording a clip is, offset and "
                "duration say, or start and end, and channel"
            )
        clip = segment_of(told, source, f"{self.where}: {place}")
        if (name, clip) not in self.clips:
            self.clips.append((name, clip))
        number = str(self.clips.index((name, clip)))
        said = part.get("text")
        return {"type": "audio", "audio": number, **({} if said is None else {"text": said})}

    def _source(self, told: _Fields, place: str) -> tuple[str, Path | bytes]:
        """Return name and file (or bytes) of the one clip that fields name; those within it join them."""
        while True:
            found = {key: value for key in _IN_A_PART if (value := told.get(key)) not in (None, "", {}, [])}
            if not found:
                raise ValueError(f"{place}: names no audio file; one of {listing(_IN_A_PART)} does")
            if len({*map(str, found.values())}) > 1:
                raise ValueError(f"{place}: {listing(found)} name different clips")
            name, value = next(iter(found.items()))
            if not isinstance(value, dict):
                break
            for key in found:
                del told[key]
            told.update(value)
            place = f"{place}.{name}"
        if not isinstance(value, str):
            raise ValueError(f"{place}.{name}: expected the path of an audio file, not {_short(value)}")
        if name == "data":
            return self.where, _decoded(value, f"{place}.data")
        return self._file(value, f"{place}.{name}")

    def _file(self, value: str, place: str) -> tuple[str, Path | bytes]:
        if value.startswith("data:"):
            head, _, data = value.partition(",")
            if not head.endswith(";base64"):
                raise ValueError(f"{place}: a data: URL must be in base64")
            return self.where, _decoded(data, place)
        if value.startswith("file://"):
            return value, Path(unquote(urlsplit(value).path))
        if _REMOTE.match(value):
            raise ValueError(f"{place}: {_short(value)} is not on this machine: download it first")
        if len(value.encode("utf-8", "replace")) > _LONGEST_NAME or "\0" in value:
            raise ValueError(f"{place}: expected the path of an audio file, not {_short(value)}")
        return value, self.reader.folder / value

    def _cut(self) -> None:
        """Cut what the row itself tells of its one clip."""
        cut = cut_alone(self.fields, [clip for _, clip in self.clips], self.where)
        self.clips = [(name, clip) for (name, _), clip in zip(self.clips, cut, strict=True)]


def row_name(where: str, clips: list[tuple[str, Clip]]) -> str:
    """Return what messages call a row: its first clip, or its place where it has none."""
    return clip_name(*clips[0]) if clips else where


def _turns(fields: _Fields) -> list[tuple[str, int, Any]]:
    """Take the turns out of a row, each with the name of its field and its number."""
    names = [name for name in _TURNS if name in fields and (name == "messages" or _is_list(fields[name]))]
    if len(names) > 1:
        raise ValueError(f"{' and '.join(names)} both hold turns: leave one of them out")
    turns: list[tuple[str, int, Any]] = []
    for name in names:
        given = fields.pop(name)
        if not isinstance(given, list) or not given:
            raise ValueError(f"{name}: expected a list of at least one turn")
        turns = [(name, number, turn) for number, item in enumerate(given) for turn in _unpaired(item)]
    if not names:
        turns = _of_columns(fields)
    systems = [name for name in ("system", "system_prompt") if fields.get(name)]
    for name in systems:
        turn = {"role": "system", "content": fields.pop(name)}
        if turns and isinstance(turns[0][2], dict) and _role(turns[0][2]) == "system":
            raise ValueError(f"{name}: the first turn is one of the system already: leave one of the two out")
        turns.insert(0, (name, 0, turn))
    return turns


def _of_columns(fields: _Fields) -> list[tuple[str, int, Any]]:
    question, answer = next((pair for pair in _ASKED if pair[0] in fields), ("", ""))
    if not question:
        raise ValueError(f"no turns: there is none of {listing((*_TURNS, *(asked for asked, _ in _ASKED)))}")
    asked = [fields.pop(question), fields.pop("input", None) if question == "instruction" else None]
    history = fields.pop("history", None) or []
    if not isinstance(history, list) or not all(
        isinstance(pair, list) and len(pair) == 2 for pair in history
    ):
        raise ValueError("history: expected a list of pairs, each a question and its answer")
    if any(text is not None and not isinstance(text, str) for text in asked):
        raise ValueError(f"{question}: expected a text, not {_short(asked)}")
    answered = fields.pop(answer, None)
    if not answered and not any(fields.get(name) for name in ("chosen", "chosen_response")):
        raise ValueError(f"{answer}: the answer is missing, and no chosen stands in its place")
    pairs = [*history, ["\n".join(text for text in asked if text), answered or None]]
    turns: list[tuple[str, int, Any]] = []
    for number, (said, answered) in enumerate(pairs):
        place = "history" if number < len(history) else question
        turns.append((place, number, {"role": "user", "content": said}))
        if answered is not None:
            turns.append((place, number, {"role": "assistant", "content": answered}))
    return turns


def _unpaired(item: Any) -> list[Any]:
    """Return the turns of an item: itself, or question and answer where it holds both."""
    if not isinstance(item, dict) or {"role", "content", "from", "value"} & {*item}:
        return [item]
    turns = [
        {"role": role, "content": item[name]}
        for role, names in _PAIR.items()
        for name in names
        if name in item
    ]
    left = {*item} - {name for names in _PAIR.values() for name in names}
    return turns if turns and not left else [item]


def _said(turn: Any, place: str) -> tuple[str, Any]:
    """Return the role and the content of a turn."""
    if not isinstance(turn, dict):
        raise ValueError(f"{place}: expected a mapping with role and content")
    role = _role(turn)
    if role not in _ROLES.values():
        raise ValueError(
            f"{place}.role: {role!r} is not one of {listing(_ROLES)}; there are no turns of tools here"
        )
    for name, value in turn.items():
        if name in ("role", "from", "content", "value"):
            continue
        if value and (plain_name(name) in _OF_CLIPS or lost_clips({name: value})):
            raise ValueError(
                f"{place}.{name}: a clip stands in the content of its turn, as an audio part, or in audios "
                "beside the turns"
            )
        if (value and name in ("tool_calls", "function_call")) or (name == "loss" and value is False):
            raise ValueError(f"{place}.{name}: is not read here")
    return role, turn.get("content", turn.get("value"))


def _kind(part: _Fields) -> Any:
    return part.get("type", next((name for name in ("audio", "text") if name in part), None))


def _is_unread_segment(name: str, value: Any) -> bool:
    """Tell whether a field of an audio part may tell of a segment, in a way that is not read."""
    if not value or not _HINTS.fullmatch(plain_name(name)):
        return False
    if isinstance(value, list | dict):
        return not isinstance(segment_of({name: value}, Path(), name), Segment)
    return isinstance(value, int | float) and not isinstance(value, bool) and not is_usual(name)


def _role(turn: _Fields) -> Any:
    role = turn.get("role", turn.get("from"))
    return _ROLES.get(role.lower(), role) if isinstance(role, str) else role


def _parts(message: _Fields) -> list[_Fields]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _decoded(data: str, place: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{place}: is not base64: {error}") from error


def _holds_clip(value: Any, depth: int = 0) -> bool:
    if isinstance(value, str):
        return _is_clip(value)
    if isinstance(value, bytes):
        return bool(value)
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth < _DEEPEST and any(_holds_clip(inner, depth + 1) for inner in values)


def _is_clip(text: str) -> bool:
    """Tell whether a text is the name of an audio file, or holds the bytes of one."""
    return text.startswith("data:audio/") or (len(text) < _LONGEST_NAME and bool(_FILE.fullmatch(text)))


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."

"""Which columns of a data set are what: a YAML file says it, and its rows become rows of a layout."""

from collections import deque
from dataclasses import dataclass, field, fields as fields_of
from pathlib import Path
from typing import Any, Literal

from kikimimi import (
    Clip,
    DataError,
    RequestError,
    Role,
    Row,
    Segment,
    as_on_disk,
    clip_name,
    listing,
    nearest,
    read_options,
)
from kikimimi_layouts.conversations import MARK, lost_clips
from kikimimi_layouts.decoded import encoded, is_decoded
from kikimimi_layouts.labels import clip_record
from kikimimi_layouts.segments import USUAL, SegmentFields, cut_alone, is_usual, segment_of

FIELDS_FOLDER = Path(__file__).parent / "fields"
"""Holds the shipped files."""


def _need(holds: bool, message: str) -> None:
    """Raise a ValueError with the message unless the condition holds."""
    if not holds:
        raise ValueError(message)


@dataclass(kw_only=True, frozen=True)
class TurnPart:
    """One part of a turn: audio, text of a column, or a fixed text."""

    audio: str | None = None
    """Column with a clip."""
    transcript: str | None = None
    """Column with what is said in that clip; the LLM never sees it."""
    text: str | None = None
    """Column with a text."""
    fixed: str | None = None
    """A text that is the same in every row."""
    start: str | None = None
    """Column with where in its file the clip begins [s]."""
    end: str | None = None
    """Column with where it ends [s]."""
    duration: str | None = None
    """Column with its length [s]."""
    channel: str | None = None
    """Column with the number of its channel, from 0."""

    def __post_init__(self) -> None:
        given = [name for name in ("audio", "text", "fixed") if getattr(self, name) is not None]
        _need(
            len(given) == 1, f"needs exactly one of audio, text, fixed; it has {', '.join(given) or 'none'}"
        )
        _need(
            self.transcript is None or self.audio is not None,
            "transcript: tells of the audio, so name that too",
        )
        named = self.names().given()
        _need(self.audio is not None or not named, f"{', '.join(named)}: tell of the audio, so name that too")

    def names(self) -> SegmentFields:
        """Return the names of the columns that tell which part of its file the clip is."""
        return SegmentFields(self.start, self.end, self.duration, self.channel)


@dataclass(kw_only=True, frozen=True)
class Turn(TurnPart):
    """One turn of a conversation: a single part, or several."""

    role: Role
    """Who speaks."""
    parts: list[TurnPart] = field(default_factory=list)
    """Several parts in this order, in place of audio, transcript, text and fixed."""
    if_null: Literal["error", "skip", "end"] = "error"
    """What to do where a column of the turn is null: leave the row out as malformed (error), leave the turn
    out (skip), or end the conversation before it (end)."""

    def __post_init__(self) -> None:
        single = {field.name: getattr(self, field.name) for field in fields_of(TurnPart)}
        given = {name: value for name, value in single.items() if value is not None}
        _need(
            not (given and self.parts),
            f"parts: stands in place of {', '.join(given)}: leave one of the two out",
        )
        if not self.parts:
            object.__setattr__(self, "parts", [TurnPart(**given)])


@dataclass(kw_only=True, frozen=True)
class Messages:
    """A column that holds a list of turns, each with its role."""

    column: str
    """Column with the list."""
    role: str = "role"
    """Key of a turn that says who speaks."""
    text: str | None = "content"
    """Key of a turn with its text."""
    audio: str | None = None
    """Key of a turn with its clip; null where it has none."""
    transcript: str | None = None
    """Key of a turn with what is said in its clip. Where it is also the key of the text, it is text in turns
    without a clip and transcript in those with one."""
    audios: str | None = None
    """Column with the clips that stand in the texts as ``<audio>``: a list, one for each mark, in order."""
    roles: dict[str, Role] = field(default_factory=dict)
    """The set's own names of the roles, each with its meaning: system, user or assistant."""
    system: str | None = None
    """A system turn that is put in front, the same in every row."""

    def __post_init__(self) -> None:
        _need(self.text is not None or self.audio is not None, "needs text or audio, or both")
        _need(
            self.transcript is None or self.audio is not None,
            "transcript: tells of the audio, so name that too",
        )


@dataclass(kw_only=True, frozen=True)
class Fields:
    """The whole file: a labelled clip (audio and text), turns column by column, or a column of messages."""

    audio: str | None = None
    """Column with the clip of a labelled clip."""
    text: str | None = None
    """Column with the text of a labelled clip."""
    turns: list[Turn] = field(default_factory=list)
    """The turns of a conversation, each from columns of its own."""
    messages: Messages | None = None
    """A column that holds the turns of a conversation."""
    chosen: str | None = None
    """Column with the preferred answer to a conversation that ends with the user."""
    rejected: str | None = None
    """Column with the answer that preference objectives push down."""
    segments: Literal["cut", "ignore"] = "cut"
    """Columns that tell which part of its file a clip is: cut takes that part; ignore takes every clip whole.
    Without names, the usual ones count (offset, start_time, ...) where the column of the clip holds paths:
    what a set holds as bytes was cut before. Of a conversation, its one clip is cut; keys of a turn, or of
    the clip itself, tell of that alone."""
    start: str | None = None
    """Column with where the part begins [s]."""
    end: str | None = None
    """Column with where it ends [s]."""
    duration: str | None = None
    """Column with its length [s]."""
    channel: str | None = None
    """Column with the number of its channel, from 0."""
    sampling_rate: int | dict[str, str] | None = None
    """Sampling rate of clips that are stored as numbers without it [Hz], or ``{column: NAME}``."""
    language: str | dict[str, str] | None = None
    """Language (ISO 639-1 code) of every row, or ``{column: NAME}``."""
    license: str | dict[str, str] | None = None
    """Licence (SPDX name) of every row, or ``{column: NAME}``."""
    split: str | None = None
    """Name under which ``meta`` keeps which split of the set a row is from; null keeps it not."""
    meta: dict[str, str | int | float | bool | dict[str, str]] = field(default_factory=dict)
    """What else to keep: names, each with a value for every row or with ``{column: NAME}``."""

    def __post_init__(self) -> None:
        labelled = self.audio is not None or self.text is not None
        forms = {"audio and text": labelled, "turns": bool(self.turns), "messages": self.messages is not None}
        given = [form for form, is_given in forms.items() if is_given]
        _need(
            len(given) == 1,
            f"needs exactly one of {', '.join(forms)}; it has {' and '.join(given) or 'none of them'}",
        )
        if labelled:
            _need(self.audio is not None, "text: is that of a labelled clip, which needs audio too")
            _need(self.text is not None, "audio: is that of a labelled clip, which needs text too")
            for name in ("chosen", "rejected"):
                _need(getattr(self, name) is None, f"{name}: answers a conversation; this is a labelled clip")
        named = self.names().given()
        _need(labelled or not named, f"{', '.join(named)}: tell of the part that a labelled clip is")
        for turn in self.turns:
            for part in turn.parts:
                named |= part.names().given()
        _need(
            self.segments == "cut" or not named,
            f"segments: ignores {', '.join(named)}: leave one of the two out",
        )
        rate = self.sampling_rate
        _need(
            rate is None or (isinstance(rate, int) and rate > 0) or column_of(rate) is not None,
            f"sampling_rate: expected a number of Hz or {{column: NAME}}, not {rate!r}",
        )
        for name in ("language", "license"):
            value = getattr(self, name)
            _need(
                value is None or (bool(value) and isinstance(value, str)) or column_of(value) is not None,
                f"{name}: expected a text or {{column: NAME}}, not {value!r}",
            )
        for name, value in self.meta.items():
            _need(
                not isinstance(value, dict) or column_of(value) is not None,
                f"meta: {name}: expected a value or {{column: NAME}}, not {value!r}",
            )
            _need(name not in ("language", "license"), f"meta: {name}: stands beside meta, not in it")

    def names(self) -> SegmentFields:
        """Return the names of the columns that tell of a part."""
        return SegmentFields(self.start, self.end, self.duration, self.channel)

    def may_tell_of_a_part(self, column: str) -> bool:
        """Tell whether a column tells of a part although it is not named so."""
        named = [self.names(), *(part.names() for turn in self.turns for part in turn.parts)]
        return self.segments == "cut" and all(names == USUAL for names in named) and is_usual(column)

    def columns(self) -> list[str]:
        """Return every column that is named, each once, in the order in which they are named."""
        found: list[str | None] = [self.audio, self.text, *self.names().given().values()]
        for turn in self.turns:
            for part in turn.parts:
                found += [part.audio, part.transcript, part.text, *part.names().given().values()]
        if self.messages is not None:
            found += [self.messages.column, self.messages.audios]
        found += [self.chosen, self.rejected]
        found += [column_of(value) for value in (self.sampling_rate, self.language, self.license)]
        found += [column_of(value) for value in self.meta.values()]
        return list(dict.fromkeys(name for name in found if name is not None))


def column_of(value: Any) -> str | None:
    """Return the column that ``{column: NAME}`` names, or None where the value is none of this form."""
    if isinstance(value, dict) and list(value) == ["column"] and isinstance(value["column"], str):
        return value["column"]
    return None


def shipped_fields() -> list[str]:
    """Return the names of the shipped files."""
    return sorted(path.stem for path in FIELDS_FOLDER.glob("*.yaml"))


def load_fields(source: str) -> Fields:
    """Read which columns are what.

    Args:
        source: Path of a YAML file, or the name of one that is shipped (``spoken-magpie-ja``).

    Raises:
        RequestError: There is no such file, or it is wrong; then the message holds every problem found.
    """
    shipped = shipped_fields()
    path = FIELDS_FOLDER / f"{source}.yaml" if source in shipped else as_on_disk(Path(source))
    if not path.is_file():
        raise RequestError(
            f"fields: there is no file {source}, and none of this name is shipped.{nearest(source, shipped)} "
            f"Shipped: {listing(shipped)}"
        )
    return read_options(path, Fields, what="a file of fields")


class FieldsRow:
    """Makes rows. What a row lacks stays visible in its record, so that it is counted as malformed.

    Args:
        fields: Which columns are what.
        folder: Where paths of clips begin; None where clips are bytes or paths from the root.
    """

    def __init__(self, fields: Fields, folder: Path | None = None) -> None:
        self.fields, self.folder = fields, folder

    def row(self, name: str, values: dict[str, Any], split: str = "") -> Row:
        """Make the row of these values.

        Args:
            name: What messages call it.
            values: Column to value, as Arrow gives it.
            split: Split of the set that it is from.

        Raises:
            DataError: A value is of no form that is read.
        """
        fields = self.fields
        meta = {key: _constant(value, values) for key, value in fields.meta.items()}
        if fields.split is not None:
            meta[fields.split] = split
        language, license_name = _constant(fields.language, values), _constant(fields.license, values)
        if license_name is not None:
            meta["license"] = license_name
        clips: list[Clip] = []
        if fields.audio is not None and fields.text is not None:
            clip = self._part(fields.audio, fields.names(), values)
            return Row(
                name if clip is None else clip_name(name, clip),
                clip_record(values[fields.text], language, meta),
                () if clip is None else (clip,),
            )
        if language is not None:
            meta["language"] = language
        turns = (
            self._turns(values, clips)
            if fields.messages is None
            else self._messages(fields.messages, values, clips)
        )
        record: dict[str, Any] = {"messages": turns}
        for key in ("chosen", "rejected"):
            if (column := getattr(fields, key)) is not None:
                record[key] = "" if values[column] is None else values[column]
        return Row(name, {**record, "meta": meta}, tuple(self._cut(clips, values, "the conversation")))

    def _part(self, column: str, names: SegmentFields, values: dict[str, Any]) -> Clip | None:
        """Return the part of a clip that the columns of its row ask for."""
        clip = self._clip(column, values[column], values)
        if names != USUAL and clip is not None and not isinstance(clip, Segment):
            return segment_of(values, clip, column, names)
        if self.fields.audio is None or clip is None:
            return clip
        return self._cut([clip], values, column)[0]

    def _cut(self, clips: list[Clip], fields: dict[str, Any], place: str) -> list[Clip]:
        """Cut the one clip of a row or a turn as the usual names tell; bytes were cut before."""
        if self.fields.segments == "ignore" or any(isinstance(clip, bytes) for clip in clips):
            return clips
        told = {name: value for name, value in fields.items() if self.fields.may_tell_of_a_part(name)}
        return cut_alone(told, clips, place)

    def _turns(self, values: dict[str, Any], clips: list[Clip]) -> list[dict[str, Any]]:
        turns: list[dict[str, Any]] = []
        for turn in self.fields.turns:
            if turn.if_null != "error" and any(self._is_null(part, values) for part in turn.parts):
                if turn.if_null == "end":
                    break
                continue
            turns.append({"role": turn.role, "content": self._parts(turn, values, clips)})
        return turns

    def _is_null(self, part: TurnPart, values: dict[str, Any]) -> bool:
        if part.audio is not None:
            return self._clip(part.audio, values[part.audio], values) is None
        return part.text is not None and values[part.text] is None

    def _parts(self, turn: Turn, values: dict[str, Any], clips: list[Clip]) -> list[dict[str, Any]]:
        parts: list[dict[str, Any]] = []
        for part in turn.parts:
            if part.audio is not None:
                said = None if part.transcript is None else values[part.transcript]
                parts.append(_audio(self._part(part.audio, part.names(), values), said, clips))
            else:
                text = part.fixed if part.text is None else values[part.text]
                parts.append({"type": "text", "text": text})
        return parts

    def _messages(
        self, messages: Messages, values: dict[str, Any], clips: list[Clip]
    ) -> list[dict[str, Any]]:
        turns: list[dict[str, Any]] = []
        waiting = self._waiting(messages, values)
        if messages.system is not None:
            turns.append({"role": "system", "content": messages.system})
        listed = values[messages.column] or ()
        if not isinstance(listed, list | tuple) or not all(isinstance(turn, dict) for turn in listed):
            raise DataError(f"{messages.column}: expected a list of turns")
        for turn in listed:
            role, content = turn.get(messages.role), []
            named = (messages.role, messages.text, messages.audio, messages.transcript)
            if lost := lost_clips({name: value for name, value in turn.items() if name not in named}):
                raise DataError(
                    f"{messages.column}: '{lost}' of a turn holds a clip: name it with audio: {lost}"
                )
            place = f"{messages.column}.{messages.audio}"
            clip = None if messages.audio is None else self._clip(place, turn.get(messages.audio), values)
            clip = clip if clip is None else self._cut([clip], turn, messages.column)[0]
            text = None if messages.text is None else turn.get(messages.text)
            if clip is not None:
                said = None if messages.transcript is None else turn.get(messages.transcript)
                content.append(_audio(clip, said, clips))
            if text is not None and (clip is None or messages.text != messages.transcript):
                content += _marked(text, waiting, clips) if messages.audios is not None else _text(text)
            turns.append(
                {
                    "role": messages.roles.get(role, role) if isinstance(role, str) else role,
                    "content": content,
                }
            )
        if waiting:
            raise DataError(f"{messages.audios}: {len(waiting)} of its clips have no mark {MARK} in a text")
        return turns

    def _waiting(self, messages: Messages, values: dict[str, Any]) -> deque[Clip]:
        """Return the clips that take the place of marks in the texts."""
        if messages.audios is None:
            return deque()
        listed = values[messages.audios] or ()
        listed = listed if isinstance(listed, list | tuple) else [listed]
        found = [self._clip(messages.audios, value, values) for value in listed]
        if None in found:
            raise DataError(f"{messages.audios}: names no clip")
        return deque(clip for clip in found if clip is not None)

    def _clip(self, column: str, value: Any, values: dict[str, Any]) -> Clip | None:
        """Return a clip from any of the forms in which Arrow holds audio, cut as that itself tells."""
        source = self._source(column, value, values)
        if source is None or not isinstance(value, dict) or self.fields.segments == "ignore":
            return source
        return segment_of(value, source, column)

    def _source(self, column: str, value: Any, values: dict[str, Any]) -> Path | bytes | None:
        if isinstance(value, dict) and value.get("bytes"):
            value = value["bytes"]
        if is_decoded(value):
            try:
                return encoded(value, _constant(self.fields.sampling_rate, values))
            except DataError as error:
                raise DataError(f"{column}: {error}") from error
        if isinstance(value, dict) and "path" in value:
            value = value["path"]
        if isinstance(value, bytes | bytearray):
            return bytes(value) or None
        if isinstance(value, str) and value:
            return Path(value) if self.folder is None else self.folder / value
        if value is None or value == "" or (isinstance(value, dict) and not any(value.values())):
            return None
        held = listing(map(str, value)) if isinstance(value, dict) else type(value).__name__
        raise DataError(f"{column}: holds {held}; a clip is bytes, a path, or array and sampling_rate")


def _text(text: Any) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text}]


def _marked(text: Any, waiting: deque[Clip], clips: list[Clip]) -> list[dict[str, Any]]:
    """Return the parts of a text in which marks stand for clips."""
    if not isinstance(text, str) or MARK not in text:
        return _text(text)
    parts: list[dict[str, Any]] = []
    for number, piece in enumerate(text.split(MARK)):
        if number > 0:
            if not waiting:
                raise DataError(f"a mark {MARK} in a text has no clip")
            parts.append(_audio(waiting.popleft(), None, clips))
        parts += _text(piece) if piece else []
    return parts


def _constant(value: Any, values: dict[str, Any]) -> Any:
    column = column_of(value)
    found = value if column is None else values[column]
    return None if found != found else found  # NaN is how pandas writes that nothing is known


def _audio(clip: Clip | None, said: Any, clips: list[Clip]) -> dict[str, Any]:
    part: dict[str, Any] = {"type": "audio", "audio": None if clip is None else str(len(clips))}
    if clip is not None:
        clips.append(clip)
    return part if said is None else {**part, "text": said}

"""A record: the JSON and the clips of one training example, as the members of a tar shard hold them.

Members are called ``KEY.json`` and ``KEY.0.flac``, ``KEY.1.flac``, and so on. The JSON is a conversation
(``{"messages": [...]}``) or a labelled clip (``{"text": ..., "language": ...}``
beside a clip). The transcript of a clip may also stand in ``KEY.txt``, as in many shards that others made.
Nothing but JSON, text and audio is ever read from a shard; a pickle in it is an error.
"""

import io
import json
import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import IO, Any

from kikimimi.console.words import listing, size as in_words
from kikimimi.contracts.conversation import Conversation, TextPart, clip_mark, parse_conversation
from kikimimi.data.audio import AUDIO_SUFFIXES
from kikimimi.data.shards.tar import BrokenTarError, TarEntry, read_entries
from kikimimi.errors import DataError
from kikimimi.files.reading import MEBIBYTE, parse_any_json

MAX_TRANSCRIPT = 1_000_000
"""Longest text member [bytes]: what is longer is no transcript of a clip."""
MAX_JSON = 16 * MEBIBYTE
"""Largest JSON member [bytes]."""
MAX_CLIP = 512 * MEBIBYTE
"""Largest clip [bytes]."""
MAX_RECORD = 1024 * MEBIBYTE
"""Largest record, all of its members together [bytes]."""
MAX_MEMBERS = 10_000
"""Most members of one record."""

UNNAMED = "unknown"
"""Stands for the language or licence of a record that names none."""


_OF_WINDOWS = ("Thumbs.db", "desktop.ini")
_OF_A_PART = ("offset", "start", "end", "channel")


class RecordError(DataError):
    """A record is malformed.

    Args:
        where: Its place.
        reason: What is wrong. (Without it, `where` is the whole message, as torch passes errors on.)
    """

    def __init__(self, where: str, reason: str | None = None) -> None:
        super().__init__(where if reason is None else f"{where}: {reason}")
        self.reason = reason or where


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a tar.

    Attributes:
        key: Name of its record.
        suffix: The rest of its name after the first dot (``json``, ``0.flac``).
        offset: Where its first header is in the shard [bytes].
        end: Where the next header begins [bytes].
        content: Its bytes.
        problem: Why it is not read, or None.
    """

    key: str
    suffix: str
    offset: int
    end: int
    content: bytes
    problem: str | None = None


@dataclass(frozen=True)
class Record:
    """One training example.

    Attributes:
        key: Its name in the shard.
        json: A conversation or a labelled clip.
        audio: Member suffix (``0.flac``) to the bytes of the clip, in order.
        shard: The shard it came from.
        offset: Where its first header is in the shard [bytes].
    """

    key: str
    json: dict[str, Any]
    audio: dict[str, bytes]
    shard: str
    offset: int

    @property
    def where(self) -> str:
        """The place of the record, as messages name it."""
        return place(self.shard, self.offset, self.key)

    def texts(self) -> list[str]:
        """Return every text of the record: turns and rejected answer, or the transcript."""
        if "messages" not in self.json:
            return [str(self.json["text"])] if "text" in self.json else []
        return _texts(parse_conversation(self.json))


def place(shard: str, offset: int, key: str | None = None) -> str:
    """Return how messages name a place in a shard."""
    return f"{shard}, byte {offset}" + ("" if key is None else f", record {key!r}")


def read_members(file: IO[bytes], *, start: int = 0, whole: bool = False) -> Iterator[Member]:
    """Read the members of an uncompressed tar, or of a piece of one, in order: see `read_entries`.

    What systems add (hidden files, ``__MACOSX/``, ``Thumbs.db``) is passed over.

    Raises:
        BrokenTarError: A header is damaged or a member breaks off.
    """
    for entry in read_entries(file, start=start, whole=whole, largest=_largest):
        name, key, suffix = _split(entry.name)
        if not is_added(name):
            yield Member(key, suffix, entry.offset, entry.end, entry.content, _problem(entry, name, suffix))


def _split(member: str) -> tuple[str, str, str]:
    """Return a member's name, the key of its record, and the rest."""
    name = member.removeprefix("./")
    folder, base = posixpath.split(name)
    stem, _, suffix = base.partition(".")
    if suffix.lower() in _LARGEST:
        suffix = suffix.lower()
    return name, posixpath.join(folder, stem), suffix if stem else ""


def _largest(member: str) -> int:
    """Return how large a member may be [bytes]; 0 for what is not read at all."""
    name, _, suffix = _split(member)
    if _leaves(name) or not suffix:
        return 0
    if suffix in _LARGEST:
        return _LARGEST[suffix]
    return MAX_CLIP if suffix.rpartition(".")[2].lower() in AUDIO_SUFFIXES else 0


_LARGEST = {"json": MAX_JSON, "txt": MAX_TRANSCRIPT}


def is_added(name: str) -> bool:
    """Tell whether a member of that name is one that macOS or Windows adds to folders."""
    folder, base = posixpath.split(name)
    hidden = base.startswith(".") and base[1:] not in ("json", "txt", *AUDIO_SUFFIXES)  # these lack a key
    return hidden or base in _OF_WINDOWS or "__MACOSX" in folder.split("/")


def grouped(members: Iterator[Member]) -> Iterator[list[Member]]:
    """Put members of one key that stand together together.

    Of a record that is larger than one may be, the contents are let go: its last member has the problem.

    Raises:
        BrokenTarError: As the members do, after what stands before the break was given.
    """
    group: list[Member] = []
    try:
        for member in members:
            if group and member.key != group[0].key:
                yield group
                group = []
            group.append(member)
            if member.end - group[0].offset > MAX_RECORD or len(group) > MAX_MEMBERS:
                problem = next((item.problem for item in group if item.problem), _TOO_LARGE)
                group = [replace(item, content=b"", problem=problem) for item in (group[0], member)]
    except BrokenTarError:
        if group:
            yield group
        raise
    if group:
        yield group


_TOO_LARGE = f"a record holds at most {in_words(MAX_RECORD)} in {MAX_MEMBERS:,} members"


def _leaves(name: str) -> bool:
    return name.startswith("/") or ".." in name.split("/")


def _problem(entry: TarEntry, name: str, suffix: str) -> str | None:
    if not entry.regular:
        return f"member {entry.name!r} is a link, a device or sparse; only files are read"
    if _leaves(name):
        return f"member name {entry.name!r} leaves the shard ('..' or a leading '/')"
    if not _largest(entry.name):
        problem = (
            f"member {entry.name!r} is neither KEY.json, KEY.txt nor a clip such as KEY.0.flac, and is never "
            f"decoded; kinds of clip: {listing(AUDIO_SUFFIXES)}"
        )
        if suffix.rpartition(".")[2].lower() in _LARGEST:
            stem = posixpath.basename(name).partition(".")[0]
            problem += f". A key ends at the first dot of a name, here {stem!r}: no other dot may be in it"
        return problem
    return _oversize(name, suffix, entry.size)


def _oversize(name: str, suffix: str, size: int) -> str | None:
    largest = _largest(f"x.{suffix}")
    if size <= largest:
        return None
    noun = {"json": "the JSON of a record", "txt": "a transcript"}.get(suffix, "a clip")
    return f"{name} has {size} bytes; {noun} has at most {largest}"


def named(data: dict[str, Any], field: str) -> str | None:
    """Return the text of a field such as ``license`` at the top level of a record's JSON or in ``meta``."""
    meta = data.get("meta")
    for fields in (data, meta if isinstance(meta, dict) else {}):
        if isinstance(found := fields.get(field), str) and found:
            return found
    return None


def read_record(span: bytes, shard: str, offset: int) -> Record:
    """Read a record from the piece of a shard that holds it.

    Raises:
        DataError: The piece is damaged or not one record.
    """
    try:
        members = list(read_members(io.BytesIO(span), start=offset))
    except BrokenTarError as error:
        raise RecordError(place(shard, error.offset), error.reason) from error
    if not members or members[-1].end != offset + len(span) or len({member.key for member in members}) > 1:
        raise RecordError(place(shard, offset), f"{len(span)} bytes are not exactly one record")
    return make_record(members, shard)


def make_record(members: Sequence[Member], shard: str) -> Record:
    """Make a record of its members.

    Raises:
        DataError: A member is not of a kind that is read, the JSON is missing or malformed, or its clips and
            the members do not fit together.
    """
    key, offset = members[0].key, members[0].offset
    where = place(shard, offset, key)
    for member in members:
        name, suffix = f"{key}.{member.suffix}", member.suffix
        if problem := member.problem or _oversize(name, suffix, len(member.content)):
            raise RecordError(place(shard, member.offset, key), problem)
    contents = {member.suffix: member.content for member in members}
    if len(contents) < len(members):
        raise RecordError(where, "a member occurs twice")
    try:
        data = _data(key, contents)
        audio = {name: contents[name] for name in sorted(contents, key=_order)}
        record = Record(key, data, audio, shard, offset)
        _check(record)
    except ValueError as error:
        raise RecordError(where, str(error)) from error
    return record


def _data(key: str, contents: dict[str, bytes]) -> dict[str, Any]:
    """Take the JSON and the transcript out of a record's members."""
    written, transcript = contents.pop("json", None), contents.pop("txt", None)
    if written is None and transcript is None:
        raise ValueError(f"{key}.json is missing; the record has {listing(contents)}")
    data: dict[str, Any] = {}
    if written is not None:
        try:
            data = parse_any_json(written.decode("utf-8"))
            if b"\\u" in written:  # an escaped half of a surrogate pair is JSON, but not text
                json.dumps(data, ensure_ascii=False).encode("utf-8")
        except ValueError as error:
            raise ValueError(f"{key}.json is not JSON: {error}") from error
        if type(data) is not dict:
            raise ValueError(f"{key}.json holds no mapping but {type(data).__name__}")
    if transcript is not None:
        text = _transcript(f"{key}.txt", transcript)
        if "messages" in data or data.get("text", text) not in (None, text):
            raise ValueError(f"{key}.json and {key}.txt both say what the record is; leave one of them out")
        data["text"] = text
    return data


def _transcript(name: str, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not UTF-8: {error}") from error


def _order(suffix: str) -> tuple[int, str]:
    number = re.match(r"\d{1,9}", suffix)
    return int(number[0]) if number else -1, suffix


def _check(record: Record) -> None:
    if "messages" in record.json:
        conversation = parse_conversation(record.json)
        named = set(conversation.clips())
        _check_whole(record.json["messages"])
        if not named and record.json.get("audios"):
            raise ValueError(
                "audios: names clips beside the turns, but a record's are members that audio parts name"
            )
        if missing := named - set(record.audio):
            raise ValueError(
                f"the conversation names the clip {listing(missing)}, but the record has "
                f"{listing(record.audio)}"
            )
        if spare := set(record.audio) - named:
            raise ValueError(f"no turn of the conversation holds the clip {listing(spare)}")
        if mark := next(filter(None, map(clip_mark, _texts(conversation))), None):
            raise ValueError(f"'{mark}' in a text stands for a clip in many tools, and would be read as text")
        return
    meta = record.json.get("meta") or {}
    if not isinstance(meta, dict):
        raise ValueError(f"meta: expected a mapping, not {type(meta).__name__}")
    if not {*record.json, *meta} - {"language", "meta"}:
        raise ValueError("neither a conversation (messages) nor a labelled clip (text, or another label)")
    text = record.json.get("text", "no transcript, but other labels")
    if not isinstance(text, str) or not text.strip():
        raise ValueError("text: empty, or not a text")
    language = record.json.get("language")
    if language is not None and not isinstance(language, str):
        raise ValueError("language: expected a text such as 'ja', or null")
    if not record.audio:
        raise ValueError("the labelled clip has no audio")


def _texts(conversation: Conversation) -> list[str]:
    parts = [part for message in conversation.messages for part in message.parts]
    texts = [part.text for part in parts if isinstance(part, TextPart)]
    return texts if conversation.rejected is None else [*texts, conversation.rejected]


def _check_whole(messages: list[Any]) -> None:
    """Check that the audio parts of a conversation ask for whole clips: those of a shard are not cut."""
    for message in messages:
        for part in message["content"] if isinstance(message["content"], list) else ():
            told = [name for name in _OF_A_PART if part["type"] == "audio" and part.get(name)]
            if told:
                raise ValueError(
                    f"an audio part tells with {listing(told)} of a part of {part['audio']}, but the clips "
                    "of a shard are taken whole: cut them, and leave that out"
                )

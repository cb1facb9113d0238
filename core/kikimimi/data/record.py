"""A record: the JSON and the clips of one training example, as the members of a tar shard hold them.

Members are called ``KEY.json`` and ``KEY.0.flac``, ``KEY.1.flac``, and so on. The JSON is a conversation
(``{"messages": [...]}``, see `kikimimi.conversation`) or a labelled clip (``{"text": ..., "language": ...}``
beside a clip). Nothing but JSON and audio is ever read from a shard; a pickle in it is an error.
"""

from __future__ import annotations

import io
import json
import posixpath
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

from kikimimi.conversation import Conversation, TextPart, parse_conversation
from kikimimi.data.audio import AUDIO_SUFFIXES
from kikimimi.errors import DataError, listing

_BLOCK = 512
# What a hostile or damaged header makes tarfile raise, besides its own errors.
_TAR_ERRORS = (tarfile.TarError, ValueError, OverflowError, RecursionError, EOFError)


@dataclass(frozen=True)
class Member:
    """A file in a tar.

    Attributes:
        key: Name of its record.
        suffix: The rest of its name after the first dot (``json``, ``0.flac``).
        offset: Of its first header in the shard [bytes].
        end: Where the next header begins [bytes].
        content: Its bytes.
    """

    key: str
    suffix: str
    offset: int
    end: int
    content: bytes


@dataclass(frozen=True)
class Record:
    """One training example.

    Attributes:
        key: Its name in the shard.
        json: A conversation or a labelled clip.
        audio: Member suffix (``0.flac``) to the bytes of the clip, in order.
        shard: The shard it came from.
        offset: Of its first header in the shard [bytes].
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
            return [str(self.json["text"])]
        conversation = parse_conversation(self.json)
        parts = [part for message in conversation.messages for part in message.parts]
        texts = [part.text for part in parts if isinstance(part, TextPart)]
        return texts if conversation.rejected is None else [*texts, conversation.rejected]


def place(shard: str, offset: int, key: str | None = None) -> str:
    """Return how messages name a place in a shard."""
    return f"{shard}, byte {offset}" + ("" if key is None else f", record {key!r}")


def read_members(file: IO[bytes], shard: str, *, start: int = 0, whole: bool = False) -> Iterator[Member]:
    """Read the members of an uncompressed tar, or of a piece of one, in order. Folders are passed over.

    Args:
        file: Open for reading, at the start of the tar or of the piece.
        shard: What messages call it.
        start: Where in the shard the piece begins [bytes].
        whole: It is a whole tar: check that it ends as a tar does.

    Raises:
        DataError: It is not an uncompressed tar, a header is damaged, a member breaks off, or a member is
            neither JSON nor audio of a record.
    """
    here = 0
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for info in tar:
                where = place(shard, start + info.offset)
                if info.size < 0 or info.offset < here:
                    raise DataError(f"{where}: the header of member {info.name!r} is damaged")
                if info.isdir():
                    here = info.offset_data
                    continue
                key, suffix = _name(info, where)
                stream = tar.extractfile(info)
                content = stream.read() if stream is not None else b""
                if len(content) != info.size:
                    raise DataError(f"{where}: member {info.name!r} breaks off; the shard is truncated")
                here = info.offset_data + -(-info.size // _BLOCK) * _BLOCK
                yield Member(key, suffix, start + info.offset, start + here, content)
    except _TAR_ERRORS as error:
        raise DataError(f"{place(shard, start + here)}: not an intact, uncompressed tar: {error}") from error
    if whole:
        _check_end(file, here, shard)


def _check_end(file: IO[bytes], end: int, shard: str) -> None:
    # tarfile takes a damaged header, and a missing end, for the end of the tar.
    file.seek(end)
    zeros = 0
    while chunk := file.read(1 << 20):
        if chunk.strip(b"\0"):
            raise DataError(f"{place(shard, end)}: a damaged header; what follows it cannot be read")
        zeros += len(chunk)
    if zeros < 2 * _BLOCK:
        raise DataError(f"{place(shard, end)}: the shard stops without the mark that ends a tar: truncated?")


def _name(info: tarfile.TarInfo, where: str) -> tuple[str, str]:
    if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or info.issparse():
        raise DataError(f"{where}: member {info.name!r} is a link, a device or sparse; only files are read")
    name = info.name.removeprefix("./")
    if name.startswith("/") or ".." in name.split("/"):
        raise DataError(f"{where}: member name {info.name!r} leaves the shard ('..' or a leading '/')")
    folder, base = posixpath.split(name)
    stem, _, suffix = base.partition(".")
    kind = suffix.rpartition(".")[2]
    if not stem or (suffix != "json" and kind not in AUDIO_SUFFIXES):
        raise DataError(
            f"{where}: member {info.name!r} is neither KEY.json nor a clip such as KEY.0.flac; "
            f"kinds of clip: {listing(AUDIO_SUFFIXES)}"
        )
    return posixpath.join(folder, stem), suffix


def read_record(span: bytes, shard: str, offset: int) -> Record:
    """Read a record from the piece of a shard that holds it.

    Args:
        span: The bytes from its first header to the end of its last member.
        shard: What messages call the shard.
        offset: Where the piece begins in the shard [bytes].

    Raises:
        DataError: The piece is damaged or not one record.
    """
    members = list(read_members(io.BytesIO(span), shard, start=offset))
    if not members or members[-1].end != offset + len(span) or len({member.key for member in members}) > 1:
        raise DataError(f"{place(shard, offset)}: {len(span)} bytes are not exactly one record")
    return assemble(members, shard)


def assemble(members: Sequence[Member], shard: str) -> Record:
    """Make a record of its members.

    Raises:
        DataError: The JSON is missing or malformed, or its clips and the members do not fit together.
    """
    key, offset = members[0].key, members[0].offset
    where = place(shard, offset, key)
    contents = {member.suffix: member.content for member in members}
    if len(contents) < len(members):
        raise DataError(f"{where}: a member occurs twice")
    if "json" not in contents:
        raise DataError(f"{where}: {key}.json is missing; the record has {listing(contents)}")
    try:
        data = json.loads(contents.pop("json").decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: {key}.json is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise DataError(f"{where}: {key}.json holds no mapping but {type(data).__name__}")
    record = Record(key, data, {name: contents[name] for name in sorted(contents, key=_order)}, shard, offset)
    _check(record)
    return record


def _order(suffix: str) -> tuple[int, str]:
    number = re.match(r"\d{1,9}", suffix)
    return int(number[0]) if number else -1, suffix


def _check(record: Record) -> None:
    if "messages" in record.json:
        try:
            conversation = parse_conversation(record.json)
        except ValueError as error:
            raise DataError(f"{record.where}: {error}") from error
        _check_clips(record, conversation)
        return
    text = record.json.get("text")
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{record.where}: neither a conversation (messages) nor a labelled clip (text)")
    language = record.json.get("language")
    if language is not None and not isinstance(language, str):
        raise DataError(f"{record.where}: language: expected a text such as 'ja', or null")
    if not record.audio:
        raise DataError(f"{record.where}: the labelled clip has no audio")


def _check_clips(record: Record, conversation: Conversation) -> None:
    named = set(conversation.clips())
    if missing := named - set(record.audio):
        raise DataError(
            f"{record.where}: the conversation names the clip {listing(missing)}, but the record has "
            f"{listing(record.audio)}"
        )
    if spare := set(record.audio) - named:
        raise DataError(f"{record.where}: no turn of the conversation holds the clip {listing(spare)}")

"""One row of a corpus becomes one record, as the packing's settings say, or is left out with the reason."""

import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from kikimimi.console.words import listing
from kikimimi.contracts.layout import BadRow, Row, clip_name
from kikimimi.contracts.options import Options, PositiveFloat, Text
from kikimimi.data.audio import Encoded, OversizeError, decode_blocks, decode_opened, encode_stream, probe
from kikimimi.data.codec import Codec, SampleRate, check_opus_rate
from kikimimi.data.packing.clips import MissingClipError, located, of_the_file
from kikimimi.data.packing.meta import json_value
from kikimimi.data.shards.record import Member, RecordError, make_record, named
from kikimimi.data.stream import MIN_SECONDS, opened
from kikimimi.errors import AudioError, CancellingError, RequestError, SegmentError


@dataclass(kw_only=True, frozen=True)
class PackSettings(Options):
    """What decides, beside the rows themselves, on the bytes of a shard.

    Raises:
        OptionsError: Settings are out of their bounds.
        RequestError: They do not fit together.
    """

    sample_rate: SampleRate = 16_000
    """Sampling rate of the packed clips [Hz]."""
    codec: Codec = "flac"
    """FLAC (16 bits, lossless), or Opus."""
    min_seconds: PositiveFloat | None = None
    """Rows with a shorter clip are left out [s]; None keeps every length."""
    max_seconds: PositiveFloat | None = None
    """Rows with a longer clip are left out [s]; None keeps every length."""
    licenses: tuple[Text, ...] = ()
    """Only rows with one of these licences (``meta.license``) are kept; empty keeps all."""

    def __post_init__(self) -> None:
        if self.codec == "opus":
            check_opus_rate(self.sample_rate)
        shortest, longest = self.min_seconds or 0.0, self.max_seconds or math.inf
        if shortest > longest:
            raise RequestError(f"min_seconds ({shortest:g}) must not be above max_seconds ({longest:g})")
        # In one order, so that the order in which they were given changes no shard.
        object.__setattr__(self, "licenses", tuple(sorted(set(self.licenses))))


MISSING, UNDECODABLE, NO_TEXT = "missing file", "undecodable audio", "empty text"
CANCELLING, OUTSIDE = "channels that cancel one another", "segment that is not in its file"
TOO_LONG, TOO_SHORT, LICENCE, MALFORMED = "too long", "too short", "licence", "malformed"
"""Why a row is left out."""

_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*")  # BCP 47: ja, yue, zh-TW, zh-Hant-TW
MAX_BYTES = 96 << 20
"""Largest record [bytes]: one and a half hours of speech at 16 kHz as FLAC, most of a day as Opus."""

_HELD = 1 << 24  # samples of a clip that are decoded at once; longer ones are packed block by block


@dataclass(frozen=True)
class PackedRow:
    """A record.

    Attributes:
        members: Suffix (``json``, ``0.flac``) to content.
        seconds: Length of its clips [s].
        silent: A clip of it is silent (`kikimimi.data.audio.is_silent`).
    """

    members: dict[str, bytes]
    seconds: float
    silent: bool


@dataclass(frozen=True)
class Dropped:
    """A row that is in no shard.

    Attributes:
        row: Its number, from 0.
        name: What the corpus calls it.
        reason: The reason, one of this module's.
        detail: The whole message.
        seconds: Length of its clips, or None where that is not known [s].
    """

    row: int
    name: str
    reason: str
    detail: str
    seconds: float | None


class _LeftOutError(Exception):
    def __init__(self, reason: str, detail: str) -> None:
        self.reason, self.detail = reason, detail


def pack_row(row: Row | BadRow, number: int, settings: PackSettings) -> PackedRow | Dropped:
    """Make a record of a row. One clip that cannot be used leaves the whole row out."""
    if isinstance(row, BadRow):
        return Dropped(number, row.name, MALFORMED, row.reason, None)
    try:
        _check_licence(row, settings)
        row = _located(row)
        _check(row)
        names = [f"{place_}.{settings.codec}" for place_ in range(len(row.clips))]
        members = {"json": _json(row, names)}
        clips: list[Encoded] = []
        for place_, name in enumerate(names):
            clips.append(_encoded(row, place_, settings, MAX_BYTES - sum(map(len, members.values()))))
            members[name] = clips[-1].content
        _read_back(row, key_of(number), members)
    except _LeftOutError as left:
        return Dropped(number, row.name, left.reason, left.detail, _length(row))
    samples = sum(clip.samples for clip in clips)
    return PackedRow(members, samples / settings.sample_rate, any(clip.silent for clip in clips))


def key_of(number: int) -> str:
    """Return the key of the record of a row."""
    return f"{number:09d}"


def _check_licence(row: Row, settings: PackSettings) -> None:
    license_name = named(row.record, "license")
    if settings.licenses and license_name not in settings.licenses:
        said = "names no licence" if license_name is None else f"has the licence {license_name}"
        raise _LeftOutError(LICENCE, f"{row.name}: {said}")


def _located(row: Row) -> Row:
    try:
        return replace(row, clips=tuple(map(located, row.clips)))
    except MissingClipError as error:
        raise _LeftOutError(MISSING, f"{row.name}: {error}") from error


def _check(row: Row) -> None:
    """Check all that can be told of the record without decoding."""
    text = row.record.get("text", "other labels")
    if _answers_nothing(row.record.get("messages")):
        raise _LeftOutError(NO_TEXT, f"{row.name}: its last answer is empty")
    if "messages" not in row.record and (text is None or (isinstance(text, str) and not text.strip())):
        raise _LeftOutError(NO_TEXT, f"{row.name}: has no transcript")
    language = named(row.record, "language")
    if language is not None and not _LANGUAGE.fullmatch(language):
        raise _LeftOutError(MALFORMED, f"{row.name}: language {language!r} is no ISO 639 code such as 'ja'")


def _answers_nothing(messages: Any) -> bool:
    last = messages[-1] if isinstance(messages, list) and messages else None
    if not isinstance(last, dict) or last.get("role") != "assistant":
        return False
    content = last.get("content")
    return isinstance(content, str) and not content.strip()


def _encoded(row: Row, place_: int, settings: PackSettings, most_bytes: int) -> Encoded:
    clip = row.clips[place_]
    name = clip_name(row.name if len(row.clips) == 1 else f"{row.name}, clip {place_}", clip)
    try:
        with opened(clip, name) as stream:
            _check_length(stream.seconds, settings, name)
            is_long = stream.seconds * max(stream.rate, settings.sample_rate) > _HELD
            resampling = nullcontext() if stream.rate == settings.sample_rate else _one_thread()
            with resampling:
                if is_long:
                    blocks = partial(decode_blocks, clip, sample_rate=settings.sample_rate, name=name)
                else:
                    blocks = partial(iter, [decode_opened(stream, settings.sample_rate)])
                encoded = encode_stream(
                    blocks, settings.sample_rate, settings.codec, most_bytes=most_bytes, name=name
                )
    except OversizeError as error:
        raise _LeftOutError(
            TOO_LONG, f"{error}, more than a record may hold; cut it into segments, or pack it as opus"
        ) from error
    except CancellingError as error:
        raise _LeftOutError(CANCELLING, str(error)) from error
    except SegmentError as error:
        raise _LeftOutError(OUTSIDE, str(error)) from error
    except AudioError as error:
        raise _LeftOutError(UNDECODABLE, str(error)) from error
    except RequestError as error:  # it was there a moment ago
        raise _LeftOutError(MISSING, str(error)) from error
    except OSError as error:
        if not of_the_file(error):
            raise
        raise _LeftOutError(MISSING, f"{name}: cannot be read: {error.strerror}") from error
    if encoded.samples < MIN_SECONDS * settings.sample_rate:  # where resampling takes a nearby ratio
        raise _LeftOutError(TOO_SHORT, f"{name}: {encoded.samples} samples are left after resampling")
    return encoded


def _check_length(seconds: float, settings: PackSettings, name: str) -> None:
    if settings.max_seconds is not None and seconds > settings.max_seconds:
        raise _LeftOutError(
            TOO_LONG, f"{name}: {seconds:.3f} s long; the longest is {settings.max_seconds:g} s"
        )
    if settings.min_seconds is not None and seconds < settings.min_seconds:
        raise _LeftOutError(
            TOO_SHORT, f"{name}: {seconds:.3f} s long; the shortest is {settings.min_seconds:g} s"
        )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Resample on one thread: faster for a clip, and the same bytes whatever the number of cores."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _json(row: Row, names: list[str]) -> bytes:
    data = row.record
    if isinstance(data.get("messages"), list):
        data = {**data, "messages": [_renamed(message, names, row) for message in data["messages"]]}
    try:
        if isinstance(data.get("meta"), dict):
            data = {**data, "meta": json_value(data["meta"])}
        return json.dumps(data, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except (ValueError, TypeError, RecursionError) as error:
        raise _LeftOutError(MALFORMED, f"{row.name}: cannot be written as JSON: {error}") from error


def _renamed(message: Any, names: list[str], row: Row) -> Any:
    """Name the clips of a turn as the record's members are called."""
    if not (isinstance(message, dict) and isinstance(message.get("content"), list)):
        return message  # what is wrong with it, reading it back says
    members = {str(place_): name for place_, name in enumerate(names)}
    parts: list[Any] = []
    for part in message["content"]:
        if isinstance(part, dict) and part.get("type") == "audio" and isinstance(part.get("audio"), str):
            if part["audio"] not in members:
                raise _LeftOutError(
                    MALFORMED,
                    f"{row.name}: the conversation names the clip '{part['audio']}', but the row has "
                    f"{listing(members)}",
                )
            part = {**part, "audio": members[part["audio"]]}
        parts.append(part)
    return {**message, "content": parts}


def _read_back(row: Row, key: str, members: dict[str, bytes]) -> None:
    """Check the record as readers do, so that nothing is packed that cannot be read."""
    try:
        make_record([Member(key, suffix, 0, 0, content) for suffix, content in members.items()], row.name)
    except RecordError as error:
        raise _LeftOutError(MALFORMED, f"{row.name}: {error.reason}") from error


def _length(row: Row) -> float | None:
    try:
        return round(sum(probe(clip, row.name)[0] for clip in row.clips), 3)
    except (AudioError, RequestError, OSError):
        return None

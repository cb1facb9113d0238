"""Segments: fields of a row, or of an audio part, that tell which part of a file is its clip.

The usual names are those that manifests of the field use: ``offset`` and ``duration`` (NeMo, MuST-C),
``start`` and ``end`` or ``duration`` (Whisper, Lhotse), ``start_time``, ``begin_time`` and ``end_time`` (AMI,
GigaSpeech), ``start_seconds`` and ``end_seconds`` (AudioSet), ``onset`` and ``offset`` (DCASE), ``xmin`` and
``xmax`` (Praat), ``timestamp: [start, end]`` (pipelines of transformers), and ``channel`` (Lhotse), also as
``audio_start``, ``clip_start`` and the like. Capitals, underscores, hyphens and blanks in them do not count.
Times are seconds, where a name ends in ``ms`` milliseconds, or texts such as ``00:01:02.500``.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields as fields_of
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from kikimimi import Clip, DataError, Segment, counted

_UNITS = {"": 1.0, "s": 1.0, "sec": 1.0, "secs": 1.0, "seconds": 1.0, "ms": 1e-3, "msec": 1e-3}
_UNITS |= {"milliseconds": 1e-3, "inseconds": 1.0, "inms": 1e-3}
_WHOSE = "(?:audio|clip|segment|seg|utterance|utt|speech|chunk|wav|media)?"
_BEGIN, _STOP = "(?:start|begin|onset)", "(?:end|stop)"
_PLACE = "(?:timestamp|time|t|offset)"
_UNIT = f"(?P<unit>{'|'.join(filter(None, _UNITS))})?"
_NAMES = {
    "start": rf"{_WHOSE}(?:{_BEGIN}{_PLACE}?|{_PLACE}{_BEGIN}|(?:time)?offset|[tx]min){_UNIT}",
    "end": rf"{_WHOSE}(?:{_STOP}{_PLACE}?|{_PLACE}{_STOP}|[tx]max){_UNIT}",
    "duration": rf"(?:segment|seg)?dur(?:ation)?{_UNIT}",
    "channel": r"ch|(?:audio)?channel(?:id|index|idx|selector)?",
    "channels": r"(?:audio)?channels",
    "samples": r"(?:start|begin|end|stop)(?:sample|frame)|(?:sample|frame)(?:start|begin|end|stop|offset)",
    "stretch": r"(?:audio|clip)?(?:timestamps?|segments?|intervals?|times?|timerange|timespan)(?P<unit>ms)?",
}
"""What names of fields mean, without capitals, blanks and so on."""
_PAIRS = {
    "start": ("end", "stop"),
    "begin": ("end", "stop"),
    "from": ("to", "till", "until"),
    "t0": ("t1",),
    "t1": ("t2",),
}
"""What names that are not read begin or end with where two of them may tell of a segment."""
_RANGES = re.compile(rf"{_WHOSE}(?:crop|cut|part|range|region|span|stretch|trim|window){_UNIT}")
_ARROW = re.compile(r"\s*-->\s*")  # of subtitles
_CHANNEL_NAMES = {"a": 0, "b": 1, "l": 0, "r": 1, "left": 0, "right": 1}
_CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:[.,]\d+)?)")  # HOURS:MINUTES:SECONDS, MINUTES:SECONDS
_TIME = re.compile(r"[\d.,:]+")
_ROUGHLY = 0.1  # how far tools that measure the same file differ [s]: MP3 has its own beginning and end
_AGREE = 0.02  # rounded numbers that mean the same differ by no more [s]


@dataclass(frozen=True)
class SegmentFields:
    """Names of the fields that tell of a segment. Where none is given, the usual names count.

    Attributes:
        start: Where it begins [s].
        end: Where it ends [s].
        duration: Its length [s].
        channel: Number of its channel, from 0.
    """

    start: str | None = None
    end: str | None = None
    duration: str | None = None
    channel: str | None = None

    def given(self) -> dict[str, str]:
        """Return what each of the names that are given is of."""
        named = {field.name: getattr(self, field.name) for field in fields_of(self)}
        return {what: name for what, name in named.items() if name is not None}


USUAL = SegmentFields()
"""The usual names."""


def is_usual(name: str) -> bool:
    """Tell whether a name is one of the usual ones, or ``meta``, in which they may stand, too."""
    return name == "meta" or _meaning(plain_name(name)) is not None


def segment_of(
    fields: Mapping[str, Any], source: Path | bytes, where: str, names: SegmentFields = USUAL
) -> Path | bytes | Segment:
    """Return the part of an audio file that the fields of a row, or of an audio part, ask for.

    Args:
        fields: Name to value. They are left as they are; what tells of no segment is passed over.
        source: The audio file, or the bytes of it.
        where: Place of the row, for messages.
        names: Names of the fields.

    Returns:
        The segment, or `source` itself where no field tells of one. A duration that stands alone begins at 0,
        and is the whole file where that is as long, but for 0.1 s, or for 1 s where it is a whole number.

    Raises:
        DataError: What they tell is no number, contradicts itself, or is not enough.
    """
    try:
        told = _told(fields, names)
        start, length = _stretch(_one(told["start"]), _one(told["end"]), _one(told["duration"]))
        channel = _one(told["channel"])
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error
    if not start and length is None and channel is None:
        return source
    alone = length is not None and not told["start"] and not told["end"]
    slack = 0.0 if not alone or length is None else 1.0 if length.is_integer() else _ROUGHLY
    return Segment(source, start, length, None if channel is None else int(channel), slack)


def cut_alone(fields: Mapping[str, Any], clips: list[Clip], where: str) -> list[Clip]:
    """Cut the one clip of a turn or a conversation as what stands beside it tells, in the usual names.

    Raises:
        DataError: As `segment_of`; or a segment may be told of under other names, or is told of, and there
            are several clips.
    """
    if len(clips) == 1:
        (clip,) = clips
        cut = clip if isinstance(clip, Segment) else segment_of(fields, clip, where)
        if not isinstance(cut, Segment) and (strange := unread_stretch(fields)):
            raise DataError(
                f"{where}: {strange}: may tell which part of its file a clip is; offset and duration do, or "
                "start and end"
            )
        return [cut]
    told = segment_of(fields, Path(), where) if clips else Path()
    if isinstance(told, Segment) and (told.start or told.channel is not None):
        raise DataError(
            f"{where}: tells of a segment, but has {counted(len(clips), 'clip')}: tell it in audio parts"
        )
    return clips


def unread_stretch(fields: Mapping[str, Any]) -> str | None:
    """Return the fields that may tell of a segment although their names are none of the usual ones, or None.

    They are two numbers, of which the second is the larger: ``sentence_start`` and ``sentence_end``, ``from``
    and ``to``, ``crop: [start, end]``; they may stand in ``meta``.
    """
    plain = {plain_name(name): name for name in fields}
    for known, name in plain.items():
        if _RANGES.fullmatch(known) and (ends := _ends(fields[name])) and _may_be_segment(*ends):
            return name
        for begin, stops in _PAIRS.items():
            if begin not in (known[: len(begin)], known[-len(begin) :]):
                continue
            stem = known.removeprefix(begin), known.removesuffix(begin)
            others = [other for end in stops for other in (end + stem[0], stem[1] + end)]
            for other in filter(plain.__contains__, others):
                if _may_be_segment(fields[name], fields[plain[other]]):
                    return f"{name} and {plain[other]}"
    inner = fields.get("meta")
    if isinstance(inner, dict) and "meta" not in inner and (strange := unread_stretch(inner)):  # pyright: ignore[reportUnknownArgumentType]
        return f"{strange} in meta"
    return None


def _may_be_segment(begin: Any, end: Any) -> bool:
    try:
        return 0 <= float(begin) < float(end) < math.inf
    except (TypeError, ValueError, OverflowError):
        return False


_Told = dict[str, dict[str, float]]  # what is told (start, end, duration, channel): name of a field to number


def _told(fields: Mapping[str, Any], names: SegmentFields) -> _Told:
    told: _Told = {"start": {}, "end": {}, "duration": {}, "channel": {}}
    for what, name, value, unit in _chosen(fields, names) if names != USUAL else _usual(fields):
        number = _channel(name, value) if what == "channel" else _seconds(name, value)
        if what == "samples" and number:
            raise ValueError(f"{name}: counts samples, but a segment is told in seconds: give start and end")
        if what in told and number is not None:
            told[what][name] = number * unit
    inner = fields.get("meta")
    if (
        names == USUAL and isinstance(inner, dict) and "meta" not in inner
    ):  # what the row itself says counts more
        whole = told["start"] and (told["end"] or told["duration"])
        for what, found in _told(inner, names).items():
            if what == "channel" or not whole:
                told[what] = told[what] or found
    return told


def _chosen(fields: Mapping[str, Any], names: SegmentFields) -> Iterator[tuple[str, str, Any, float]]:
    for what, name in names.given().items():
        known = _meaning(plain_name(name))
        yield what, name, fields.get(name), 1.0 if known is None else known[1]


def _usual(fields: Mapping[str, Any], *, inside: bool = False) -> Iterator[tuple[str, str, Any, float]]:
    plain = {name: plain_name(name) for name in fields}
    of_events = "onset" in plain.values()  # whose offset is where they end
    for name, known in plain.items():
        if (meaning := _meaning(known)) is None:
            continue
        what, unit = meaning
        value = fields[name]
        if what == "channels":  # a number says how many there are
            if isinstance(value, list | tuple):
                yield "channel", name, value, unit
        elif what != "stretch":
            yield "end" if known == "offset" and of_events else what, name, value, unit
        elif isinstance(value, dict) and not inside:
            yield from _usual(value, inside=True)  # pyright: ignore[reportUnknownArgumentType]
        elif ends := _ends(value):
            yield from (("start", f"{name}[0]", ends[0], unit), ("end", f"{name}[1]", ends[1], unit))


def _ends(value: Any) -> list[Any] | None:
    """Return where a stretch begins and ends that one value tells; None where it tells none."""
    ends = _ARROW.split(value.strip()) if isinstance(value, str) else value
    if not isinstance(ends, list | tuple) or len(ends) != 2:
        return None
    return [*ends] if all(_may_be_time(end) for end in ends) else None


def _may_be_time(value: Any) -> bool:
    return (
        bool(_TIME.fullmatch(value))
        if isinstance(value, str)
        else value is None or isinstance(value, float | int)
    )


@lru_cache(maxsize=4096)
def _meaning(plain: str) -> tuple[str, float] | None:
    """Return what a name tells, and its unit [s]; None where it tells of no segment."""
    for what, names in _NAMES.items():
        if found := re.fullmatch(names, plain):
            return what, _UNITS[found.groupdict().get("unit") or ""]
    return None


@lru_cache(maxsize=4096)  # tables have the same columns in every row
def plain_name(name: str) -> str:
    """Return the name of a field without what spellings of it differ in: case, blanks, hyphens."""
    return re.sub(r"[\W_]", "", name).lower()


def _one(told: dict[str, float]) -> float | None:
    """Return the number that all fields agree on, or None where there is none."""
    if not told:
        return None
    if max(told.values()) - min(told.values()) > _AGREE:
        said = " and ".join(f"{name} ({number:g})" for name, number in told.items())
        raise ValueError(f"{said} tell of the same, and differ")
    return next(iter(told.values()))


def _stretch(start: float | None, end: float | None, duration: float | None) -> tuple[float, float | None]:
    """Return where a segment begins and its length, None for a whole file."""
    begin = start or 0.0
    if end is None:
        if duration is None and begin:
            raise ValueError(f"the segment begins at {begin:g} s, but nothing says where it ends")
        length = duration
    else:
        if start is None and duration is not None:
            begin = round(end - duration, 6)
        elif start is None:
            raise ValueError(f"the segment ends at {end:g} s, but nothing says where it begins")
        length = round(end - begin, 6)
        if duration is not None and abs(length - duration) > _AGREE:
            raise ValueError(
                f"from {begin:g} to {end:g} s are {length:g} s, but the duration is {duration:g} s"
            )
    if begin < 0:
        raise ValueError(f"the segment begins at {begin:g} s, before the file does")
    if length is not None and length <= 0:
        raise ValueError(f"the segment is {length:g} s long")
    return begin, length


def _seconds(name: str, value: Any) -> float | None:
    """Return a time, or None where the field tells none: it is empty, a yes or no, or a date."""
    if value is None or isinstance(value, bool | datetime):
        return None
    if isinstance(value, str):
        if not (text := value.strip()) or _is_date(text):
            return None
        if clock := _CLOCK.fullmatch(text):
            hours, minutes, seconds = clock.groups()
            return int(hours or 0) * 3600 + int(minutes) * 60 + float(seconds.replace(",", "."))
        value = text
    try:
        number = float(value)
    except (ValueError, TypeError, OverflowError):
        raise ValueError(f"{name}: {value!r} is no number of seconds") from None
    if math.isinf(number):
        raise ValueError(f"{name}: is infinite")
    return None if math.isnan(number) else number


def _is_date(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return not text.isdigit()  # 20240131 may be a number


def _channel(name: str, value: Any) -> float | None:
    """Return the number of a channel, or None where the field names none, such as that of a broadcaster."""
    if isinstance(value, list | tuple) and value:
        if len(value) > 1:
            raise ValueError(f"{name}: one channel is taken, not {len(value)}")
        value = value[0]  # pyright: ignore[reportGeneralTypeIssues]
    if isinstance(value, str):
        text = value.strip().lower()
        if not text.removeprefix("-").isdigit():
            return _CHANNEL_NAMES.get(text)
        value = text
    if value is None or isinstance(value, bool | list | tuple | dict):
        return None
    try:
        number = float(value)
    except (ValueError, TypeError, OverflowError):
        return None
    if math.isnan(number):
        return None
    if not math.isfinite(number) or number < 0 or number != int(number):
        raise ValueError(f"{name}: channels are numbered from 0, not {value!r}")
    return number

"""What a dataset holds: hours, lengths, languages, licences, and texts that do not fit their audio.

All of it comes from the index; of the shards themselves only the few suspects are read, for their text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kikimimi.data.shards.index import LeftOut
from kikimimi.data.shards.record import UNKNOWN
from kikimimi.data.shards.shards import NameColumn, Shards
from kikimimi.errors import RequestError
from kikimimi.inspect.distribution import Distribution, distribution
from kikimimi.inspect.rates import Far, Rate, measure_rates

TOO_MUCH = "too much text for the audio: a wrong transcript, or audio that was cut"
TOO_LITTLE = "too little text for the audio: an incomplete transcript, or long silence"


@dataclass(frozen=True)
class Group:
    """Records that share a language or a licence.

    Attributes:
        name: Of the language or licence, or `UNKNOWN`.
        records: How many.
        seconds: Their audio [s].
        characters: Their text [characters].
    """

    name: str
    records: int
    seconds: float
    characters: int


@dataclass(frozen=True)
class Suspect:
    """A record whose text does not fit its audio.

    Attributes:
        where: Shard, byte and key.
        language: Its language, or `UNKNOWN`.
        seconds: Its audio [s].
        characters: Its text [characters].
        rate: Their ratio [characters/s].
        usual: The median of its language [characters/s].
        deviation: Distance from it [robust standard deviations of the logarithm].
        reason: `TOO_MUCH` or `TOO_LITTLE`.
        texts: What is written in it.
    """

    where: str
    language: str
    seconds: float
    characters: int
    rate: float
    usual: float
    deviation: float
    reason: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Stats:
    """What a dataset holds.

    Attributes:
        name: Of the dataset.
        shards: Number of tars.
        bytes: Size of the records in them.
        records: Number of records.
        clips: Number of clips of all records.
        seconds: Audio of all records [s].
        characters: Text of all records [characters].
        clips_per_record: Number of clips to the number of records that have so many; 0: text only.
        record_seconds: Over records with audio, all clips of a record together; None without any.
        clip_seconds: Over clips; None without any.
        record_characters: Over all records.
        languages: The one with the most audio first.
        licenses: Likewise.
        rates: Text beside a second of audio, by language in the order of `languages`.
        suspects: The farthest from what is usual in their language: too much text first, then too little.
        left_out: What the index leaves out.
    """

    name: str
    shards: int
    bytes: int
    records: int
    clips: int
    seconds: float
    characters: int
    clips_per_record: dict[int, int]
    record_seconds: Distribution | None
    clip_seconds: Distribution | None
    record_characters: Distribution | None
    languages: tuple[Group, ...]
    licenses: tuple[Group, ...]
    rates: tuple[Rate, ...]
    suspects: tuple[Suspect, ...]
    left_out: tuple[LeftOut, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return asdict(self) | {"left_out": [item._asdict() for item in self.left_out]}

    @property
    def reasons(self) -> dict[str, int]:
        """Number of records that the index leaves out for each reason, the most frequent first."""
        return dict(Counter(item.reason for item in self.left_out).most_common())


def measure(shards: Shards | Sequence[Shards], *, name: str | None = None, worst: int = 10) -> Stats:
    """Measure a dataset by its indexes.

    Args:
        shards: The dataset, or its parts.
        name: What to call it; None takes the name of the (first) shards.
        worst: How many suspects of each kind to list, with their texts.

    Raises:
        RequestError: Two parts hold the same shard.
        DataError: A suspect cannot be read: its shard has changed.
    """
    parts = [shards] if isinstance(shards, Shards) else list(shards)
    _check_parts(parts)
    languages, language_names = _codes(parts, "languages")
    licenses, license_names = _codes(parts, "licenses")
    clips, seconds, characters = (_joined(parts, column) for column in ("clips", "seconds", "characters"))
    per_record = np.bincount(clips)
    by_language = _groups(languages, language_names, seconds, characters)
    # By the order in which they are shown.
    order = np.empty(len(language_names), dtype=np.int64)
    order[[language_names.index(group.name) for group in by_language]] = np.arange(len(by_language))
    names = [group.name for group in by_language]
    rates, far = measure_rates(seconds, characters, order[languages], names, worst=worst)
    return Stats(
        name=name if name is not None else parts[0].name,
        shards=sum(len(part.shards) for part in parts),
        bytes=int(_joined(parts, "sizes").sum()),
        records=len(clips),
        clips=int(clips.sum()),
        seconds=float(seconds.sum(dtype=np.float64)),
        characters=int(characters.sum(dtype=np.int64)),
        clips_per_record={int(number): int(per_record[number]) for number in np.flatnonzero(per_record)},
        record_seconds=distribution(seconds[clips > 0], "s"),
        clip_seconds=distribution(_joined(parts, "clip_seconds"), "s"),
        record_characters=distribution(characters, "characters", whole=True),
        languages=by_language,
        licenses=_groups(licenses, license_names, seconds, characters),
        rates=tuple(rates),
        suspects=tuple(_suspect(parts, item) for item in far),
        left_out=tuple(item for part in parts for item in part.rejected),
    )


def _check_parts(parts: list[Shards]) -> None:
    seen = Counter(shard for part in parts for shard in part.shards)
    if twice := [shard for shard, count in seen.items() if count > 1]:
        raise RequestError(f"{twice[0]}: is named twice; each shard is counted once")


def _joined(parts: list[Shards], column: str) -> NDArray[Any]:
    return np.concatenate([getattr(part, column) for part in parts])


def _codes(parts: list[Shards], column: str) -> tuple[NDArray[np.int64], list[str]]:
    """Return codes that mean the same in all parts, and their names, `UNKNOWN` among them."""
    joined = NameColumn()
    for part in parts:
        joined.append(getattr(part, column), getattr(part, f"{column[:-1]}_names"))
    found, codes = joined.finish()
    names = [*found, *({UNKNOWN} - {*found})]
    return np.where(codes < 0, names.index(UNKNOWN), codes).astype(np.int64), names


def _groups(
    codes: NDArray[np.int64], names: list[str], seconds: NDArray[Any], characters: NDArray[Any]
) -> tuple[Group, ...]:
    records = np.bincount(codes, minlength=len(names))
    audio = np.bincount(codes, weights=seconds, minlength=len(names))
    text = np.bincount(codes, weights=characters, minlength=len(names))
    groups = [
        Group(names[code], int(records[code]), float(audio[code]), int(text[code]))
        for code in np.flatnonzero(records).tolist()
    ]
    return tuple(sorted(groups, key=lambda group: (-group.seconds, -group.records, group.name)))


def _suspect(parts: list[Shards], far: Far) -> Suspect:
    ends = np.cumsum([len(part) for part in parts])
    number = int(np.searchsorted(ends, far.row, side="right"))
    part, row = parts[number], far.row - (int(ends[number - 1]) if number else 0)
    seconds, characters = float(part.seconds[row]), int(part.characters[row])
    return Suspect(
        where=part.where(row),
        language=far.language,
        seconds=seconds,
        characters=characters,
        rate=characters / seconds,
        usual=far.usual,
        deviation=far.deviation,
        reason=TOO_MUCH if far.deviation > 0 else TOO_LITTLE,
        texts=tuple(part.read(row).texts()),
    )

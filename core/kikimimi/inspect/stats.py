"""What a dataset holds: hours, lengths, languages, licences, and texts that do not fit their audio.

All of it comes from the index; of the shards themselves only the few suspects are read, for their text. A
transcript that does not belong to its clip, and a clip that was cut, stand out without a listener: in one
language people speak so many characters per second, give or take. Rates spread evenly on a logarithmic scale
(twice as fast is as rare as twice as slow), and median and median absolute deviation are not moved by the
very records that are looked for.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kikimimi.data.shards.index import LeftOut
from kikimimi.data.shards.pattern import patterns_of
from kikimimi.data.shards.record import UNNAMED
from kikimimi.data.shards.shards import NameColumn, Shards
from kikimimi.errors import RequestError
from kikimimi.inspect.distribution import Distribution, distribution
from kikimimi.recipe import Recipe, load_recipe
from kikimimi.run.folder import RunFolder

TOO_MUCH = "too much text for the audio: a wrong transcript, or audio that was cut"
TOO_LITTLE = "too little text for the audio: an incomplete transcript, or long silence"


@dataclass(frozen=True)
class Subset:
    """Records that share a language or a licence.

    Attributes:
        name: The language or licence, or `UNNAMED`.
        records: Number of records.
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
        language: Its language, or `UNNAMED`.
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
        name: The dataset's name.
        shards: Number of tars.
        bytes: Size of the records in them.
        records: Number of records.
        clips: Number of clips of all records.
        seconds: Audio of all records [s].
        characters: Text of all records [characters].
        clips_per_record: Number of clips to the number of records that have so many; 0: text only.
        record_seconds: Distribution over records with audio, a record's clips together; None without any.
        clip_seconds: Distribution over clips; None without any.
        record_characters: Distribution over all records.
        languages: Languages, the one with the most audio first.
        licenses: Licences, likewise.
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
    languages: tuple[Subset, ...]
    licenses: tuple[Subset, ...]
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


def measure_stats(shards: Shards | Sequence[Shards], *, name: str | None = None, worst: int = 10) -> Stats:
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
    seen = Counter(shard for part in parts for shard in part.shards)
    if twice := [shard for shard, count in seen.items() if count > 1]:
        raise RequestError(f"{twice[0]}: is named twice; each shard is counted once")
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


def _joined(parts: list[Shards], column: str) -> NDArray[Any]:
    return np.concatenate([getattr(part, column) for part in parts])


def _codes(parts: list[Shards], column: str) -> tuple[NDArray[np.int64], list[str]]:
    """Return codes that mean the same in all parts, and their names, `UNNAMED` among them."""
    joined = NameColumn()
    for part in parts:
        joined.append(getattr(part, column), getattr(part, f"{column[:-1]}_names"))
    found, codes = joined.finish()
    names = [*found, *({UNNAMED} - {*found})]
    return np.where(codes < 0, names.index(UNNAMED), codes).astype(np.int64), names


def _groups(
    codes: NDArray[np.int64], names: list[str], seconds: NDArray[Any], characters: NDArray[Any]
) -> tuple[Subset, ...]:
    records = np.bincount(codes, minlength=len(names))
    audio = np.bincount(codes, weights=seconds, minlength=len(names))
    text = np.bincount(codes, weights=characters, minlength=len(names))
    groups = [
        Subset(names[code], int(records[code]), float(audio[code]), int(text[code]))
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


def find_shards(sources: Sequence[str]) -> dict[str, list[Shards]]:
    """Return datasets by name: one of all patterns together, or those of a recipe's stages.

    A recipe's dataset that several stages read under one name is one dataset; where its shards differ from
    stage to stage, each is called after its stage, too.

    Raises:
        RequestError: Nothing is named, a recipe stands among shards, or a shard or its index is missing.
    """
    recipes = [source for source in sources if _is_recipe(source)]
    if recipes and len(sources) > 1:
        raise RequestError(
            f"{recipes[0]} is a recipe, and {len(sources) - 1} more are named: name a recipe alone, or shards"
        )
    if not recipes:
        if not sources:
            raise RequestError("no shards are named")
        name = sources[0] if len(sources) == 1 else f"{sources[0]} and {len(sources) - 1} more"
        return {name: [Shards(source, source) for source in sources]}
    path = Path(recipes[0])
    with patterns_of(path):
        return _datasets(RunFolder.open(path).recipe if path.is_dir() else load_recipe(path))


def _datasets(recipe: Recipe) -> dict[str, list[Shards]]:
    patterns: dict[str, dict[str, str]] = {}
    for stage, options in recipe.stages.items():
        for dataset, source in options.data.items():
            patterns.setdefault(dataset, {}).setdefault(source.shards, f"{stage}/{dataset}")
    return {
        dataset if len(found) == 1 else name: [Shards(dataset, pattern)]
        for dataset, found in patterns.items()
        for pattern, name in found.items()
    }


def _is_recipe(source: str) -> bool:
    path = Path(source)
    return path.suffix in (".yaml", ".yml") or (path / "recipe.yaml").is_file()


FEWEST = 20
"""Records of a language below which none is a suspect: there is no telling what is usual."""
FAR = 5.0
"""Distance from the median from which a record is a suspect [robust standard deviations of the logarithm]."""
NARROWEST = 0.05
"""Least robust standard deviation: among texts of one length harmless differences would be far."""


@dataclass(frozen=True)
class Rate:
    """How much text stands beside a second of audio, in one language.

    Attributes:
        language: Its name.
        rates: Distribution over records with audio and text [characters/s].
        low: Rate below which a record is a suspect [characters/s]; None where there are fewer than `FEWEST`.
        high: Rate above which a record is a suspect, likewise.
        too_little: Records below `low`.
        too_much: Records above `high`.
    """

    language: str
    rates: Distribution
    low: float | None
    high: float | None
    too_little: int
    too_much: int


class Far(NamedTuple):
    """A record that is far from what is usual.

    Attributes:
        row: The record's row.
        language: Its language.
        usual: The median there [characters/s].
        deviation: Distance from it, above 0 for too much text [robust standard deviations of the logarithm].
    """

    row: int
    language: str
    usual: float
    deviation: float


def measure_rates(
    seconds: NDArray[np.float32],
    characters: NDArray[Any],
    languages: NDArray[np.int64],
    names: Sequence[str],
    *,
    worst: int,
) -> tuple[list[Rate], list[Far]]:
    """Measure how much text stands beside the audio; seconds, characters and languages are (rows,) each.

    Returns:
        One rate for each language that has any, in the order of `names`; the farthest records, first those
        with too much text.
    """
    spoken = np.flatnonzero((seconds > 0) & (characters > 0))
    values = characters[spoken] / seconds[spoken].astype(np.float64)
    rates: list[Rate] = []
    far: list[Far] = []
    for code, name in enumerate(names):
        here = np.flatnonzero(languages[spoken] == code)
        spread = distribution(values[here], "characters/s")
        if spread is None:
            continue
        if spread.count < FEWEST:
            rates.append(Rate(name, spread, None, None, 0, 0))
            continue
        logs = np.log(values[here])
        median = float(np.median(logs))
        # 1.4826 makes the median absolute deviation of a normal distribution its standard deviation.
        sigma = max(1.4826 * float(np.median(np.abs(logs - median))), NARROWEST)
        deviations = (logs - median) / sigma
        above, below = np.flatnonzero(deviations > FAR), np.flatnonzero(deviations < -FAR)
        usual, reach = math.exp(median), math.exp(FAR * sigma)
        rates.append(Rate(name, spread, usual / reach, usual * reach, len(below), len(above)))
        for side in (above, below):
            farthest = side[np.argsort(-np.abs(deviations[side]), kind="stable")[:worst]]
            far += [Far(int(spoken[here[i]]), name, usual, float(deviations[i])) for i in farthest.tolist()]
    far.sort(key=lambda item: (-abs(item.deviation), item.row))
    sides = [item for item in far if item.deviation > 0], [item for item in far if item.deviation < 0]
    return rates, [item for side in sides for item in side[:worst]]

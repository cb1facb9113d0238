from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kikimimi.data.shards.indexing import build_index
from kikimimi.data.shards.record import UNNAMED
from kikimimi.data.shards.shards import Shards
from kikimimi.errors import DataError, RequestError
from kikimimi.inspect.stats import (
    FAR,
    FEWEST,
    NARROWEST,
    TOO_LITTLE,
    TOO_MUCH,
    Subset,
    find_shards,
    measure_rates,
    measure_stats,
)

Record = tuple[dict[str, Any], Sequence[float]]
Write = Callable[..., Path]


@pytest.fixture
def write(write_tar: Callable[..., Path], tone: Callable[..., bytes]) -> Write:
    """Write and index a shard of (JSON, seconds of each clip)."""

    def write(records: Sequence[Record], name: str = "train-000000.tar", *, skip: bool = False) -> Path:
        members = []
        for number, (data, clips) in enumerate(records):
            members.append((f"r{number}.json", json.dumps(data).encode()))
            members += [(f"r{number}.{i}.wav", tone(seconds, 8000)) for i, seconds in enumerate(clips)]
        path = write_tar(members, name)
        build_index(path, skip=skip)
        return path

    return write


def labelled(text: str, language: str | None, license: str | None = None) -> dict[str, Any]:
    return {"text": text, "language": language, "meta": {"license": license} if license else {}}


CHAT = {
    "messages": [
        {
            "role": "user",
            "content": [{"type": "audio", "audio": "0.wav"}, {"type": "audio", "audio": "1.wav"}],
        },
        {"role": "assistant", "content": "three"},
    ],
    "meta": {"language": "en", "license": "MIT"},
}
WRITTEN = {
    "messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "yes"}],
    "rejected": "no",
}


def test_figures_of_a_small_dataset(write: Write) -> None:
    records: list[Record] = [
        (labelled("abcde", "ja", "CC0-1.0"), [0.5]),
        (labelled("abc", "ja"), [1.0]),
        (CHAT, [0.25, 0.5]),
        (WRITTEN, []),
    ]
    path = write(records)
    stats = measure_stats(Shards("speech", str(path)))
    assert (stats.name, stats.shards, stats.records, stats.clips) == ("speech", 1, 4, 4)
    assert (stats.seconds, stats.characters) == (2.25, 5 + 3 + 5 + 10)
    assert stats.bytes == int(Shards("speech", str(path)).sizes.sum()) < path.stat().st_size
    assert stats.clips_per_record == {0: 1, 1: 2, 2: 1}
    assert stats.languages == (
        Subset("ja", 2, 1.5, 8),
        Subset("en", 1, 0.75, 5),
        Subset(UNNAMED, 1, 0.0, 10),
    )
    assert stats.licenses == (
        Subset(UNNAMED, 2, 1.0, 13),
        Subset("MIT", 1, 0.75, 5),
        Subset("CC0-1.0", 1, 0.5, 5),
    )
    assert stats.record_seconds is not None
    assert stats.clip_seconds is not None
    assert stats.record_characters is not None
    # Text alone is no audio of 0 s.
    assert (stats.record_seconds.count, stats.record_seconds.percentiles[0]) == (3, 0.5)
    assert (stats.clip_seconds.count, stats.clip_seconds.percentiles[0]) == (4, 0.25)
    assert (stats.record_characters.count, stats.record_characters.median) == (4, 5)
    assert [(rate.language, rate.rates.count, rate.rates.mean) for rate in stats.rates] == [
        ("ja", 2, (10 + 3) / 2),
        ("en", 1, 5 / 0.75),
    ]
    assert (stats.suspects, stats.left_out, stats.reasons) == ((), (), {})


def test_parts_are_one_dataset(write: Write) -> None:
    # The same code is another language in the second shard.
    first = write([(labelled("ab", "en"), [0.5]), (labelled("ab", "ja"), [0.5])])
    second = write([(labelled("abc", "ja"), [1.0])], "train-000001.tar")
    parts = [Shards("a", str(first)), Shards("b", str(second))]
    stats = measure_stats(parts, name="both")
    assert (stats.name, stats.shards, stats.records) == ("both", 2, 3)
    assert stats.languages == (Subset("ja", 2, 1.5, 5), Subset("en", 1, 0.5, 2))
    pattern = measure_stats(Shards("both", str(first.with_name("train-*.tar"))))
    assert asdict(pattern) == asdict(stats)
    with pytest.raises(RequestError, match=r"train-000000\.tar: is named twice; each shard is counted once"):
        measure_stats([parts[0], parts[0]])


@pytest.fixture
def odd(write: Write) -> Path:
    usual: list[Record] = [(labelled("a" * 5, "ja"), [0.5]) for _ in range(20)]
    return write([*usual, (labelled("b" * 50, "ja"), [0.5]), (labelled("c", "ja"), [0.5])])


def test_suspects_are_read(odd: Path) -> None:
    much, little = measure_stats(Shards("speech", str(odd))).suspects
    assert (much.reason, much.texts, much.characters, much.seconds) == (TOO_MUCH, ("b" * 50,), 50, 0.5)
    assert much.where.endswith("record 'r20'")
    assert (much.rate, much.language) == (100.0, "ja")
    assert much.usual == pytest.approx(10)
    assert much.deviation > 5
    assert (little.reason, little.texts, little.rate) == (TOO_LITTLE, ("c",), 2.0)
    assert little.where.endswith("record 'r21'")
    assert little.deviation < -5
    assert measure_stats(Shards("speech", str(odd)), worst=0).suspects == ()


def test_suspects_of_parts_are_found_in_their_part(odd: Path, write: Write) -> None:
    before = write([(labelled("a" * 5, "ja"), [0.5])], "other-000000.tar")
    much, _ = measure_stats([Shards("a", str(before)), Shards("b", str(odd))], name="both").suspects
    assert (much.texts, much.where.endswith("record 'r20'")) == (("b" * 50,), True)


def test_nothing_but_suspects_is_read(odd: Path) -> None:
    shards = Shards("speech", str(odd))
    size = odd.stat().st_size
    odd.write_bytes(bytes(size))
    assert measure_stats(shards, worst=0).rates[0].too_much == 1
    with pytest.raises(DataError, match=r"record 'r20': the bytes are not those that were indexed"):
        measure_stats(shards)


def test_what_the_index_leaves_out(write: Write) -> None:
    records: list[Record] = [
        (labelled("ab", "ja"), [0.5]),
        (labelled(" ", "ja"), [0.5]),
        (labelled("", "ja"), [0.5]),
    ]
    stats = measure_stats(Shards("speech", str(write(records, skip=True))))
    assert stats.records == 1
    assert [item.where.endswith(f"record 'r{n}'") for n, item in enumerate(stats.left_out, 1)] == [True, True]
    assert list(stats.reasons.values()) == [2]
    assert "text" in next(iter(stats.reasons))


def test_json_is_complete(odd: Path) -> None:
    stats = measure_stats(Shards("speech", str(odd)))
    data = json.loads(json.dumps(stats.to_json()))
    assert data["records"] == 22
    assert data["rates"][0]["rates"]["percentiles"][4] == 10
    assert data["suspects"][0]["texts"] == ["b" * 50]
    assert data["clips_per_record"] == {"1": 22}


RECIPE = """
name: small
encoder: {{name: whisper, weights: random}}
adapter: {{name: mlp}}
llm: {{name: llama, weights: random}}
stages:
  first:
    train: {{adapter: {{lr: 1.0e-3}}}}
    data: {{speech: {{shards: "{0}", task: asr}}, same: {{shards: "{0}", task: asr}}}}
    steps: 1
  second:
    train: {{adapter: {{lr: 1.0e-3}}}}
    data: {{speech: {{shards: "{1}", task: asr}}, same: {{shards: "{0}", task: asr}}}}
    steps: 1
"""


def test_datasets_of_a_recipe(write: Write, tmp_path: Path) -> None:
    first = write([(labelled("ab", "en"), [0.5])])
    second = write([(labelled("abc", "ja"), [1.0])], "train-000001.tar")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(first, second), encoding="utf-8")
    for source in (recipe, tmp_path):  # a run folder holds its recipe under this name
        found = find_shards([str(source)])
        assert {name: [part.shards for part in parts] for name, parts in found.items()} == {
            "first/speech": [(str(first),)],
            "second/speech": [(str(second),)],
            "same": [(str(first),)],
        }
    with pytest.raises(
        RequestError, match="is a recipe, and 1 more are named: name a recipe alone, or shards"
    ):
        find_shards([str(recipe), str(first)])


def test_patterns_are_one_dataset(write: Write) -> None:
    first = write([(labelled("ab", "en"), [0.5])])
    second = write([(labelled("abc", "ja"), [1.0])], "train-000001.tar")
    (name, parts), *none = find_shards([str(first), str(second)]).items()
    assert (name, [part.shards for part in parts], none) == (
        f"{first} and 1 more",
        [(str(first),), (str(second),)],
        [],
    )
    assert list(find_shards([str(first)])) == [str(first)]
    with pytest.raises(RequestError, match="no shards are named"):
        find_shards([])


def rates_of(seconds: list[float], characters: list[int], worst: int = 10) -> tuple[list, list]:  # type: ignore[type-arg]
    return measure_rates(
        np.array(seconds, dtype=np.float32),
        np.array(characters, dtype=np.int32),
        np.zeros(len(seconds), dtype=np.int64),
        ["ja"],
        worst=worst,
    )


def test_too_much_and_too_little_text() -> None:
    (rate,), far = rates_of([10.0] * 42, [70] * 40 + [700, 7])
    assert (rate.language, rate.rates.count, rate.too_much, rate.too_little) == ("ja", 42, 1, 1)
    # All others are equal: the least deviation that is assumed decides.
    assert rate.low == pytest.approx(7 / math.exp(FAR * NARROWEST))
    assert rate.high == pytest.approx(7 * math.exp(FAR * NARROWEST))
    assert [item.row for item in far] == [40, 41]
    assert far[0].deviation == pytest.approx(math.log(10) / NARROWEST)
    assert far[1].deviation == pytest.approx(-far[0].deviation)
    assert far[0].usual == pytest.approx(7)


def test_the_robust_deviation_is_that_of_a_normal_distribution() -> None:
    logs = np.random.default_rng(0).normal(2.0, 0.3, 50_001)
    seconds = np.full(len(logs), 1e6, dtype=np.float32)
    characters = np.rint(np.exp(logs) * 1e6).astype(np.int64)
    (rate,), _ = measure_rates(seconds, characters, np.zeros(len(logs), np.int64), ["en"], worst=0)
    assert math.log(rate.high / rate.rates.median) / FAR == pytest.approx(0.3, rel=0.02)  # type: ignore[operator]


def test_each_language_has_its_own_usual() -> None:
    characters = np.array([70] * 30 + [150] * 30)
    languages = np.array([0] * 30 + [1] * 30)
    rates, far = measure_rates(np.full(60, 10, np.float32), characters, languages, ["ja", "en"], worst=5)
    assert [(rate.language, rate.rates.median) for rate in rates] == [("ja", 7), ("en", 15)]
    assert far == []


def test_only_the_farthest_are_named_but_all_are_counted() -> None:
    (rate,), far = rates_of([1.0] * 44, [100] * 40 + [1000, 4000, 2000, 1], worst=2)
    assert (rate.too_much, rate.too_little) == (3, 1)
    assert [item.row for item in far] == [41, 42, 43]
    assert rates_of([1.0] * 44, [100] * 40 + [1000, 4000, 2000, 1], worst=0)[1] == []


def test_too_few_to_tell() -> None:
    (rate,), far = rates_of([1.0] * (FEWEST - 1), [10] * (FEWEST - 2) + [1000])
    assert (rate.low, rate.high, rate.too_much) == (None, None, 0)
    assert far == []
    assert rates_of([1.0] * FEWEST, [10] * (FEWEST - 1) + [1000])[0][0].too_much == 1


def test_without_audio_or_text_there_is_no_rate() -> None:
    assert rates_of([0.0, 1.0], [10, 0]) == ([], [])

"""What reads files from outside: sound, tables, shards, indexes, recipes."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from kikimimi.contracts.layout import BadRow, Row
from kikimimi.data.audio import decode, probe
from kikimimi.data.packing.row import Dropped, PackSettings, pack_row
from kikimimi.data.packing.source import PackSource
from kikimimi.data.shards.index import index_path
from kikimimi.data.shards.indexing import build_index
from kikimimi.data.shards.shards import Shards
from kikimimi.evaluation.columns import read_texts
from kikimimi.recipe import load_recipe, to_yaml
from kikimimi.testing import write_shard

from . import corpora, runs
from .harness import Target, WrongError
from .mutations import BYTES, Mutation, json_lines, mutated, text
from .sounds import RATE, sounds

_TEXT = (text, text, text, text, *BYTES)


def _damaged(kinds: tuple[Mutation, ...]) -> Callable[[Any, Random, Path], Any]:
    """Return a mutation of one file: what `attempt` takes is the seed, and the damaged file's path."""

    def mutate(seed: Any, rng: Random, place: Path) -> Any:
        name, content = seed
        path = place / name
        path.write_bytes(mutated(content, rng, kinds))
        return seed, path

    return mutate


# Sound


def _sounds(_: Path) -> dict[str, Any]:
    return {name: (f"a.{name}", content) for name, content in sounds().items()}


@functools.cache
def _length(content: bytes) -> tuple[float, int]:
    seconds, rate, _ = probe(content, "whole")
    return seconds, len(decode(content, sample_rate=rate, name="whole"))


def _decode(given: Any) -> str:
    (_, whole), path = given
    seconds, count = _length(whole)
    found_seconds, rate, _ = probe(path, "clip")
    samples = decode(path, sample_rate=rate, name="clip")
    if path.suffix == ".mp3" and whole.endswith(path.read_bytes()):
        return "taken whole"  # cut where a frame begins: another MP3, such as programs cut without decoding
    if len(samples) / rate < 0.999 * seconds - 0.003 or len(samples) < 0.999 * count - 1:
        raise WrongError(f"a clip of {count} samples ({seconds:.3f} s) became {len(samples)} at {rate} Hz")
    if abs(len(samples) / rate - found_seconds) > 1e-6:
        raise WrongError(f"{found_seconds:.6f} s were told, {len(samples) / rate:.6f} s decoded")
    return "taken whole"


# Tables

_ROWS = [
    ("a.wav", "おはよう", "ja"),
    ("clips/a.wav", 'say "hi", please', "en"),
    ("a.wav", "a\u2028b", "ja"),
] * 3


def _manifests(_: Path) -> dict[str, Any]:
    quoted = [f'{path},"{said.replace(chr(34), chr(34) * 2)}",{language}' for path, said, language in _ROWS]
    lines = [dict(zip(("path", "text", "language"), row, strict=True)) for row in _ROWS]
    lines[1]["meta"] = {"speaker": "a", "age": 3, "license": "CC0-1.0"}  # type: ignore[assignment]
    talk = {
        "messages": [
            {"role": "user", "content": [{"type": "audio", "audio": "a.wav"}, {"type": "text", "text": "?"}]},
            {"role": "assistant", "content": "yes"},
        ],
        "meta": {"license": "CC0-1.0"},
    }
    made = {
        "csv": "\n".join(["path,text,language", *quoted]),
        "tsv": "\n".join(["path\ttext\tlanguage", *map("\t".join, _ROWS)]),
        "jsonl": "\n".join(json.dumps(line, ensure_ascii=False) for line in lines),
        "talk.jsonl": "\n".join(json.dumps(talk, ensure_ascii=False) for _ in range(5)),
    }
    return {name: (f"list.{name}", f"{content}\n".encode()) for name, content in made.items()}


def _mutate_table(seed: Any, rng: Random, place: Path) -> Any:
    (place / "clips").mkdir()
    for file in (place / "a.wav", place / "clips" / "a.wav"):
        file.write_bytes(corpora.WAV)
    lines = (json_lines,) * 8 if seed[0].endswith("jsonl") else ()
    return _damaged((*lines, *_TEXT))(seed, rng, place)


def _pack(given: Any) -> str:
    _, path = given
    source = PackSource.open(path)
    packed = 0
    for number, row in enumerate(source.layout.rows(0, len(source))):
        result = row if isinstance(row, BadRow) else pack_row(row, number, PackSettings())
        if isinstance(result, BadRow | Dropped):
            assert str(result.reason)
        elif isinstance(row, Row):
            packed += 1
            seconds = corpora.SECONDS * len(row.clips)
            files = all(isinstance(clip, Path) for clip in row.clips)
            if files and abs(result.seconds - seconds) > 1e-6:
                raise WrongError(f"{seconds} s became {result.seconds} s")
    return "rows taken, others told" if packed else "every row told"


def _scores(_: Path) -> dict[str, Any]:
    rows = [("hello there", "hello three"), ("a", "b"), ("おはよう", "お早う")] * 2
    made = {
        "csv": "reference,prediction\n" + "\n".join(map(",".join, rows)),
        "tsv": "reference\tprediction\n" + "\n".join(map("\t".join, rows)),
        "jsonl": "\n".join(json.dumps({"reference": a, "prediction": b}) for a, b in rows),
    }
    return {name: (f"scores.{name}", content.encode()) for name, content in made.items()}


def _read_texts(given: Any) -> str:
    _, path = given
    references, predictions = read_texts(path, ["reference", "prediction"]).values()
    assert len(references) == len(predictions)
    return "read"


# Shards


def _shards(folder: Path) -> dict[str, Any]:
    seeds = {}
    for form in ("clips", "conversations"):
        shard = Path(write_shard(folder, 4, prefix=form, form=form))
        seeds[form] = (shard.name, shard.read_bytes(), index_path(shard).name, index_path(shard).read_bytes())
    return seeds


def _lengths(shards: Shards) -> dict[str, list[int]]:
    found = {}
    for row in range(len(shards)):
        record = shards.read(row)
        found[shards.key(row)] = [
            len(decode(clip, sample_rate=RATE, name=name)) for name, clip in record.audio.items()
        ]
    return found


@functools.cache
def _whole_lengths(tar: bytes, index: bytes, place: str) -> dict[str, list[int]]:
    path = Path(place) / "whole.tar"
    path.write_bytes(tar)
    build_index(path)
    return _lengths(Shards("whole", str(path)))


def _mutate_tar(seed: Any, rng: Random, place: Path) -> Any:
    name, tar, _, index = seed
    path = place / name
    path.write_bytes(mutated(tar, rng, BYTES))
    return path, _whole_lengths(tar, index, str(place)), rng.random() < 0.5


def _read_tar(given: Any) -> str:
    path, whole, skip = given
    build_index(path, skip=skip)
    shards = Shards("fuzz", str(path))
    found = _lengths(shards)
    told = len(shards.rejected)
    for key, lengths in whole.items():
        if key in found and sum(found[key]) < sum(lengths):
            raise WrongError(f"record {key}: {lengths} samples became {found[key]}")
    if len(found) < len(whole) and not told:
        raise WrongError(f"{len(whole)} records became {len(found)}, and nothing is told")
    return "taken whole" if not told else "records taken, others told"


def _mutate_index(seed: Any, rng: Random, place: Path) -> Any:
    name, tar, index_name, index = seed
    whole = _whole_lengths(tar, index, str(place))
    (place / name).write_bytes(tar)
    (place / index_name).write_bytes(mutated(index, rng, BYTES))
    return place / name, whole


def _read_index(given: Any) -> str:
    path, whole = given
    if (found := _lengths(Shards("fuzz", str(path)))) != whole:
        raise WrongError(f"{whole} became {found}")
    return "taken whole"


# Recipes

_RECIPES = Path(__file__).parents[2] / "recipes"


def _recipes(_: Path) -> dict[str, Any]:
    return {path.stem: (path.name, path.read_bytes()) for path in sorted(_RECIPES.glob("*.yaml"))}


def _mutate_recipe(seed: Any, rng: Random, place: Path) -> Any:
    shutil.copytree(_RECIPES, place, dirs_exist_ok=True)  # some stand on others
    return _damaged((*_TEXT[:4], *_TEXT))(seed, rng, place)


def _read_recipe(given: Any) -> str:
    _, path = given
    before = to_yaml(load_recipe(path))
    path.write_text(before, encoding="utf-8")
    if to_yaml(load_recipe(path)) != before:
        raise WrongError("the resolved recipe, read again, is another one")
    return "read"


TARGETS = (
    Target("sound", 8000, "taken whole, or refused: never shorter", _sounds, _damaged(BYTES), _decode),
    Target(
        "manifests", 3000, "rows are taken whole or told; others are packed", _manifests, _mutate_table, _pack
    ),
    Target(
        "corpora",
        2000,
        "rows are taken or told; others are packed",
        corpora.corpora,
        corpora.mutate,
        corpora.attempt,
    ),
    Target("score", 1500, "read, or the line is named", _scores, _damaged(_TEXT), _read_texts),
    Target(
        "tars",
        2000,
        "records are whole, left out by name, or the shard is refused",
        _shards,
        _mutate_tar,
        _read_tar,
    ),
    Target(
        "indexes",
        1500,
        "refused, unless every record is the one that was indexed",
        _shards,
        _mutate_index,
        _read_index,
    ),
    Target(
        "recipes",
        2000,
        "read, or each problem is named with its line",
        _recipes,
        _mutate_recipe,
        _read_recipe,
    ),
    Target(
        "runs",
        1000,
        "read as written, named with what to do, or the checkpoint before is taken up",
        runs.runs,
        runs.mutate,
        runs.attempt,
    ),
)

"""Corpora as they are downloaded, one file of them damaged."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from random import Random
from typing import Any

from kikimimi.contracts.layout import BadRow
from kikimimi.data.audio import encode_audio, encode_flac
from kikimimi.data.packing.row import Dropped, PackSettings, pack_row
from kikimimi.data.packing.source import PackSource

from .mutations import BYTES, json_file, json_lines, mutated, text
from .sounds import RATE, speech

SECONDS = 0.2
_TONE = speech(SECONDS)
WAV = encode_audio(_TONE, RATE, kind="WAV", subtype="PCM_16")
_FLAC = encode_flac(_TONE, RATE)
_MP3 = encode_audio(_TONE, RATE, kind="MP3", subtype="MPEG_LAYER_III")


def _lines(*rows: dict[str, Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _parquet() -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    clips = [{"bytes": _FLAC, "path": f"{name}.flac"} for name in "ab"]
    audio = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    features = {"audio": {"_type": "Audio"}, "transcription": {"dtype": "string", "_type": "Value"}}
    table = pa.table({"audio": pa.array(clips, audio), "transcription": pa.array(["はい", "いいえ"])})
    held = io.BytesIO()
    parquet.write_table(
        table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})}), held
    )
    return held.getvalue()


def corpora(_: Path) -> dict[str, Any]:
    """Return folders by name: the name of what is opened, its files, and options of packing."""
    nemo = [{"audio_filepath": f"{name}.wav", "duration": SECONDS, "text": name} for name in "ab"]
    shares = [
        {
            "conversations": [{"from": "human", "value": "<audio>what?"}, {"from": "gpt", "value": "that"}],
            "audios": [f"{name}.wav"],
        }
        for name in "ab"
    ]
    wavs = {"a.wav": WAV, "b.wav": WAV}
    wav_scp = "r1 a.wav\nr2 b.wav\n"
    made: dict[str, tuple[str, dict[str, bytes | str], tuple[str, ...]]] = {
        "common voice": (
            "",
            {
                "train.tsv": "path\tsentence\tlocale\nc_1.mp3\tはい\tja\nc_2.mp3\tまあ\tja\n",
                "clips/c_1.mp3": _MP3,
                "clips/c_2.mp3": _MP3,
            },
            ("split=train",),
        ),
        "jsut": (
            "",
            {
                "basic5000/transcript_utf8.txt": "BASIC5000_0001:水を買う。\nBASIC5000_0002:木曜日:はい\n",
                "basic5000/wav/BASIC5000_0001.wav": WAV,
                "basic5000/wav/BASIC5000_0002.wav": WAV,
            },
            (),
        ),
        "librispeech": (
            "",
            {
                "dev-clean/121/1/121-1.trans.txt": "121-1-0000 HARANGUE\n121-1-0001 PAIN'S END\n",
                "dev-clean/121/1/121-1-0000.flac": _FLAC,
                "dev-clean/121/1/121-1-0001.flac": _FLAC,
            },
            ("split=dev-clean",),
        ),
        "reazonspeech": (
            "",
            {
                "tiny.tsv": '000/a.flac\tニュース\n000/b.flac\t"はい\n',
                "000/a.flac": _FLAC,
                "000/b.flac": _FLAC,
            },
            (),
        ),
        "nemo": ("train.json", {"train.json": _lines(*nemo), **wavs}, ()),
        "nemo, gzip": ("train.json.gz", {"train.json.gz": gzip.compress(_lines(*nemo), mtime=0), **wavs}, ()),
        "sharegpt": ("data.json", {"data.json": json.dumps(shares), **wavs}, ()),
        "kaldi": (
            "",
            {
                "wav.scp": wav_scp,
                "segments": "u1 r1 0.0 0.1\nu2 r1 0.1 0.2\nu3 r2 0.0 0.2\n",
                "text": "u1 HI\nu2 UM-HUM\nu3 はい\n",
                "utt2spk": "u1 s\nu2 s\nu3 t\n",
                **wavs,
            },
            (),
        ),
        "lhotse": ("cuts.jsonl.gz", {"cuts.jsonl.gz": gzip.compress(_lines(*_cuts()), mtime=0), **wavs}, ()),
        "lhotse, plain": ("cuts.jsonl", {"cuts.jsonl": _lines(*_cuts()), **wavs}, ()),
        "parquet": ("", {"data/train-00000-of-00001.parquet": _parquet()}, ("fields=reazonspeech",)),
    }
    return {
        name: (
            opened,
            {
                file: content.encode() if isinstance(content, str) else content
                for file, content in files.items()
            },
            options,
        )
        for name, (opened, files, options) in made.items()
    }


def _cuts() -> list[dict[str, Any]]:
    count = round(SECONDS * RATE)
    return [
        {
            "id": f"cut-{name}",
            "start": 0.0,
            "duration": SECONDS,
            "channel": 0,
            "supervisions": [
                {
                    "id": f"s-{name}",
                    "recording_id": name,
                    "start": 0.0,
                    "duration": SECONDS,
                    "channel": 0,
                    "text": "はい",
                    "language": "ja",
                    "speaker": "s",
                }
            ],
            "recording": {
                "id": name,
                "sources": [{"type": "file", "channels": [0], "source": f"{name}.wav"}],
                "sampling_rate": RATE,
                "num_samples": count,
                "duration": SECONDS,
                "channel_ids": [0],
            },
            "type": "MonoCut",
        }
        for name in "ab"
    ]


def mutate(seed: Any, rng: Random, place: Path) -> Any:
    """Write the folder, one of its files damaged: mostly that which lists the others."""
    opened, files, options = seed
    lists = [name for name in files if not name.endswith((".wav", ".flac", ".mp3"))]
    damaged = rng.choice(lists) if rng.random() < 0.9 else rng.choice(list(files))
    for name, content in files.items():
        path = place / "corpus" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_damaged(name, content, rng) if name == damaged else content)
    return place, opened, options


def _damaged(name: str, content: bytes, rng: Random) -> bytes:
    if name.endswith(".gz") and rng.random() < 0.7:
        return gzip.compress(_damaged(name.removesuffix(".gz"), gzip.decompress(content), rng), mtime=0)
    if name.endswith((".wav", ".flac", ".mp3", ".parquet", ".gz")):
        return mutated(content, rng, BYTES)
    if name == "data.json":
        return mutated(content, rng, (*(json_file,) * 12, text, text, *BYTES))
    if name.endswith((".json", ".jsonl")):
        return mutated(content, rng, (*(json_lines,) * 12, text, text, *BYTES))
    return mutated(content, rng, (*(text,) * 12, *BYTES))


def attempt(given: Any) -> str:
    """Pack the rows."""
    from datasets import config

    place, opened, options = given
    config.HF_DATASETS_CACHE = place / "cache"
    source = PackSource.open(place / "corpus" / opened, None, options)
    packed = 0
    for number, row in enumerate(source.layout.rows(0, len(source))):
        result = row if isinstance(row, BadRow) else pack_row(row, number, PackSettings())
        if isinstance(result, BadRow | Dropped):
            assert str(result.reason)
        else:
            packed += 1
            assert result.seconds <= 3 * SECONDS
    return "rows taken, others told" if packed else "every row told"

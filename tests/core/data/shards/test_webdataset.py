"""What is packed is WebDataset's format: its own reader reads it."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from webdataset.compat import WebDataset

from kikimimi.data.packing.pack import pack
from kikimimi.data.shards.shards import Shards

TURNS = [
    {"role": "user", "content": [{"type": "audio", "audio": "a.wav"}, {"type": "text", "text": "違いは"}]},
    {"role": "user", "content": [{"type": "audio", "audio": "b.wav"}]},
    {"role": "assistant", "content": "長さ"},
]


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # it leaves its files open
@pytest.mark.parametrize("codec", ["flac", "opus"])
def test_its_reader_reads_packed_shards(
    tmp_path: Path, tone: Callable[..., bytes], codec: Literal["flac", "opus"]
) -> None:
    for name, seconds in {"a.wav": 0.3, "b.wav": 0.4}.items():
        (tmp_path / name).write_bytes(tone(seconds))
    rows = [{"path": "a.wav", "text": "こんにちは"}, {"messages": TURNS}, {"path": "b.wav", "text": "x"}]
    manifest = tmp_path / "train.jsonl"
    manifest.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    shards = Shards("packed", pack(manifest, tmp_path / "out", records_per_shard=2, codec=codec).pattern)
    records = [shards.read(row) for row in range(len(shards))]
    samples = list(WebDataset(list(shards.shards), shardshuffle=False))
    gc.collect()  # here, where the warnings are ignored
    for record, sample in zip(records, samples, strict=True):
        assert sample.pop("__key__") == record.key
        assert json.loads(sample.pop("json")) == record.json
        assert {name: sample[name] for name in sample if not name.startswith("__")} == record.audio
    assert [list(record.audio) for record in records] == [
        [f"0.{codec}"],
        [f"0.{codec}", f"1.{codec}"],
        [f"0.{codec}"],
    ]

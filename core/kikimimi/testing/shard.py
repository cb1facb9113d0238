"""A small real dataset: tones with Japanese labels, packed and indexed as any other."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from webdataset.writer import TarWriter

from kikimimi.data.audio import encode_flac
from kikimimi.data.shards.indexing import build_index
from kikimimi.testing.records import CLIP, conversation, labelled_clip

SAMPLE_RATE = 16000


def write_shard(
    folder: Path,
    count: int = 8,
    *,
    seed: int = 0,
    prefix: str = "clips",
    form: Literal["clips", "conversations"] = "clips",
) -> str:
    """Write one shard of tones of 0.3 to 1.5 s with short Japanese labels, and its index.

    Args:
        folder: Where to; made if it is not there.
        count: Records.
        seed: Decides lengths, pitches and labels.
        prefix: Start of the shard's name.
        form: What a record is: ``clips``, a labelled clip with the fields of every built-in task but `chat`;
            or ``conversations``, a question about the clip, an answer, and a rejected one, as the task `chat`
            takes it; every second clip with its transcript.

    Returns:
        The shard's path, as `shards` of a recipe takes it.

    Raises:
        ValueError: `count` is below 1.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, not {count}")
    rng = Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{prefix}-000000.tar"
    with TarWriter(str(path), mtime=0) as writer:
        for number in range(count):
            clips = form == "clips"
            record = labelled_clip(rng) if clips else conversation(rng, said=number % 2 == 0)
            writer.write(
                {
                    "__key__": f"{prefix}-{number:04d}",
                    "json": json.dumps(record, ensure_ascii=False).encode(),
                    CLIP: encode_flac(_tone(rng), SAMPLE_RATE),
                }
            )
    build_index(path)
    return str(path)


def _tone(rng: Random) -> NDArray[np.float32]:
    time = np.arange(round(rng.uniform(0.3, 1.5) * SAMPLE_RATE)) / SAMPLE_RATE
    pitch = rng.uniform(110, 880)
    return (0.3 * np.sin(2 * np.pi * pitch * time)).astype(np.float32)

"""How fast one process reads records, beside bare FLAC decoding of the same clips.

    python benchmarks/reading.py 'data/quickstart/train/*.tar'

The clips of the shards are joined to lengths of 2 to 15 s and packed into a shard in a temporary folder. Then
the same clips are decoded in turn by soundfile alone, and by the whole path of training: read the record's
bytes, verify their SHA-256, take the members apart, parse the JSON, decode to float32, and check for values
that are no numbers and for peaks. Both in one run, alternating, so that a busy machine slows both.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import soundfile
from webdataset.writer import TarWriter

from kikimimi.data.audio import decode, encode_flac
from kikimimi.data.shards.indexing import build_index
from kikimimi.data.shards.shards import Shards

SAMPLE_RATE = 16_000


def write_joined(source: Shards, path: Path, count: int, shortest: float, longest: float) -> None:
    rng = Random(0)
    row = 0
    with TarWriter(str(path), mtime=0) as tar:
        for number in range(count):
            wanted = rng.uniform(shortest, longest) * SAMPLE_RATE
            pieces: list[np.ndarray] = []
            while sum(map(len, pieces)) < wanted:
                record = source.read(row % len(source))
                pieces += [
                    decode(clip, sample_rate=SAMPLE_RATE, name=record.key) for clip in record.audio.values()
                ]
                row += 1
            samples = np.concatenate(pieces)[: round(wanted)]
            text = json.dumps(
                {"text": "あ" * round(wanted / 2000), "language": "ja"}, ensure_ascii=False
            ).encode()
            tar.write({"__key__": f"{number:09d}", "json": text, "0.flac": encode_flac(samples, SAMPLE_RATE)})
    build_index(path)


def microseconds(work: Callable[[], object], count: int) -> float:
    begin = time.perf_counter()
    work()
    return (time.perf_counter() - begin) / count * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shards", help="where the speech comes from")
    parser.add_argument("--count", type=int, default=400, help="clips")
    parser.add_argument("--shortest", type=float, default=2.0, help="[s]")
    parser.add_argument("--longest", type=float, default=15.0, help="[s]")
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "joined.tar"
        write_joined(Shards("source", options.shards), path, options.count, options.shortest, options.longest)
        shards = Shards("joined", str(path))
        rows = range(len(shards))
        records = [shards.read(row) for row in rows]
        clips = [clip for record in records for clip in record.audio.values()]

        def bare() -> None:
            for clip in clips:
                soundfile.read(io.BytesIO(clip), dtype="float32")

        def read() -> None:
            for row in rows:
                shards.read(row)

        def decode_all() -> None:
            for clip in clips:
                decode(clip, sample_rate=SAMPLE_RATE, name="clip")

        def whole() -> None:
            for row in rows:
                for name, clip in shards.read(row).audio.items():
                    decode(clip, sample_rate=SAMPLE_RATE, name=name)

        parts = {
            "bare soundfile.read": bare,
            "read, hash, parse": read,
            "decode, check": decode_all,
            "whole": whole,
        }
        times: dict[str, list[float]] = {name: [] for name in parts}
        for _ in range(options.repeats):
            for name, work in parts.items():
                times[name].append(microseconds(work, len(shards)))

        seconds = float(shards.seconds.mean())
        size = statistics.mean(map(len, clips)) / 1000
        lengths = f"{shards.seconds.min():.1f} to {shards.seconds.max():.1f} s, mean {seconds:.1f} s"
        print(f"{len(shards)} clips of {lengths}, {size:.0f} kB of FLAC; {options.repeats} repeats\n")
        print(f"{'':20}  {'median us':>9}  {'least us':>8}  {'x real time':>11}")
        for name, values in times.items():
            median = statistics.median(values)
            print(f"{name:20}  {median:9.0f}  {min(values):8.0f}  {seconds / median * 1e6:11.0f}")
        ratios = [
            bare / whole for bare, whole in zip(times["bare soundfile.read"], times["whole"], strict=True)
        ]
        print(
            f"\nwhole path at {statistics.median(ratios):.2f} of the speed of bare decoding "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()

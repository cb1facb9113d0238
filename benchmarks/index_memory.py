"""What the index of a large dataset takes: memory of each process per row, and time to open.

    python benchmarks/index_memory.py --rows 1000000

Writes shards without content (sparse files) and indexes with made-up columns into a temporary folder. Each
measurement is taken in a fresh process, once with all rows and once with a single shard, and the difference
is reported: of the process that opens them, and of data loader workers that have looked at every column. Rss
counts every page a process has; Pss divides pages by the number of processes that share them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from kikimimi.data.shards.index import write_columns
from kikimimi.data.shards.shards import Shards

KEY = "speaker-%05d/%09d"


def write_indexes(folder: Path, rows: int, per_shard: int) -> None:
    rng = np.random.default_rng(0)
    for shard in range(-(-rows // per_shard)):
        count = min(per_shard, rows - shard * per_shard)
        sizes = rng.integers(60, 600, count) * 512
        ends = np.cumsum(sizes)
        seconds = rng.uniform(1, 20, count).astype(np.float32)
        keys = [(KEY % (shard, number)).encode() for number in range(count)]
        columns = {
            "offsets": ends - sizes,
            "sizes": sizes,
            "seconds": seconds,
            "characters": (seconds * 7).astype(np.int32),
            "hashes": rng.integers(0, 256, (count, 32), dtype=np.uint8),
            "clip_seconds": seconds,
            "clip_ends": np.arange(1, count + 1),
            "languages": np.zeros(count, np.int16),
            "licenses": np.zeros(count, np.int16),
            "key_bytes": np.frombuffer(b"".join(keys), np.uint8),
            "key_ends": np.cumsum([len(key) for key in keys]),
        }
        path = folder / f"train-{shard:06d}.tar"
        with path.open("wb") as tar:
            tar.truncate(int(ends[-1]) + 1024)
        header = {
            "shard": path.name,
            "bytes": int(ends[-1]) + 1024,
            "languages": ["ja"],
            "licenses": ["CC0-1.0"],
            "rejected": [],
        }
        path.with_name(f"{path.name}.index.safetensors").write_bytes(write_columns(columns, header))


def resident() -> dict[str, int]:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    fields = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    return {"Rss": fields["Rss"], "Pss": fields["Pss"], "private": fields["Private_Dirty"]}


class Looker:
    """Looks at every column of some rows, and says what its process takes."""

    def __init__(self, shards: Shards) -> None:
        self.shards = shards

    def __len__(self) -> int:
        return 4

    def __getitem__(self, item: int) -> dict[str, int]:
        shards = self.shards
        for column in (
            "offsets",
            "sizes",
            "seconds",
            "characters",
            "clips",
            "longest",
            "languages",
            "licenses",
        ):
            getattr(shards, column).sum()
        for row in range(0, len(shards), max(1, len(shards) // 20_000)):
            assert shards.where(row)
            assert shards.sha256(row)
        return resident()


def same(item: Any) -> Any:
    return item


def measure(pattern: str, method: str) -> None:
    from torch.utils.data import DataLoader

    begin = time.perf_counter()
    shards = Shards("benchmark", pattern)
    opened = time.perf_counter() - begin
    main_process = resident()
    workers: list[dict[str, int]] = []
    if method != "none":
        loader: Any = DataLoader(
            Looker(shards),  # type: ignore[arg-type]
            batch_size=None,
            collate_fn=same,
            num_workers=2,
            multiprocessing_context=method,
        )
        workers = list(loader)[-2:]  # the last of each worker
    print(json.dumps({"rows": len(shards), "opened": opened, "main": main_process, "workers": workers}))


def run(pattern: str, method: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, __file__, "--measure", pattern, "--method", method],
        capture_output=True,
        text=True,
        check=True,
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--per-shard", type=int, default=1000)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--method", choices=("none", "fork", "spawn"), default="none", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure, options.method)
        return
    with tempfile.TemporaryDirectory() as folder:
        write_indexes(Path(folder), options.rows, options.per_shard)
        size = sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))
        disk = f"{size / options.rows:.0f} bytes a row on disk"
        print(f"{options.rows} rows in shards of {options.per_shard}, {disk}")
        whole, one = f"{folder}/train-*.tar", f"{folder}/train-000000.tar"
        opened = [run(whole, "none") for _ in range(3)]
        print(f"opened in {min(result['opened'] for result in opened):.2f} s (least of 3)\n")
        print("bytes per row      Rss    Pss  private")

        def show(name: str, full: dict[str, int], little: dict[str, int], rows: int) -> None:
            figures = {kind: (full[kind] - little[kind]) / rows for kind in full}
            print(f"{name:15}  {figures['Rss']:5.0f}  {figures['Pss']:5.0f}  {figures['private']:7.0f}")

        alone = run(one, "none")
        rows = options.rows - alone["rows"]
        show("alone", opened[0]["main"], alone["main"], rows)
        for method in ("fork", "spawn"):
            full, little = run(whole, method), run(one, method)
            for number in range(2):
                show(f"{method} worker {number}", full["workers"][number], little["workers"][number], rows)


if __name__ == "__main__":
    main()

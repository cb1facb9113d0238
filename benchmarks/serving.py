"""How a server bears load, beside the same model one request at a time, and how soon the first word comes.

    kikimimi serve RUN --port 8000 &
    python benchmarks/serving.py http://127.0.0.1:8000 --process $! --clips 'clips/*.wav'

Clips are joined and cut to mixed lengths, and sent as transcriptions: first one after the other, then from so
many clients at a time, each of which sends its next request when the last one was answered. Every answer is
compared with the one that its clip got alone. Then, one at a time: the time from the last byte of a clip of
10 s to the first event with text.
"""

from __future__ import annotations

import argparse
import glob
import io
import json
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import NamedTuple

import httpx
import numpy as np
import soundfile

from kikimimi.data.audio import decode

SAMPLE_RATE = 16_000
FIRST_SECONDS = 10.0


class Load(NamedTuple):
    clients: int
    texts: list[str]
    latencies: list[float]
    seconds: float
    refused: int

    def row(self, audio: float) -> str:
        p50, p95 = (float(np.percentile(self.latencies, share)) for share in (50, 95))
        throughput = len(self.texts) / self.seconds
        return (
            f"| {self.clients} | {len(self.texts)} | {p50:.2f} | {p95:.2f} | {throughput:.2f} "
            f"| {audio / self.seconds:.1f} |"
        )


def encoded(samples: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def mixed(paths: Sequence[str], count: int, shortest: float, longest: float) -> list[np.ndarray]:
    speech = [decode(Path(path), sample_rate=SAMPLE_RATE, name=path) for path in paths]
    rng = Random(0)
    made = []
    for number in range(count):
        wanted = round(rng.uniform(shortest, longest) * SAMPLE_RATE)
        pieces = []
        while sum(map(len, pieces)) < wanted:
            pieces.append(speech[(number + len(pieces) * 7) % len(speech)])
        made.append(np.concatenate(pieces)[:wanted])
    return made


def ask(client: httpx.Client, model: str, content: bytes) -> tuple[str, float, int]:
    begin = time.perf_counter()
    refused = 0
    while True:
        got = client.post(
            "/v1/audio/transcriptions", files={"file": ("a.wav", content)}, data={"model": model}
        )
        if got.status_code != 429:
            break
        refused += 1
        time.sleep(float(got.headers["retry-after"]))
    got.raise_for_status()
    return got.json()["text"], time.perf_counter() - begin, refused


def bear(client: httpx.Client, model: str, contents: Sequence[bytes], clients: int) -> Load:
    begin = time.perf_counter()
    with ThreadPoolExecutor(clients) as threads:
        found = list(threads.map(lambda content: ask(client, model, content), contents))
    seconds = time.perf_counter() - begin
    texts, latencies, refused = zip(*found, strict=True)
    return Load(clients, list(texts), list(latencies), seconds, sum(refused))


def first_word(client: httpx.Client, model: str, content: bytes) -> float:
    sent: list[float] = []

    def body() -> object:
        top = '--x\r\nContent-Disposition: form-data; name="{}"{}\r\n\r\n'
        fields = "".join(
            top.format(name, "") + value + "\r\n" for name, value in (("model", model), ("stream", "true"))
        )
        yield fields.encode() + top.format("file", '; filename="a.wav"').encode() + content[:-1000]
        yield content[-1000:] + b"\r\n--x--\r\n"
        sent.append(time.perf_counter())

    with client.stream(
        "POST",
        "/v1/audio/transcriptions",
        content=body(),
        headers={"content-type": "multipart/form-data; boundary=x"},
    ) as got:
        got.raise_for_status()
        for line in got.iter_lines():
            if line.startswith("data: {"):
                kind = json.loads(line[6:])["type"]
                return time.perf_counter() - sent[0] if kind == "transcript.text.delta" else float("nan")
    return float("nan")


def resident(process: int) -> float:
    """Return what a process holds in memory [MB], and the most that it ever held."""
    status = Path(f"/proc/{process}/status").read_text("utf-8")
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url", help="where the server is")
    parser.add_argument("--clips", required=True, help="files with speech")
    parser.add_argument("--process", type=int, help="the server's process, to look at its memory")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 8, 200])
    parser.add_argument("--shortest", type=float, default=2.0, help="[s]")
    parser.add_argument("--longest", type=float, default=15.0, help="[s]")
    parser.add_argument("--repeats", type=int, default=20, help="of the first word")
    options = parser.parse_args()

    clips = mixed(sorted(glob.glob(options.clips)), options.requests, options.shortest, options.longest)
    contents = [encoded(clip) for clip in clips]
    audio = sum(map(len, clips)) / SAMPLE_RATE
    with httpx.Client(
        base_url=options.url, timeout=600, limits=httpx.Limits(max_connections=max(options.clients))
    ) as client:
        model = client.get("/v1/models").json()["data"][0]["id"]
        print(f"{len(clips)} clips of {options.shortest:g} to {options.longest:g} s, {audio / 60:.1f} min\n")
        print("| clients | requests | p50 [s] | p95 [s] | requests/s | x real time |")
        print("|---|---|---|---|---|---|")
        alone: list[str] | None = None
        for clients in options.clients:
            before = resident(options.process) if options.process else None
            load = bear(client, model, contents, clients)
            print(load.row(audio), flush=True)
            alone = alone or load.texts
            swapped = sum(one != other for one, other in zip(alone, load.texts, strict=True))
            told = f"; other than at first: {swapped}; told to come again: {load.refused}"
            if options.process and before is not None:
                told += f"; memory {before:.0f} -> {resident(options.process):.0f} MB"
            print(f"<!-- different texts: {len(set(load.texts))}{told} -->", flush=True)
        long = encoded(np.concatenate([*clips, *clips])[: round(FIRST_SECONDS * SAMPLE_RATE)])
        times = [first_word(client, model, long) for _ in range(options.repeats)]
        print(
            f"\nfirst word of a clip of {FIRST_SECONDS:g} s: median {1000 * statistics.median(times):.0f} ms "
            f"after its last byte ({1000 * min(times):.0f} to {1000 * max(times):.0f} ms, {len(times)} times)"
        )


if __name__ == "__main__":
    main()

"""How long a stream's texts take: python benchmarks/streaming.py RUN SPEECH.wav [SECONDS]

The file is heard in blocks of 100 ms, as fast as it can be. Printed are medians: how long after the last
sample of a segment's speech its end is known, and what computing then takes until its text is there: of the
clock, and of one core, which a busy machine leaves as it is.
"""

import sys
import time
from pathlib import Path
from statistics import median

from kikimimi.data.audio import decode
from kikimimi.inference.stream_transcriber import StreamTranscriber
from kikimimi.inference.transcriber import Transcriber

AROUND = 0.25  # s of silence that a segment ends with


def main(run: str, file: str, seconds: float = 30.0) -> None:
    transcriber = Transcriber.open(Path(run))
    rate = transcriber.sample_rate
    clip = decode(Path(file), sample_rate=rate, name=file)[: int(seconds * rate)]
    for _ in range(2):
        transcriber.transcribe([clip[: 4 * rate]])  # what is slower the first time
    stream = StreamTranscriber(
        lambda heard: transcriber.transcribe([heard])[0],
        sample_rate=rate,
        max_seconds=transcriber.max_seconds,
    )
    waits: list[float] = []
    spent: dict[str, list[tuple[float, float]]] = {"final text": [], "unfinished text": [], "no text": []}
    for start in range(0, len(clip), rate // 10):
        block = clip[start : start + rate // 10]
        began = time.perf_counter(), time.process_time()
        texts = list(stream.push(block))
        took = time.perf_counter() - began[0], time.process_time() - began[1]
        if texts and texts[0].final:
            waits.append((start + len(block)) / rate - (texts[0].segment.end - AROUND))
        kind = "no text" if not texts else "final text" if texts[0].final else "unfinished text"
        spent[kind].append(took)
    print(f"last sample of speech to its end being known: {median(waits):.2f} s")
    for kind, times in spent.items():
        clock, core = (1000 * median(values) for values in zip(*times, strict=True))
        print(f"{kind}: {len(times)} blocks, {clock:.1f} ms of the clock, {core:.1f} ms of a core")


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(float, sys.argv[3:]))

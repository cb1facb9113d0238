"""``kikimimi transcribe`` of what is still being spoken: a growing file, a pipe, the microphone."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from kikimimi.console.terminal import say, say_json, visible

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kikimimi.inference.stream_transcriber import StreamText
    from kikimimi.inference.transcriber import Transcriber

PIPE = Path("-")
"""The standard input."""


class LiveSource(Protocol):
    """Where sound comes from while it is made."""

    rate: int

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Yield (S,) mono float32 as they come."""
        ...

    def stop(self) -> None:
        """Let it end with what there is by now."""
        ...


def listen(
    transcriber: Transcriber,
    source: LiveSource,
    *,
    language: str | None,
    context: str | None,
    pause: float | None,
    as_json: bool,
) -> None:
    """Print what is heard, segment by segment, until the source ends or Ctrl-C is pressed.

    Where the source breaks off, what was heard before is printed all the same.

    Args:
        transcriber: The model.
        source: What it hears.
        language: Language code, or None for the task's own.
        context: Words that help to hear it.
        pause: Shortest silence that ends a segment [s]; None is the usual one.
        as_json: Whether a JSON object is printed for each text, also the unfinished ones.

    Raises:
        AudioError: The source broke off.
    """
    from kikimimi.data.audio import resampled
    from kikimimi.errors import AudioError
    from kikimimi.inference.stream_transcriber import STREAM_PAUSE, StreamTranscriber

    shows_unfinished = as_json or sys.stderr.isatty()
    stream = StreamTranscriber(
        lambda clip: transcriber.transcribe([clip], language, context)[0],
        sample_rate=transcriber.sample_rate,
        max_seconds=transcriber.max_seconds,
        pause=STREAM_PAUSE if pause is None else pause,
        **({} if shows_unfinished else {"step": None}),
    )
    together, broken = source.rate // 20, None
    with _stopped_by_interrupt(source.stop), _shown(as_json) as show:
        try:
            for block in resampled(source.blocks(), source.rate, transcriber.sample_rate, together=together):
                for heard in stream.push(block):
                    show(heard)
        except AudioError as error:
            broken = error
        for heard in stream.finish():
            show(heard)
    if broken is not None:
        raise broken


@contextmanager
def opened_source(path: Path | None, idle: float | None) -> Iterator[LiveSource]:
    """Open a file that grows, the standard input, or, for None, the microphone.

    Raises:
        AudioError: It is no WAV that can be followed.
        KikimimiError: The microphone cannot be used.
    """
    from kikimimi.data.growing import GrowingWav
    from kikimimi.data.microphone import Microphone
    from kikimimi.errors import AudioError

    if path is None:
        yield Microphone()
    elif path == PIPE:
        with open(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as pipe:
            yield GrowingWav(pipe, "standard input", idle=idle)
    else:
        try:
            file = path.open("rb", buffering=0)
        except FileNotFoundError as error:  # it was there when the command began
            raise AudioError(f"{path}: was deleted before it was heard") from error
        with file:
            yield GrowingWav(file, str(path), idle=idle)


@contextmanager
def _stopped_by_interrupt(stop: Callable[[], None]) -> Iterator[None]:
    """Let the first Ctrl-C end the recording: what was said is transcribed. The next one stops at once."""

    def end(*_: object) -> None:
        signal.signal(signal.SIGINT, usual)
        stop()

    usual = signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)


@contextmanager
def _shown(as_json: bool) -> Iterator[Callable[[StreamText], None]]:
    """Give what prints a text: final ones in lines of their own; on a terminal, unfinished ones below."""
    from rich.live import Live
    from rich.text import Text

    from kikimimi.console.rich_console import SafeConsole

    live: Live | None = None

    def clear() -> None:
        nonlocal live
        if live is not None:
            live.stop()
            live = None

    def show(heard: StreamText) -> None:
        nonlocal live
        segment = heard.segment
        if as_json:
            say_json(
                {
                    "final": heard.final,
                    "start": round(segment.start, 3),
                    "end": round(segment.end, 3),
                    "text": segment.text,
                }
            )
            return
        clear()
        if not heard.final:
            shown = Text(visible(segment.text), style="dim", overflow="ellipsis", no_wrap=True)
            live = Live(shown, console=SafeConsole(error=True), auto_refresh=False, transient=True)
            live.start(refresh=True)
        elif segment.text:
            say(visible(segment.text))

    try:
        yield show
    finally:
        clear()

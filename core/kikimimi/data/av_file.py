"""M4A, AAC, WebM and the like, decoded by FFmpeg through PyAV (the extra `formats`).

A file is read with the demuxer of its kind, and never with one of FFmpeg's choice: among them are such as
open other files, or addresses on a network.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kikimimi.data.containers import check_container
from kikimimi.data.content import Content
from kikimimi.data.foreign import ForeignFile
from kikimimi.errors import AudioError, MissingExtraError

_LATE = 0.1  # how much less than its header promises a file may hold [s]: coders add some, and leave it out


_KEPT = 256  # files whose counts are remembered


class _Counted(NamedTuple):
    frames: int
    rate: int
    channels: int


class _Block(NamedTuple):
    samples: NDArray[np.float32]  # (S, channels)
    rate: int
    time: float | None  # where it begins [s]


_known: dict[tuple[int, ...], _Counted] = {}


class AvFile:
    """An open file, read as soundfile's are.

    Args:
        path: The file, as FFmpeg opens it.
        demuxer: FFmpeg's name of its kind.
        counted: What is in it.
        name: The clip, for messages.

    Attributes:
        frames: Number of samples [per channel].
        samplerate: Sampling rate [Hz].
        channels: Number of channels.
        format: FFmpeg's name of its kind.
        extra_info: Nothing: soundfile has libsndfile's log here.
    """

    def __init__(self, path: str, demuxer: str, counted: _Counted, name: str) -> None:
        self.frames, self.samplerate, self.channels = counted
        self.format, self.extra_info = demuxer, ""
        self._decoded = _decoded(path, demuxer, name)
        self._left: NDArray[np.float32] = np.zeros((0, self.channels), np.float32)

    def close(self) -> None:
        """Close it."""
        self._decoded.close()

    def read(self, frames: int, **_: Any) -> NDArray[np.float32]:
        """Return (S, channels) float32, fewer than `frames` only at the end."""
        blocks, length = [self._left], len(self._left)
        while length < frames and (block := next(self._decoded, None)) is not None:
            blocks.append(block.samples)
            length += len(block.samples)
        samples = np.concatenate(blocks)
        self._left = samples[frames:]
        return samples[:frames]


@contextmanager
def av_file(content: Content, kind: ForeignFile, name: str) -> Iterator[AvFile]:
    """Open a file, and count what is in it: headers tell its length roughly, or not at all.

    Raises:
        AudioError: PyAV is not installed, the file breaks off, or it cannot be decoded.
    """
    assert kind.demuxer is not None
    try:
        import av  # noqa: F401 - only whether it is there
    except ImportError:
        raise AudioError(
            str(MissingExtraError(f"{name}: {kind.words}, and reading it", "av", "formats"))
        ) from None
    check_container(content, kind.demuxer, name)
    with content.opened() as descriptor:
        path = f"/dev/fd/{descriptor}"
        counted = _count(path, kind.demuxer, name, content.state)
        file = AvFile(path, kind.demuxer, counted, name)
        try:
            yield file
        finally:
            file.close()


def _count(path: str, demuxer: str, name: str, state: tuple[int, ...] | None) -> _Counted:
    """Count what is in a file, once: many segments may be cut out of it."""
    if state is not None and state in _known:
        return _known[state]
    counted = _counted(path, demuxer, name)
    if state is not None:
        if len(_known) >= _KEPT:
            _known.clear()
        _known[state] = counted
    return counted


def _counted(path: str, demuxer: str, name: str) -> _Counted:
    frames, rate, channels = 0, 0, 0
    first = last = None
    for block, rate, time in _decoded(path, demuxer, name):
        frames, channels = frames + len(block), block.shape[1]
        if time is not None:
            first, last = time if first is None else first, time + len(block) / rate
    if not frames:
        raise AudioError(f"{name}: holds no samples")
    promised = _promised(path, demuxer, name)
    if promised > frames / rate + _LATE:
        raise AudioError(
            f"{name}: breaks off: its header promises {promised:.3f} s, but only "
            f"{frames / rate:.3f} s are there"
        )
    if first is not None and last is not None and last - first > frames / rate + _LATE:
        raise AudioError(
            f"{name}: damaged: it goes from {first:.3f} s to {last:.3f} s, but only {frames / rate:.3f} s "
            "are there"
        )
    return _Counted(frames, rate, channels)


def _promised(path: str, demuxer: str, name: str) -> float:
    """Return the length that a header tells [s], or 0."""
    with _opened(path, demuxer, name) as (container, _):
        # Of AAC alone, FFmpeg guesses it.
        return container.duration / 1_000_000 if container.duration and demuxer != "aac" else 0.0


def _decoded(path: str, demuxer: str, name: str) -> Generator[_Block, None, None]:
    from av.error import FFmpegError

    told = None
    with _opened(path, demuxer, name) as (container, stream):
        try:
            for frame in container.decode(stream):
                block = _samples(frame)
                told = told or (frame.sample_rate, block.shape[1])
                if (frame.sample_rate, block.shape[1]) != told:
                    raise AudioError(
                        f"{name}: changes on the way from {told[0]} Hz, {told[1]} channels to "
                        f"{frame.sample_rate} Hz, {block.shape[1]} channels"
                    )
                yield _Block(block, frame.sample_rate, frame.time)
        except (FFmpegError, ValueError) as error:
            raise AudioError(f"{name}: damaged: {_reason(error)}") from error


@contextmanager
def _opened(path: str, demuxer: str, name: str) -> Iterator[tuple[Any, Any]]:
    import av
    from av.error import FFmpegError

    options = {"protocol_whitelist": "file"}
    try:
        container = av.open(path, format=demuxer, options=options, metadata_errors="ignore")
    except (FFmpegError, ValueError) as error:
        raise AudioError(f"{name}: cannot be decoded: {_reason(error)}") from error
    with container:
        streams = container.streams.audio
        if len(streams) != 1:
            many = "several streams of audio: take one out with ffmpeg -map" if streams else "no audio"
            raise AudioError(f"{name}: holds {many}")
        yield container, streams[0]


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def _samples(frame: Any) -> NDArray[np.float32]:
    """Return a decoded frame as (S, channels) float32 of full scale 1."""
    values: NDArray[Any] = frame.to_ndarray()
    values = values.T if frame.format.is_planar else values.reshape(-1, frame.layout.nb_channels)
    samples = values.astype(np.float32)
    if values.dtype.kind == "f":
        return samples
    full_scale = np.float32(1 << 8 * values.dtype.itemsize - 1)
    return (samples - full_scale if values.dtype.kind == "u" else samples) / full_scale

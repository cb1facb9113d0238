"""Audio files as streams of mono blocks: what they hold is decoded as it is needed, and checked on the way.

libsndfile (through soundfile) decodes. It is given a file that it reads by itself. It also takes any object
with `read` and `seek`, and calls back for every block; but what a signal raises in such a call is lost, and
so is the clip: nothing stops, and a good clip is taken for a broken one.
"""

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from kikimimi.contracts.layout import Clip, Segment, as_on_disk
from kikimimi.data import chunks, flac, ogg
from kikimimi.data.av_file import av_file
from kikimimi.data.codec import MIN_SAMPLE_RATE
from kikimimi.data.content import Content, Pieces, made_of
from kikimimi.data.foreign import foreign_file
from kikimimi.data.mp3 import is_mpeg, may_be_mpeg, with_frames_counted
from kikimimi.errors import AudioError, CancellingError, RequestError, SegmentError

MIN_SECONDS = 0.025
"""Shortest clip [s]: one analysis window of the usual front ends. Nothing can be heard in less."""

MAX_PEAK = 4.0
"""Largest sample of a floating-point file [full scales]. Above it, integers were stored as floats."""

OVERSHOOT = 0.1
"""How far a segment may go past the end of its file [s]; it ends there. Manifests round their lengths."""

_LONGEST = 1e9  # beginning and length of a segment [s]
_CANCELLED = 1e-3
"""Share of the channels' energy below which their average has lost what was said."""

_LOST = 0.1
"""Share of the energy of a clip that may lie in moments where that is so."""

_MOMENT = 0.1  # s

_BLOCK = 1 << 18  # frames per read, of mono and stereo; of more channels fewer: a block's memory is bounded
_READABLE = (
    "Readable: WAV, FLAC, OGG (Vorbis, Opus) and MP3, with the extra kikimimi[formats] also M4A, AAC and "
    "WebM; convert others with ffmpeg"
)
# What libsndfile is trusted with. Of others that it reads, some are read wrongly, others unchecked.
_TRUSTED = {"AIFF", "AU", "CAF", "FLAC", "MP3", "MPEG", "NIST", "OGG", "RF64", "W64", "WAV", "WAVEX"}
# Formats in which libsndfile finds a sample exactly; in others what comes before it is decoded, too.
_SEEKABLE = {"AIFF", "AU", "CAF", "FLAC", "RF64", "W64", "WAV", "WAVEX"}
# libsndfile notes in its log where a header and the file disagree, and then goes on with what is there.
_BROKEN_OFF = re.compile(
    r"^\W*(?:data|SSND|Data Size|riff|Riff size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE
)


class _Decoder(NamedTuple):
    file: Any
    checksum: flac.Checksum | None


class Stream:
    """An audio file, or a segment of one, that is decoded block by block.

    Args:
        decoder: The open file, and the checksum of its samples.
        segment: Part that is wanted.
        name: The clip, for messages.

    Attributes:
        name: The clip, for messages.
        rate: Sampling rate [Hz].
        frames: Number of samples [per channel].
        channels: How many are averaged.
    """

    def __init__(self, decoder: _Decoder, segment: Segment, name: str) -> None:
        file, self._checksum = decoder
        self._file, self.name = file, name
        self.rate = _rate(file, name)
        self._begin, end = _stretch(segment, int(file.frames), self.rate, name)
        self.frames = end - self._begin
        self._channel = _channel(segment, int(file.channels), name)
        self.channels = 1 if segment.channel is not None else int(file.channels)
        self._block = max(1, 2 * _BLOCK // max(2, int(file.channels)))
        if self.frames < MIN_SECONDS * self.rate:
            raise AudioError(
                f"{name}: {self.seconds * 1000:.1f} ms long; the shortest is {MIN_SECONDS * 1000:.0f} ms"
            )

    @property
    def seconds(self) -> float:
        """Length [s]."""
        return self.frames / self.rate

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Yield (S,) mono float32, end to end.

        Raises:
            AudioError: It breaks off, or holds values that are not numbers, or channels that cancel one
                another.
        """
        self._skip()
        checksum = self._checksum if self.frames == self._file.frames else None
        loud = lost = 0.0  # energy of the channels, and of moments in which they cancel one another
        read = 0
        while read < self.frames:
            block = self._file.read(min(self.frames - read, self._block), dtype="float32", always_2d=True)
            if len(block) == 0:
                self._breaks_off(read)
            if checksum is not None:
                checksum.add(block)
            samples = self._mono(block)
            if block.shape[1] > 1 and self._channel is None:
                all_of_it, cancelled = self._energies(block, samples)
                loud, lost = loud + all_of_it, lost + cancelled
            self._check(samples, read)
            read += len(samples)
            yield samples
        if checksum is not None:
            checksum.check()
        if lost > _LOST * loud:
            raise CancellingError(
                f"{self.name}: its {self.channels} channels cancel one another, and their average is "
                "silence: give one of them, or turn one round"
            )

    def _energies(self, block: NDArray[np.float32], samples: NDArray[np.float32]) -> tuple[float, float]:
        """Return the energy of (S, channels) samples, and of moments whose (S,) average has lost it."""
        begins = np.arange(0, len(block), max(1, round(_MOMENT * self.rate)))
        loud = np.add.reduceat(np.einsum("sc,sc->s", block, block) / block.shape[1], begins)
        left = np.add.reduceat(samples * samples, begins)
        return float(loud.sum()), float(loud[left < _CANCELLED * loud].sum())

    def _skip(self) -> None:
        if self._file.format in _SEEKABLE and self._file.seekable():
            self._file.seek(self._begin)
            return
        left = self._begin
        while left:
            skipped = len(self._file.read(min(left, self._block), dtype="float32", always_2d=True))
            if skipped == 0:
                self._breaks_off(-left)
            left -= skipped

    def _mono(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        """Make (S, channels) samples (S,)."""
        if block.shape[1] == 1:
            return block[:, 0]
        if self._channel is not None:
            return np.ascontiguousarray(block[:, self._channel])
        average: NDArray[np.float32] = block.mean(axis=1, dtype=np.float32)
        return average

    def _breaks_off(self, read: int) -> NoReturn:
        promised, there = int(self._file.frames) / self.rate, (self._begin + read) / self.rate
        raise AudioError(
            f"{self.name}: breaks off: its header promises {promised:.3f} s, but only {there:.3f} s are there"
        )

    def _check(self, samples: NDArray[np.float32], read: int) -> None:
        top, bottom = float(samples.max()), float(samples.min())  # what is not a number comes through both
        if not (math.isfinite(top) and math.isfinite(bottom)):
            invalid = int(np.count_nonzero(~np.isfinite(samples)))
            more = "" if read + len(samples) == self.frames else "at least "
            raise AudioError(f"{self.name}: {more}{invalid} samples are not numbers (NaN or infinite)")
        if (peak := max(top, -bottom)) > MAX_PEAK:
            raise AudioError(
                f"{self.name}: samples reach {peak:g} where full scale is 1: integers stored as floats? "
                "Divide them by their full scale"
            )


def _stretch(segment: Segment, frames: int, rate: int, name: str) -> tuple[int, int]:
    """Return where a segment begins and ends [samples]."""
    seconds = segment.seconds
    if not (0 <= segment.start < _LONGEST and (seconds is None or 0 < seconds < _LONGEST)):
        raise SegmentError(
            f"{name}: a segment begins at 0 s or later and is longer than 0 s; this one begins at "
            f"{segment.start:g} s and is {'' if seconds is None else f'{seconds:g} s '}long"
        )
    begin = round(segment.start * rate)
    end = frames if seconds is None else round((segment.start + seconds) * rate)
    if abs(end - frames) <= segment.slack * rate:
        end = frames
    if begin >= frames or end > frames + OVERSHOOT * rate:
        raise SegmentError(
            f"{name}: the segment goes from {segment.start:g} s to {end / rate:g} s, but the file is only "
            f"{frames / rate:.3f} s long"
        )
    return begin, min(end, frames)


def _channel(segment: Segment, channels: int, name: str) -> int | None:
    channel = segment.channel
    if channel is not None and not 0 <= channel < channels:
        there = "0" if channels == 1 else f"0 to {channels - 1}"
        raise SegmentError(f"{name}: has no channel {channel}; channels there: {there}")
    return channel


def no_file(path: Path) -> str:
    """Say what is at a path where there is no plain file; empty where there is one."""
    if os.path.isfile(as_on_disk(path)):  # not that of Path: also where the system does not look it up
        return ""
    if os.path.isdir(path):
        return "is a folder, not an audio file"
    return "is a pipe or a device, not an audio file" if os.path.exists(path) else "no such audio file"


@contextmanager
def opened(source: Clip, name: str) -> Iterator[Stream]:
    """Open an audio file, or a segment of one.

    Raises:
        RequestError: No file is at that path.
        AudioError: As `decode`; what only decoding shows, `Stream.blocks` tells.
    """
    segment = source if isinstance(source, Segment) else Segment(source)
    with _decoder_of(segment.source, name) as decoder:
        yield Stream(decoder, segment, name)


@contextmanager
def _decoder_of(source: bytes | Path, name: str) -> Iterator[_Decoder]:
    source = as_on_disk(source) if isinstance(source, Path) else source
    if isinstance(source, Path) and (problem := no_file(source)):
        where = "" if name == str(source) else f" ({source})"
        raise RequestError(f"{name}: {problem}{where}")
    with Content(source) as content:
        if len(content) == 0:
            raise AudioError(f"{name}: the file is empty (0 bytes)")
        with _decoder(content, name) as decoder:
            yield decoder


@contextmanager
def _decoder(content: Content, name: str) -> Iterator[_Decoder]:
    """Open what decodes a file: see `mp3`, `ogg`, `flac` and `chunks` for what is seen to before."""
    begin, samples, checksum, is_counted = content[:10], None, None, False
    inside: Pieces | None = None
    if begin.startswith(ogg.CAPTURE):
        pieces = inside = ogg.check_whole(content, name)
    elif (stretch := chunks.mpeg_inside(content, name)) is not None:
        pieces = inside = [stretch]
    elif begin.startswith(flac.FLAC_MARK):
        pieces, checksum = flac.read_whole(content, name)
    elif may_be_mpeg(begin) and is_mpeg(content):
        pieces, samples = with_frames_counted(content, name)
        is_counted = True
    elif (kind := foreign_file(content)) is not None:
        if kind.demuxer is None:
            raise AudioError(f"{name}: {kind.words}, which is not read. {_READABLE}")
        with av_file(content, kind, name) as file:
            yield _Decoder(file, None)
        return
    else:
        pieces, samples = chunks.filled(content, name), chunks.promised_frames(content, name)
    if inside is not None:
        with made_of(inside, content) as made, Content(made) as native, _decoder(native, name) as decoder:
            yield decoder
        return
    with (
        content.opened() if pieces is None else made_of(pieces, content) as held,
        _sound_file(held, name) as file,
    ):
        if file.subtype.startswith("MPEG_LAYER") and not is_counted:
            raise AudioError(
                f"{name}: damaged: no whole frames of MPEG audio follow one another where it begins"
            )
        if samples not in (None, file.frames):
            raise AudioError(
                f"{name}: holds {samples} samples of {file.subtype_info}, of which libsndfile would read "
                f"{file.frames}; convert it with ffmpeg"
            )
        yield _Decoder(file, checksum)


@contextmanager
def _sound_file(descriptor: int, name: str) -> Iterator[Any]:
    import soundfile

    try:
        with soundfile.SoundFile(descriptor, closefd=False) as file:
            if file.format not in _TRUSTED:
                raise AudioError(f"{name}: is {file.format_info}, which is not read. {_READABLE}")
            yield file
    except soundfile.LibsndfileError as error:
        raise AudioError(
            f"{name}: cannot be decoded: {error.error_string.rstrip('.')}. {_READABLE}"
        ) from error


def _rate(file: Any, name: str) -> int:
    """Check what a header says; return its sampling rate [Hz]."""
    rate, frames = int(file.samplerate), int(file.frames)
    if rate < MIN_SAMPLE_RATE:
        raise AudioError(f"{name}: its header gives a sampling rate of {rate} Hz (least: {MIN_SAMPLE_RATE})")
    if frames == 0:
        raise AudioError(f"{name}: holds no samples")
    if frames >= 1 << 62:
        raise AudioError(f"{name}: its header does not tell its length (written into a pipe?); write it anew")
    for promised, present in _BROKEN_OFF.findall(file.extra_info):
        if int(present) < int(promised) and not chunks.is_placeholder(int(promised)):
            raise AudioError(
                f"{name}: breaks off: its header promises {promised} bytes, but only {present} are there"
            )
    return rate

"""Audio files: decoding to mono float32 at a wanted rate, and encoding to FLAC or Opus.

libsndfile (through soundfile) decodes; torchaudio resamples, and is imported only when rates differ. What
cannot be used whole is an error: a file that breaks off in the middle is never taken for a shorter one.

Bytes are given to libsndfile as a file that it reads by itself. It also takes any object with `read` and
`seek`, and calls back for every block; but what a signal raises in such a call is lost, and so is the clip:
nothing stops, and a good clip is taken for a broken one.

Opus makes speech a sixth of the size of FLAC: encoding takes a hundred times as long, about a minute of one
core for 20 minutes of speech. The same samples always give the same bytes: libsndfile gives each stream a
random serial number and pads its comments, and both are replaced here. Ogg: RFC 3533. Opus in Ogg: RFC 7845.
"""

import math
import os
import re
import struct
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from fractions import Fraction
from pathlib import Path
from typing import Any, NoReturn, cast

import numpy as np
from numpy.typing import NDArray

from kikimimi.contracts.layout import Clip, Segment
from kikimimi.data import flac, ogg, wav
from kikimimi.data.codec import MIN_SAMPLE_RATE, check_opus_rate
from kikimimi.data.mp3 import Told, is_mpeg, may_be_mpeg, with_frames_counted
from kikimimi.errors import AudioError, CancellingError, RequestError, SegmentError

AUDIO_SUFFIXES = ("flac", "mp3", "ogg", "opus", "wav")
"""File name endings of the formats that a record may carry."""

MIN_SECONDS = 0.025
"""Shortest clip [s]: one analysis window of the usual front ends. Nothing can be heard in less."""

MAX_PEAK = 4.0
"""Largest sample of a floating-point file [full scales]. Above it, integers were stored as floats."""

SILENCE_DBFS = -60.0
"""A clip whose peak is lower [dB relative to full scale] counts as silent."""

OVERSHOOT = 0.1
"""How far a segment may go past the end of its file [s]; it ends there. Manifests round their lengths."""

_CANCELLED = 1e-3
"""Share of the channels' energy below which their average has lost what was said."""

_BLOCK = 1 << 18  # frames per read
# Formats in which libsndfile finds a sample exactly; in others what comes before it is decoded, too.
_SEEKABLE = {"AIFF", "AU", "CAF", "FLAC", "RF64", "W64", "WAV", "WAVEX"}
_MAX_PHASES = 4000  # of the resampling filter; memory grows with its square
# libsndfile notes in its log where a header and the file disagree, and then goes on with what is there.
_BROKEN_OFF = re.compile(
    r"^\W*(?:data|SSND|Data Size|riff|Riff size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE
)
_SERIAL = 0x6B696B69
_TAGS = b"OpusTags" + struct.pack("<I", 8) + b"kikimimi" + struct.pack("<I", 0)  # vendor, no comments
_WRITTEN = 1 << 16  # samples of Opus per write


def decode(source: Clip, *, sample_rate: int, name: str) -> NDArray[np.float32]:
    """Decode an audio file: any rate, width and number of channels of WAV, FLAC, OGG, Opus or MP3.

    Channels are averaged, unless a segment chooses one; `resample` tells how rates are changed. Of a segment,
    the samples from ``round(start * rate)`` to before ``round((start + seconds) * rate)`` are decoded, and no
    others are held: segments that follow one another share no sample and leave none out.

    Args:
        source: The file's bytes or its path, or a segment of either.
        sample_rate: Wanted rate [Hz].
        name: What messages call the clip.

    Returns:
        (S,) mono float32.

    Raises:
        RequestError: No file is at that path.
        AudioError: It is not audio, breaks off, is empty or shorter than `MIN_SECONDS`, or holds values that
            are not numbers, or channels that cancel one another (`CancellingError`). A segment goes past the
            end by more than `OVERSHOOT`, or names a channel that is not there.
    """
    samples, rate = decode_whole(source, name=name)
    return resample(samples, rate, sample_rate)


def decode_whole(source: Clip, *, name: str) -> tuple[NDArray[np.float32], int]:
    """Decode an audio file as `decode` does, at its own rate.

    Returns:
        (S,) mono float32, and the sampling rate [Hz].

    Raises:
        RequestError: No file is at that path.
        AudioError: As `decode`.
    """
    with opened(source, name) as stream:
        return _joined(stream.blocks(), stream.frames), stream.rate


class Stream:
    """An audio file, or a segment of one, that is decoded block by block.

    Args:
        file: The open file.
        segment: Part that is wanted.
        name: The clip, for messages.

    Attributes:
        rate: Sampling rate [Hz].
        frames: Number of samples [per channel].
        channels: How many are averaged.
    """

    def __init__(self, file: Any, segment: Segment, name: str) -> None:
        self._file, self._name = file, name
        self.rate = _rate(file, name)
        self._begin, end = _stretch(segment, int(file.frames), self.rate, name)
        self.frames = end - self._begin
        self._channel = _channel(segment, int(file.channels), name)
        self.channels = 1 if segment.channel is not None else int(file.channels)
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
        loud = left = 0.0  # energy of the channels, and of their average
        read = 0
        while read < self.frames:
            block = self._file.read(min(self.frames - read, _BLOCK), dtype="float32", always_2d=True)
            if len(block) == 0:
                self._breaks_off(read)
            samples = self._mono(block)
            if block.shape[1] > 1 and self._channel is None:
                loud += float(np.vdot(block, block)) / block.shape[1]
                left += float(np.vdot(samples, samples))
            self._check(samples, read)
            read += len(samples)
            yield samples
        if left < _CANCELLED * loud:
            raise CancellingError(
                f"{self._name}: its {self.channels} channels cancel one another, and their average is "
                "silence: give one of them, or turn one round"
            )

    def _skip(self) -> None:
        if self._file.format in _SEEKABLE:
            self._file.seek(self._begin)
            return
        left = self._begin
        while left:
            skipped = len(self._file.read(min(left, _BLOCK), dtype="float32", always_2d=True))
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
            f"{self._name}: breaks off: its header promises {promised:.3f} s, "
            f"but only {there:.3f} s are there"
        )

    def _check(self, samples: NDArray[np.float32], read: int) -> None:
        top, bottom = float(samples.max()), float(samples.min())  # what is not a number comes through both
        if not (math.isfinite(top) and math.isfinite(bottom)):
            invalid = int(np.count_nonzero(~np.isfinite(samples)))
            more = "" if read + len(samples) == self.frames else "at least "
            raise AudioError(f"{self._name}: {more}{invalid} samples are not numbers (NaN or infinite)")
        if (peak := max(top, -bottom)) > MAX_PEAK:
            raise AudioError(
                f"{self._name}: samples reach {peak:g} where full scale is 1: integers stored as floats? "
                "Divide them by their full scale"
            )


def _stretch(segment: Segment, frames: int, rate: int, name: str) -> tuple[int, int]:
    """Return where a segment begins and ends [samples]."""
    seconds = segment.seconds
    if not (0 <= segment.start < math.inf and (seconds is None or 0 < seconds < math.inf)):
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


def _joined(blocks: Iterable[NDArray[np.float32]], frames: int) -> NDArray[np.float32]:
    """Join blocks in memory that grows with what is there: what a header promises is never allocated."""
    samples: NDArray[np.float32] = np.empty(min(frames, _BLOCK), dtype=np.float32)
    filled = 0
    for block in blocks:
        if filled + len(block) > len(samples):
            # In place: never two copies of a long clip. No view of it is alive here.
            samples.resize(min(frames, max(2 * filled, filled + len(block))), refcheck=False)
        samples[filled : filled + len(block)] = block
        filled += len(block)
    samples.resize(filled, refcheck=False)
    return samples


def probe(source: Clip, name: str) -> tuple[float, int, int]:
    """Read the header of an audio file without decoding it.

    Returns:
        Length [s], sampling rate [Hz], channels. Of a segment, its own length, and 1 if it chooses a channel.

    Raises:
        RequestError: No file is at that path.
        AudioError: It is not audio, breaks off (where the header shows it), is empty or shorter than
            `MIN_SECONDS`, or a segment is not there.
    """
    with opened(source, name) as stream:
        return stream.seconds, stream.rate, stream.channels


def resample(samples: NDArray[np.float32], rate: int, wanted: int) -> NDArray[np.float32]:
    """Resample (S,) samples from `rate` to `wanted` [Hz] with torchaudio's windowed sinc.

    Where the ratio of the two would need a filter of more than 4,000 phases (44,101 Hz to 16 kHz), the
    nearest smaller ratio is taken: at most 0.03 % off.
    """
    if rate == wanted:
        return samples
    import torch
    from torchaudio import functional

    ratio = Fraction(rate, wanted)
    if ratio.numerator > _MAX_PHASES or ratio.denominator > _MAX_PHASES:
        small = min(ratio, 1 / ratio).limit_denominator(_MAX_PHASES)
        ratio = small if ratio < 1 else 1 / small
    resampled: NDArray[np.float32] = functional.resample(
        torch.from_numpy(samples), ratio.numerator, ratio.denominator
    ).numpy()
    return resampled


def encode_flac(samples: NDArray[np.float32], sample_rate: int) -> bytes:
    """Encode (S,) mono float32 as 16-bit FLAC; what is too loud is turned down (see `within_full_scale`)."""
    return encode_audio(within_full_scale(samples), sample_rate, kind="FLAC", subtype="PCM_16")


def encode_opus(samples: NDArray[np.float32], sample_rate: int) -> bytes:
    """Encode (S,) mono float32 as Opus in Ogg. Decoding gives S samples again, in time with these.

    What is too loud is turned down (see `within_full_scale`).

    Raises:
        RequestError: Opus has no such sampling rate (`check_opus_rate`).
    """
    import soundfile

    check_opus_rate(sample_rate)
    samples = within_full_scale(samples)
    with memory_file() as held:
        options = {"format": "OGG", "subtype": "OPUS", "closefd": False}
        with soundfile.SoundFile(held, "w", sample_rate, 1, **options) as file:
            for begin in range(0, len(samples), _WRITTEN):
                file.write(samples[begin : begin + _WRITTEN])
        return b"".join(_steady(whole(held)))


def encode_audio(samples: NDArray[np.float32], sample_rate: int, *, kind: str, subtype: str) -> bytes:
    """Encode (S,) or (S, channels) samples as a file of one of libsndfile's formats."""
    import soundfile

    with memory_file() as held:
        soundfile.write(held, samples, sample_rate, format=kind, subtype=subtype, closefd=False)
        return whole(held)


def within_full_scale(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn (S,) samples down by one gain if their peak is above full scale (resampling overshoots).

    Integers would clip it.
    """
    peak = float(np.abs(samples).max(initial=0.0))
    return samples / np.float32(peak) if peak > 1.0 else samples


def is_silent(samples: NDArray[np.float32]) -> bool:
    """Tell whether the peak of (S,) samples is below `SILENCE_DBFS` (-60 dB relative to full scale)."""
    return float(np.abs(samples).max(initial=0.0)) < 10 ** (SILENCE_DBFS / 20)


@contextmanager
def opened(source: Clip, name: str) -> Iterator[Stream]:
    """Open an audio file, or a segment of one.

    Raises:
        RequestError: No file is at that path.
        AudioError: As `decode`; what only decoding shows, `Stream.blocks` tells.
    """
    segment = source if isinstance(source, Segment) else Segment(source)
    with _file(segment.source, name) as file:
        yield Stream(file, segment, name)


@contextmanager
def _file(source: bytes | Path, name: str) -> Iterator[Any]:
    import soundfile

    if isinstance(source, Path):
        if not os.path.isfile(source):  # also where the system refuses to look a path up
            problem = "is a folder, not an audio file" if os.path.isdir(source) else "no such audio file"
            raise RequestError(f"{name}: {problem} ({source})")
        size = source.stat().st_size
    else:
        size = len(source)
    if size == 0:
        raise AudioError(f"{name}: the file is empty (0 bytes)")
    told = _told(source, name)
    source = told.content
    try:
        with (
            nullcontext(source) if isinstance(source, Path) else memory_file(source) as held,
            soundfile.SoundFile(held, closefd=False) as file,
        ):
            if told.samples not in (None, file.frames):
                raise AudioError(
                    f"{name}: holds {told.samples} samples of {file.subtype_info}, of which libsndfile "
                    f"would read {file.frames}; convert it with ffmpeg"
                )
            yield file
    except soundfile.LibsndfileError as error:
        raise AudioError(
            f"{name}: cannot be decoded: {error.error_string.rstrip('.')}. "
            "Readable: WAV, FLAC, OGG (Vorbis, Opus) and MP3; convert others with ffmpeg"
        ) from error


def _told(source: bytes | Path, name: str) -> Told:
    """Return a file as libsndfile reads it whole: see `mp3`, `ogg`, `flac` and `wav`."""
    if isinstance(source, Path):
        with source.open("rb") as file:
            begin = file.read(10)
    else:
        begin = source[:10]
    if not (begin.startswith((ogg.CAPTURE, flac.FLAC_MARK, wav.RIFF_MARK)) or may_be_mpeg(begin)):
        return Told(source, None)
    content = source.read_bytes() if isinstance(source, Path) else source
    if begin.startswith(ogg.CAPTURE):
        ogg.check_whole(content, name)
    elif begin.startswith(flac.FLAC_MARK):
        return Told(flac.with_total(content, name), None)
    elif begin.startswith(wav.RIFF_MARK):
        return Told(wav.filled(content), None)
    elif is_mpeg(content):
        return with_frames_counted(content, name)
    return Told(content, None)


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
        if int(present) < int(promised) and not wav.is_placeholder(int(promised)):
            raise AudioError(
                f"{name}: breaks off: its header promises {promised} bytes, but only {present} are there"
            )
    return rate


@contextmanager
def memory_file(content: bytes = b"") -> Iterator[int]:
    """Open a file that has no name and is gone in the end: in memory where the system knows such files.

    Yields:
        Its descriptor, at the beginning.
    """
    with (
        os.fdopen(os.memfd_create("kikimimi"), "w+b", buffering=0)
        if hasattr(os, "memfd_create")
        else tempfile.TemporaryFile(buffering=0)
    ) as file:
        left = memoryview(content)
        while left:
            left = left[cast(int, file.write(left)) :]  # the system takes 2 GiB at a time
        file.seek(0)
        yield file.fileno()


def whole(descriptor: int) -> bytes:
    """Return all that a memory file holds."""
    with open(descriptor, "rb", buffering=0, closefd=False) as file:
        file.seek(0)
        return file.read()


def _steady(stream: bytes) -> Iterator[bytes]:
    for number, page in enumerate(ogg.pages(stream, "the encoded clip")):
        capture, version, kind, granule, _, sequence, _, _ = page.fields
        lacing, body = page.lacing, page.body
        assert sequence == number
        if number == 1:  # the comments, alone on their page
            assert body.startswith(b"OpusTags")
            assert lacing[-1] < 255
            body, lacing = _TAGS, bytes([len(_TAGS)])
        header = ogg.PAGE_HEADER.pack(capture, version, kind, granule, _SERIAL, sequence, 0, len(lacing))
        made = header + lacing + body
        yield made[: ogg.CRC_AT] + struct.pack("<I", ogg.crc(made)) + made[ogg.CRC_AT + 4 :]

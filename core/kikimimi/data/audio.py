"""Audio files: decoding to mono float32 at a wanted rate, and encoding to FLAC or Opus.

`stream` decodes, block by block; torchaudio resamples, and is imported only when rates differ. What cannot be
used whole is an error: a file that breaks off in the middle is never taken for a shorter one. A clip of any
length is packed, checked and transcribed in the memory of a few blocks (`opened`, `resampled`,
`encode_stream`).

Opus makes speech a sixth of the size of FLAC: encoding takes a hundred times as long, about a minute of one
core for 20 minutes of speech. The same samples always give the same bytes: libsndfile gives each stream a
random serial number and pads its comments, and both are replaced here. Ogg: RFC 3533. Opus in Ogg: RFC 7845.
"""

import math
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kikimimi.console.words import amount
from kikimimi.contracts.layout import Clip
from kikimimi.data import ogg
from kikimimi.data.codec import Codec, check_opus_rate
from kikimimi.data.content import Content, memory_file, whole
from kikimimi.data.stream import Stream, opened
from kikimimi.errors import AudioError

AUDIO_SUFFIXES = ("flac", "mp3", "ogg", "opus", "wav")
"""File name endings of the formats that a record may carry."""

MAX_CLIP_SECONDS = 3600.0
"""Longest clip of a record that is decoded [s]: it is held whole, as 230 MB at 16 kHz."""

SILENCE_DBFS = -60.0
"""A clip whose peak is lower [dB relative to full scale] counts as silent."""

_BLOCK = 1 << 18  # samples that are allocated first
_RESAMPLED = 1 << 21  # samples that are resampled together
_FILTER_WIDTH = 6 / 0.99  # torchaudio's lowpass_filter_width and rolloff
_MAX_PHASES = 4000  # of the resampling filter; memory grows with its square
_SERIAL = 0x6B696B69
_TAGS = b"OpusTags" + struct.pack("<I", 8) + b"kikimimi" + struct.pack("<I", 0)  # vendor, no comments
_WRITTEN = 1 << 16  # samples per write
_ANY_SIZE = 1 << 62
_CODECS = {"flac": {"format": "FLAC", "subtype": "PCM_16"}, "opus": {"format": "OGG", "subtype": "OPUS"}}


def decode(
    source: Clip, *, sample_rate: int, name: str, max_seconds: float = math.inf
) -> NDArray[np.float32]:
    """Decode an audio file: any rate, width and number of channels of WAV, FLAC, OGG, Opus or MP3.

    Channels are averaged, unless a segment chooses one; `resample` tells how rates are changed. Of a segment,
    the samples from ``round(start * rate)`` to before ``round((start + seconds) * rate)`` are decoded, and no
    others are held: segments that follow one another share no sample and leave none out.

    Args:
        source: The file's bytes or its path, or a segment of either.
        sample_rate: Wanted rate [Hz].
        name: What messages call the clip.
        max_seconds: Longest clip that is decoded [s].

    Returns:
        (S,) mono float32.

    Raises:
        RequestError: No file is at that path.
        AudioError: It is longer than `max_seconds`, is not audio, breaks off, is empty or shorter than
            `MIN_SECONDS`, or holds values that are not numbers, or channels that cancel one another
            (`CancellingError`). A segment is not there (`SegmentError`).
    """
    with opened(source, name) as stream:
        if stream.seconds > max_seconds:
            raise AudioError(
                f"{name}: lasts {amount(stream.seconds)}; at most {amount(max_seconds)} are decoded at once"
            )
        return decode_opened(stream, sample_rate)


def decode_opened(stream: Stream, sample_rate: int) -> NDArray[np.float32]:
    """Decode a file that is open, at a wanted rate [Hz], as `decode` does.

    Returns:
        (S,) mono float32.

    Raises:
        AudioError: As `Stream.blocks`.
    """
    frames = math.ceil(stream.frames * sample_rate / stream.rate)
    return _joined(resampled(stream.blocks(), stream.rate, sample_rate), frames)


def decode_blocks(source: Clip, *, sample_rate: int, name: str) -> Iterator[NDArray[np.float32]]:
    """Decode an audio file as `decode` does, block by block.

    Yields:
        (S,) mono float32, end to end.

    Raises:
        RequestError: No file is at that path.
        AudioError: As `decode`; what is wrong with the whole of it is told after its last block.
    """
    with opened(source, name) as stream:
        yield from resampled(stream.blocks(), stream.rate, sample_rate)


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


def _joined(blocks: Iterable[NDArray[np.float32]], frames: int) -> NDArray[np.float32]:
    """Join blocks, of about so many frames, in memory that grows with what is there."""
    samples: NDArray[np.float32] = np.empty(min(frames, _BLOCK), dtype=np.float32)
    filled = 0
    for block in blocks:
        if filled + len(block) > len(samples):
            # In place: never two copies of a long clip. No view of it is alive here.
            samples.resize(max(filled + len(block), min(frames, 2 * filled)), refcheck=False)
        samples[filled : filled + len(block)] = block
        filled += len(block)
    samples.resize(filled, refcheck=False)
    return samples


def check_sound(source: Clip, name: str) -> float:
    """Decode an audio file to its end, block by block, and keep nothing.

    Returns:
        Its length [s].

    Raises:
        RequestError: No file is at that path.
        AudioError: As `decode`.
    """
    with opened(source, name) as stream:
        return sum(len(block) for block in stream.blocks()) / stream.rate


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
    first, *others = resampled([samples], rate, wanted)
    return np.concatenate([first, *others]) if others else first


def resampled(
    blocks: Iterable[NDArray[np.float32]], rate: int, wanted: int, *, together: int | None = None
) -> Iterator[NDArray[np.float32]]:
    """Resample (S,) blocks that follow one another as `resample` does all of them together.

    Each piece is resampled with as much before and after it as the filter is wide.

    Args:
        blocks: The samples.
        rate: Their rate [Hz].
        wanted: Wanted rate [Hz].
        together: Samples that are waited for, about; few where somebody waits for what comes of them. None
            is many, which is fast.

    Yields:
        (S,) blocks, of other lengths.
    """
    if rate == wanted:
        yield from blocks
        return
    ratio = Fraction(rate, wanted)
    if ratio.numerator > _MAX_PHASES or ratio.denominator > _MAX_PHASES:
        small = min(ratio, 1 / ratio).limit_denominator(_MAX_PHASES)
        ratio = small if ratio < 1 else 1 / small
    old, new = ratio.numerator, ratio.denominator  # so many samples become so many
    around = math.ceil(_FILTER_WIDTH / min(old, new)) + 1  # in units of them
    units = max((together or _RESAMPLED) // max(old, new), around)
    held: list[NDArray[np.float32]] = []
    before = length = 0
    for block in blocks:
        held.append(block)
        length += len(block)
        while length >= (before + units + around) * old:
            samples = np.concatenate(held)
            piece = _resampled(samples[: (before + units + around) * old], old, new)
            yield piece[before * new : (before + units) * new]
            held = [samples[(before + units - around) * old :]]
            before, length = around, len(held[0])
    if length:
        yield _resampled(np.concatenate(held) if len(held) > 1 else held[0], old, new)[before * new :]


def _resampled(samples: NDArray[np.float32], old: int, new: int) -> NDArray[np.float32]:
    import torch
    from torchaudio import functional

    made: NDArray[np.float32] = functional.resample(torch.from_numpy(samples), old, new).numpy()
    return made


class OversizeError(AudioError):
    """A clip takes more bytes, once it is encoded, than it may."""


class Encoded(NamedTuple):
    """A clip that was encoded.

    Attributes:
        content: The file.
        samples: Number of its samples.
        silent: Whether its peak is below `SILENCE_DBFS`.
    """

    content: bytes
    samples: int
    silent: bool


def encode_stream(
    blocks: Callable[[], Iterable[NDArray[np.float32]]],
    sample_rate: int,
    codec: Codec,
    *,
    most_bytes: int,
    name: str,
) -> Encoded:
    """Encode mono float32 block by block, to the bytes that `encode_flac` or `encode_opus` makes.

    Args:
        blocks: Gives the (S,) blocks, from the beginning each time: what is too loud is turned down by one
            gain, and so is gone through twice.
        sample_rate: Their rate [Hz].
        codec: What is made.
        most_bytes: How many bytes it may take.
        name: What messages call the clip.

    Raises:
        OversizeError: It takes more.
        RequestError: Opus has no such sampling rate.
    """
    if codec == "opus":
        check_opus_rate(sample_rate)
    samples, peak, full_scale = 0, 0.0, 1.0
    while True:
        with memory_file() as held:
            samples, peak = _encode(blocks(), full_scale, sample_rate, codec, held, most_bytes, name)
            if peak <= full_scale:
                content = whole(held)
                break
            full_scale = peak
    if codec == "opus":
        content = b"".join(_steady(content))
    return Encoded(content, samples, _is_silent(peak))


def _encode(
    blocks: Iterable[NDArray[np.float32]],
    full_scale: float,
    sample_rate: int,
    codec: Codec,
    held: int,
    most_bytes: int,
    name: str,
) -> tuple[int, float]:
    """Encode into an open file; return the number of samples, and their peak."""
    import soundfile

    samples, peak = 0, 0.0
    with soundfile.SoundFile(held, "w", sample_rate, 1, closefd=False, **_CODECS[codec]) as file:  # pyright: ignore[reportArgumentType]
        for block in blocks:
            peak = max(peak, _peak(block))
            scaled = block / np.float32(full_scale) if full_scale > 1.0 else block
            for begin in range(0, len(block), _WRITTEN):
                file.write(scaled[begin : begin + _WRITTEN])
            samples += len(block)
            if os.fstat(held).st_size > most_bytes:
                raise OversizeError(f"{name}: takes more than {round(most_bytes / (1 << 20))} MiB as {codec}")
    return samples, peak


def encode_flac(samples: NDArray[np.float32], sample_rate: int) -> bytes:
    """Encode (S,) mono float32 as 16-bit FLAC; what is too loud is turned down by one gain.

    Resampling overshoots, and integers would clip it.
    """
    return encode_stream(lambda: [samples], sample_rate, "flac", most_bytes=_ANY_SIZE, name="").content


def encode_opus(samples: NDArray[np.float32], sample_rate: int) -> bytes:
    """Encode (S,) mono float32 as Opus in Ogg. Decoding gives S samples again, in time with these.

    What is too loud is turned down, as `encode_flac` does it.

    Raises:
        RequestError: Opus has no such sampling rate (`check_opus_rate`).
    """
    return encode_stream(lambda: [samples], sample_rate, "opus", most_bytes=_ANY_SIZE, name="").content


def encode_audio(samples: NDArray[np.float32], sample_rate: int, *, kind: str, subtype: str) -> bytes:
    """Encode (S,) or (S, channels) samples as a file of a format of libsndfile, always to the same bytes."""
    import soundfile

    with memory_file() as held:
        soundfile.write(held, samples, sample_rate, format=kind, subtype=subtype, closefd=False)
        content = whole(held)
    # Floats come with their peak, and the time at which it was written.
    peak = content.find(b"PEAK", 0, content.find(b"data")) if kind == "WAV" else -1
    return content if peak < 0 else content[: peak + 12] + bytes(4) + content[peak + 16 :]


def is_silent(samples: NDArray[np.float32]) -> bool:
    """Tell whether the peak of (S,) samples is below `SILENCE_DBFS` (-60 dB relative to full scale)."""
    return _is_silent(_peak(samples))


def _is_silent(peak: float) -> bool:
    return peak < 10 ** (SILENCE_DBFS / 20)


def _peak(samples: NDArray[np.float32]) -> float:
    return float(np.abs(samples).max(initial=0.0))


def _steady(stream: bytes) -> Iterator[bytes]:
    for number, page in enumerate(ogg.pages(Content(stream), "the encoded clip")):
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

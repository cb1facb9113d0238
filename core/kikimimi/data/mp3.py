"""MPEG audio (MP3): the frames that are there are counted, as headers guess at their number.

libsndfile takes the length of a stream from its frame of information (Xing, Info, VBRI). Without one it
estimates, from the bit rate of the first frame, and reads no further: variable rates are cut, and constant
ones seem to break off. So frames are walked here, from header to header (ISO/IEC 11172-3, section 2.4.2.3;
13818-3 for the lower rates), and where the frame of information is missing, or tells another number, one with
the right number is put before them. What is decoded is then what ffmpeg decodes.
"""

import struct
from dataclasses import dataclass
from typing import NamedTuple

from kikimimi.data.content import Content, Pieces
from kikimimi.errors import AudioError

_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
"""Sampling rates [Hz] by the bits of the version: MPEG-1, MPEG-2, MPEG-2.5."""
_BIT_RATES = {
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""Bit rates [kbit/s] by whether it is MPEG-1, and by layer."""
_MONO = 3
_PADDING = 1 << 16  # zeros after a tag, at most [bytes]
_DELAY = 529
"""Samples that a decoder is late (mpg123's GAPLESS_DELAY)."""


class _Header(NamedTuple):
    version: int
    layer: int
    rate: int
    mono: bool
    size: int
    protected: bool

    @property
    def samples(self) -> int:
        """Samples of a frame, of each channel."""
        return 384 if self.layer == 1 else 576 if self.layer == 3 and self.version != 3 else 1152

    @property
    def side_bytes(self) -> int:
        """Bytes of side information of a frame of layer III."""
        if self.version == 3:
            return 17 if self.mono else 32
        return 9 if self.mono else 17


def _parse(content: Content | bytes, at: int) -> _Header | None:
    if at + 4 > len(content):
        return None
    word = int.from_bytes(content[at : at + 4], "big")
    version, layer = word >> 19 & 3, 4 - (word >> 17 & 3)
    bit_rate, rate = word >> 12 & 15, word >> 10 & 3
    if word >> 21 != 0x7FF or version == 1 or layer == 4 or bit_rate in (0, 15) or rate == 3:
        return None
    first = version == 3
    hertz, bits = _RATES[version][rate], _BIT_RATES[first, layer][bit_rate - 1] * 1000
    padding = word >> 9 & 1
    if layer == 1:
        size = (12 * bits // hertz + padding) * 4
    else:
        size = (144 if first or layer == 2 else 72) * bits // hertz + padding
    return _Header(version, layer, hertz, word >> 6 & 3 == _MONO, size, not word >> 16 & 1)


class _Promise(NamedTuple):
    """What a frame of information says of those after it; 0 where it says nothing."""

    frames: int
    size: int


@dataclass
class _Part:
    """Frames that were written together, and what the one of information before them says."""

    promise: _Promise | None
    trusted: bool = True
    frames: int = 0
    size: int = 0

    def breaks_off(self) -> bool:
        """Tell whether frames are missing. Some programs count the frame of information as well."""
        if self.promise is None or self.frames >= self.promise.frames:
            return False
        return self.promise != (self.frames + 1, self.size)


class Told(NamedTuple):
    """How libsndfile reads a file to its end.

    Attributes:
        pieces: What the file is to be made of, or None where it can stay as it is.
        samples: Samples that are in it [per channel], where libsndfile could not be told; else None.
    """

    pieces: Pieces | None = None
    samples: int | None = None


def may_be_mpeg(begin: bytes) -> bool:
    """Tell whether a file that begins like this can be one: with tags, or a frame."""
    return begin.startswith((b"ID3", b"APETAGEX")) or (begin[:1] == b"\xff" and begin[1:2] >= b"\xe0")


def is_mpeg(content: Content | bytes) -> bool:
    """Tell whether a file begins, after its tags, with two frames of MPEG audio."""
    at = _first_frame(content)
    header = _parse(content, at)
    if header is None:
        return False
    end = at + header.size
    return end == len(content) or _parse(content, end) is not None or after_tags(content, end) > end


def with_frames_counted(content: Content | bytes, name: str) -> Told:
    """Count the frames of a file, and make its header tell their number.

    Args:
        content: The file; of several that were joined, the frames of all are taken.
        name: The clip, for messages.

    Raises:
        AudioError: It breaks off, is damaged, or changes its sampling rate on the way.
    """
    end = before_tags(content)
    at = _first_frame(content)
    is_padded = at > after_tags(content, 0)
    first = _parse(content, at)
    assert first is not None
    parts: list[_Part] = []
    audio: list[tuple[int, int]] = []
    while at < end:
        header = _parse(content, at)
        if header is None:
            after = after_tags(content, at)
            if after > at:
                at = after
                continue
            if end - at < first.size and not any(content[at:end]):
                break  # padding
            raise AudioError(
                f"{name}: damaged: at byte {at} of {len(content)} a frame of MPEG audio should begin"
            )
        if (header.version, header.layer, header.rate) != (first.version, first.layer, first.rate):
            raise AudioError(
                f"{name}: changes at byte {at} from {first.rate} Hz (layer {first.layer}) to "
                f"{header.rate} Hz (layer {header.layer}): files that do not fit "
                "together were joined, or it is damaged"
            )
        if at + header.size > end:
            missing = at + header.size - end
            raise AudioError(
                f"{name}: breaks off: {missing} bytes of the last frame of MPEG audio are missing"
            )
        promise = _promise(content, at, header)
        if promise is not None or not parts:
            parts.append(_Part(promise, promise is None or _is_as_written(content, at, header)))
        parts[-1].size += header.size
        if promise is None:
            parts[-1].frames += 1
            if audio and audio[-1][1] == at:
                audio[-1] = (audio[-1][0], at + header.size)
            else:
                audio.append((at, at + header.size))
        at += header.size
    for part in parts:
        if part.promise is not None and part.breaks_off():
            raise AudioError(
                f"{name}: breaks off: its header promises {part.promise.frames} frames of MPEG audio, but "
                f"only {part.frames} are there"
            )
    frames = sum(part.frames for part in parts)
    if first.layer != 3:
        return Told(samples=frames * first.samples)
    told = parts[0].promise is not None and parts[0].promise.frames == frames
    if len(parts) == 1 and told and parts[0].trusted and not is_padded:
        return Told()
    if not audio:
        raise AudioError(f"{name}: holds no samples")
    leader = _leader(content[audio[0][0] : audio[0][0] + 4], frames)
    return Told([leader, *audio])


def _promise(content: Content | bytes, at: int, header: _Header) -> _Promise | None:
    """Read a frame of information: Xing's, LAME's (Info) or Fraunhofer's (VBRI); None for one of audio."""
    if header.layer != 3:
        return None
    frame = content[at : at + header.size]
    info = 4 + header.side_bytes
    if frame[info : info + 4] in (b"Xing", b"Info") and not any(frame[6:info]):
        flags, *numbers = struct.unpack_from(">III", frame[info + 4 :].ljust(12, b"\0"))
        frames = numbers.pop(0) if flags & 1 else 0
        return _Promise(frames, numbers.pop(0) if flags & 2 else 0)
    if frame[36:40] == b"VBRI" and len(frame) >= 54:
        size, frames = struct.unpack_from(">II", frame, 46)
        return _Promise(frames, size)
    return None


def _is_as_written(content: Content | bytes, at: int, header: _Header) -> bool:
    """Tell whether the checksum of a frame of information fits, where the frame says what is to be trimmed.

    LAME's extension (gabriel.mp3-tech.org/mp3infotag.html) holds the samples to leave out at both ends, 12
    bits each: one that is damaged would cut what was said.
    """
    frame = content[at : at + header.size]
    info = 4 + header.side_bytes
    (flags,) = struct.unpack_from(">I", frame[info + 4 :].ljust(4, b"\0"))
    begin = info + 8 + sum(size for bit, size in enumerate((4, 4, 100, 4)) if flags >> bit & 1)
    extension = frame[begin : begin + 36]
    if len(extension) < 36 or not any(extension[21:24]):
        return True
    (told,) = struct.unpack(">H", extension[34:])
    before = frame[: begin + 34]
    # LAME sums what stands before; FFmpeg as many bytes as that is in stereo of MPEG-1.
    return told in (_crc(before), _crc((before + b"\0\0" + frame[begin + 36 :].ljust(190, b"\0"))[:190]))


def _crc(data: bytes) -> int:
    """Return the CRC-16 (ANSI, reflected) of some bytes."""
    found = 0
    for byte in data:
        found ^= byte
        for _ in range(8):
            found = found >> 1 ^ (0xA001 if found & 1 else 0)
    return found


def _leader(header: bytes, frames: int) -> bytes:
    """Make what makes libsndfile decode frames with a header like that, all of them and nothing else.

    It is a frame of information and one of silence. Where the number of frames is known, libsndfile leaves
    out its decoder's delay at the beginning, and as much at the end as the information says: here that is the
    frame of silence, and nothing of the others.
    """
    word = int.from_bytes(header, "big") & ~(0xF << 12 | 1 << 9) | 1 << 16  # no padding, no checksum
    for bit_rate in range(1, 15):
        made = (word | bit_rate << 12).to_bytes(4, "big")
        parsed = _parse(made, 0)
        assert parsed is not None
        trimmed = (parsed.samples - _DELAY) << 12 | _DELAY  # before and after
        lame = b"kikimimi".ljust(21, b"\0") + trimmed.to_bytes(3, "big") + bytes(12)
        info = made + bytes(parsed.side_bytes) + b"Info" + struct.pack(">II", 1, frames + 1) + lame
        if parsed.size >= len(info):
            return info.ljust(parsed.size, b"\0") + made.ljust(parsed.size, b"\0")
    raise AssertionError("the largest frames have room for it")


def _first_frame(content: Content | bytes) -> int:
    """Return where the first frame should begin: after tags, which zeros may follow."""
    at = after_tags(content, 0)
    padded = content[at : at + _PADDING]
    return at + len(padded) - len(padded.lstrip(b"\0"))


def after_tags(content: Content | bytes, at: int) -> int:
    """Return where the tags end that begin there: ID3v2, APEv2, ID3v1 (of a file that others follow)."""
    while True:
        if content[at : at + 3] == b"ID3" and at + 10 <= len(content):
            size = 0
            for byte in content[at + 6 : at + 10]:
                size = size << 7 | byte & 0x7F
            at += 10 + size + (10 if content[at + 5 : at + 6][0] & 0x10 else 0)
        elif content[at : at + 8] == b"APETAGEX" and at + 32 <= len(content):
            at += 32 + struct.unpack("<I", content[at + 12 : at + 16])[0]
        elif content[at : at + 3] == b"TAG" and at + 128 <= len(content):
            at += 128
        else:
            return at


def before_tags(content: Content | bytes) -> int:
    """Return where the tags begin that a file ends with: ID3v1, Lyrics3, APEv2."""
    end = len(content)
    while True:
        if content[max(end - 128, 0) : end][:3] == b"TAG":
            end -= 128
        elif content[max(end - 9, 0) : end] == b"LYRICS200" and content[end - 15 : end - 9].isdigit():
            end -= 15 + int(content[end - 15 : end - 9])
        elif content[max(end - 32, 0) : end][:8] == b"APETAGEX":
            size, _, flags = struct.unpack("<III", content[end - 20 : end - 8])
            end -= max(size, 32) + (32 if flags & 1 << 31 else 0)
        else:
            return max(end, 0)

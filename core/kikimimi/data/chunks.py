"""Files of chunks (WAV, RF64, W64, AIFF, AU, CAF): sizes that were never filled in, and joined files.

A program that writes into a pipe cannot go back and fill in a size: what stands there means that the samples
go on to the end of the file. Where that is not so (SoX writes its headers once more), the file is refused.
libsndfile reads the first of several files that were joined.
"""

import math
import re
import struct
from collections.abc import Callable

from kikimimi.data.content import Content, Pieces
from kikimimi.errors import AudioError

_PLACEHOLDERS = (1 << 30, 2_000_000_000)
"""What programs write in place of a size that they do not know, beside numbers that no file reaches."""
_NO_SIZE = 0x7F000000
_AROUND = 64
"""Bytes of a header that are added to such a number, or taken from it."""
_W64_MARK = bytes.fromhex("726966662e91cf11a5d628db04c10000")
_W64_DATA = bytes.fromhex("64617461f3acd3118cd100c04f8edb8a")
_NIST_FIELD = re.compile(r"^(\w+) -i (\d+)\s*$", re.MULTILINE)
_PLAIN = (1, 3, 6, 7, 0xFFFE)
"""Codes of formats of so many bytes a sample: integers, floats, A-law, mu-law, one with a name of its own."""
_MPEG = (0x50, 0x55)
"""Codes of MPEG audio: frames that know nothing of the chunks around them."""
_TRAILING = 1024  # bytes after the samples that programs leave behind
_LARGEST_TABLE = 1 << 22  # of packets [bytes]: those of days
_IMA_PACKET = 64  # samples
_CAF_DATA = 4  # bytes of a chunk of samples before them


def is_placeholder(size: int) -> bool:
    """Tell whether a size [bytes] stands for one that was not known."""
    return size >= _NO_SIZE or any(abs(size - number) <= _AROUND for number in _PLACEHOLDERS)


def filled(content: Content, name: str) -> Pieces | None:
    """Fill in the size of the samples where it was left out and they follow, to the end of the file.

    Returns:
        What the file is to be made of; None where it can stay as it is, or is no such file.

    Raises:
        AudioError: Files were joined, or it is not told how many samples there are.
    """
    fill = _KINDS.get(content[:4])
    return fill(content, name) if fill is not None else None


def mpeg_inside(content: Content, name: str) -> tuple[int, int] | None:
    """Return where the frames of MPEG audio of a WAV begin and end [bytes]; None where it holds none.

    Raises:
        AudioError: The file breaks off, or files were joined.
    """
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        return None
    _check_joined(content, 8 + int.from_bytes(content[4:8], "little"), b"RIFF", name)
    at, is_mpeg = 12, False
    while at + 8 <= len(content):
        kind, size = struct.unpack("<4sI", content[at : at + 8])
        begin = at + 8
        if kind == b"fmt ":
            is_mpeg = int.from_bytes(content[begin : begin + 2], "little") in _MPEG
        if kind == b"data" and is_mpeg and content[begin : begin + 4] != b"RIFF":
            end = len(content) if not size or is_placeholder(size) else begin + size
            if end > len(content):
                raise AudioError(
                    f"{name}: breaks off: its header promises {size} bytes, but only {len(content) - begin} "
                    "are there"
                )
            return begin, end
        at = begin + size + size % 2
    return None


def _wav(content: Content, name: str) -> Pieces | None:
    (outer,) = struct.unpack("<I", content[4:8].ljust(4, b"\0"))
    _check_joined(content, 8 + outer + outer % 2, b"RIFF", name)
    at = 12
    while at + 8 <= len(content):
        kind, size = struct.unpack("<4sI", content[at : at + 8])
        begin = at + 8
        if kind == b"fmt " and size >= 16:
            _check_format(content[begin : begin + 16], name)
        if kind == b"data":
            left = len(content) - begin
            unknown = is_placeholder(size) or not (size or not left or _are_chunks(content, begin))
            if unknown and (second := content.find(b"WAVEfmt ", begin)) > 0:
                raise _joined(second - 8, "RIFF", name)
            if unknown and not is_placeholder(outer) and 8 + outer > len(content) + 1:
                raise AudioError(
                    f"{name}: breaks off, or its header is damaged: it promises a file of {8 + outer} bytes, "
                    f"but only {len(content)} are there, and not how many of them are samples"
                )
            if size or not unknown:
                _check_rest(content, begin, size, name, outer=8 + outer)
                return None
            return [content[: at + 4], struct.pack("<I", min(left, 0xFFFFFFFF)), (begin, len(content))]
        at = begin + size + size % 2
    return None


def _check_format(form: bytes, name: str) -> None:
    """Check that the fields of a WAV agree: else other samples, or another length, would be made of it."""
    code, channels, rate, per_second, per_frame, bits = struct.unpack("<HHIIHH", form.ljust(16, b"\0"))
    if code not in _PLAIN or not (channels and per_frame and per_second):
        return
    if per_second != rate * per_frame or per_frame % channels or per_frame // channels * 8 < bits:
        raise AudioError(
            f"{name}: damaged: its header disagrees with itself: {rate} Hz, {channels} channels of {bits} "
            f"bits, but {per_frame} bytes for a sample of all channels and {per_second} bytes a second"
        )


def _are_chunks(content: Content, at: int) -> bool:
    """Tell whether nothing but further chunks follows: then there are no samples."""
    while at + 8 <= len(content):
        kind, size = struct.unpack("<4sI", content[at : at + 8])
        if not all(32 <= byte < 127 for byte in kind):
            return False
        at += 8 + size + size % 2
    return at in (len(content), len(content) + 1)


def _check_rest(content: Content, begin: int, size: int, name: str, *, outer: int = 0) -> None:
    """Check that after the samples that a header promises nothing follows that may be others."""
    end = begin + size + size % 2
    left = len(content) - end
    allowed = 7 if outer == len(content) else _TRAILING
    if is_placeholder(size) or left <= allowed or _are_chunks(content, end) or content.is_padding(end):
        return
    if content[end : end + 3] not in (b"TAG", b"ID3"):
        raise AudioError(
            f"{name}: its header promises {size} bytes of samples, but {left} more follow that are nothing "
            "else: damaged, or its size was never filled in"
        )


def _rf64(content: Content, name: str) -> Pieces | None:
    kind, _, outer, size, frames = struct.unpack("<4sIQQQ", content[12:44].ljust(32, b"\0"))
    _check_joined(content, 8 + outer, b"RF64", name)
    form = content.find(b"fmt ", 36, 4096)
    if form > 0:
        _check_format(content[form + 8 : form + 24], name)
    at = content.find(b"data\xff\xff\xff\xff", 36)
    if kind != b"ds64" or at < 0:
        return None
    if not size or is_placeholder(size):  # the other fields may tell what was there
        samples = frames * int.from_bytes(content[form + 20 : form + 22], "little") if form > 0 else 0
        for promised in (8 + outer, at + 8 + samples):
            if not is_placeholder(promised) and promised > len(content) + 1:
                raise AudioError(
                    f"{name}: breaks off, or its header is damaged: it promises a file of {promised} bytes, "
                    f"but only {len(content)} are there"
                )
    if size:
        _check_rest(content, at + 8, size, name)
        return None
    return [content[:28], struct.pack("<Q", len(content) - at - 8), (36, len(content))]


def _w64(content: Content, name: str) -> Pieces | None:
    (outer,) = struct.unpack("<q", content[16:24].ljust(8, b"\0"))
    _check_joined(content, outer, _W64_MARK, name)
    at = 40
    while at + 24 <= len(content):
        kind, size = content[at : at + 16], struct.unpack("<q", content[at + 16 : at + 24])[0]
        if kind.startswith(b"fmt "):
            _check_format(content[at + 24 : at + 40], name)
        if kind == _W64_DATA:
            if 0 <= size <= 24 < len(content) - at:
                raise _unknown(name)
            end = at + size
            if size < 24 or end >= len(content):
                return None
            if not _are_w64_chunks(content, end + -size % 8):
                _check_rest(content, at + 24, size - 24, name, outer=outer)
            # libsndfile takes what follows the samples for more of them.
            return [content[:16], struct.pack("<q", end), (24, end)]
        if size < 24:
            return None
        at += size + -size % 8
    return None


def _are_w64_chunks(content: Content, at: int) -> bool:
    """Tell whether nothing but further chunks follows."""
    while at + 24 <= len(content):
        size = struct.unpack("<q", content[at + 16 : at + 24])[0]
        if size < 24:
            return False
        at += size + -size % 8
    return len(content) <= at < len(content) + 8


def _caf(content: Content, name: str) -> Pieces | None:
    at = 8
    while at + 12 <= len(content):
        kind, size = struct.unpack(">4sq", content[at : at + 12])
        left = len(content) - at - 12
        if kind == b"caff":
            raise _joined(at, "CAF", name)
        if kind == b"data" and size < 0:
            return [content[: at + 4], struct.pack(">q", left), (at + 12, len(content))]
        if kind == b"data" and size == _CAF_DATA < left:
            raise _unknown(name)
        if size > left:
            raise AudioError(
                f"{name}: breaks off: its header promises {size} bytes, but only {left} are there"
            )
        at += 12 + max(size, 0)
    return None


def promised_frames(content: Content, name: str) -> int | None:
    """Return the samples [per channel] that the header of an AIFC, or of ALAC in CAF, promises; else None.

    libsndfile goes by other fields, and takes damaged ones for a shorter clip.

    Raises:
        AudioError: The table of packets of a CAF disagrees with itself, or with what is there.
    """
    if content[:4] == b"caff":
        return _packed_frames(content, name)
    return _aifc_frames(content) if content[8:12] == b"AIFC" else None


def _aifc_frames(content: Content) -> int | None:
    at, frames = 12, 0
    while at + 8 <= len(content):
        kind, size = struct.unpack(">4sI", content[at : at + 8])
        if kind == b"COMM":
            _, frames, _, _, form = struct.unpack(">HIH10s4s", content[at + 8 : at + 30].ljust(22, b"\0"))
            frames *= _IMA_PACKET if form == b"ima4" else 1
        if kind == b"SSND":
            return frames if frames and not is_placeholder(frames) and not is_placeholder(size) else None
        at += 8 + size + size % 2
    return None


def _packed_frames(content: Content, name: str) -> int | None:
    found: dict[bytes, tuple[int, int]] = {}
    at = 8
    while at + 12 <= len(content):
        kind, size = struct.unpack(">4sq", content[at : at + 12])
        found.setdefault(kind, (at + 12, size))
        at += 12 + max(size, 0)
    if not found.keys() >= {b"desc", b"pakt", b"data"}:
        return None
    desc, (begin, size) = found[b"desc"][0], found[b"pakt"]
    form, _, _, per_packet = struct.unpack(">4sIII", content[desc + 8 : desc + 24].ljust(16, b"\0"))
    packets, frames, *around = struct.unpack(">qqii", content[begin : begin + 24].ljust(24, b"\0"))
    if form != b"alac":
        return None
    sizes = _packet_sizes(content[begin + 24 : begin + min(size, _LARGEST_TABLE)])
    there = found[b"data"][1] - _CAF_DATA
    all_frames = frames + sum(around)
    if len(sizes) != packets or sum(sizes) != there or packets * per_packet != all_frames or min(around) < 0:
        raise AudioError(
            f"{name}: damaged: its table says {packets} packets of {per_packet} samples, {all_frames} in "
            f"all; it lists {len(sizes)} packets of {sum(sizes)} bytes, and {there} bytes are there"
        )
    return int(frames)


def _packet_sizes(table: bytes) -> list[int]:
    """Return numbers that are written in 7 bits a byte, the highest bit of the last one 0."""
    sizes, size = list[int](), 0
    for byte in table.rstrip(b"\0"):
        size = (size << 7 | byte & 0x7F) & 0xFFFFFFFF
        if byte < 0x80:
            sizes.append(size)
            size = 0
    return sizes


def _aiff(content: Content, name: str) -> None:
    (outer,) = struct.unpack(">I", content[4:8].ljust(4, b"\0"))
    _check_joined(content, 8 + outer + outer % 2, b"FORM", name)
    at, promised = 12, 0
    while at + 8 <= len(content):
        kind, size = struct.unpack(">4sI", content[at : at + 8])
        if kind == b"COMM" and content[8:12] == b"AIFF":
            channels, frames, bits = struct.unpack(">HIH", content[at + 8 : at + 16].ljust(8, b"\0"))
            promised = frames * channels * ((bits + 7) // 8)
        if kind == b"SSND":
            there = size - 8 - int.from_bytes(content[at + 8 : at + 12], "big")
            is_known = promised and not is_placeholder(size) and not is_placeholder(promised)
            if is_known and there - promised not in (0, promised % 2):  # some count the byte of padding
                raise AudioError(
                    f"{name}: damaged: its header promises {promised} bytes of samples, and then {there}"
                )
            return
        at += 8 + size + size % 2


def _au(content: Content, name: str) -> None:
    offset, size = struct.unpack(">II", content[4:12].ljust(8, b"\0"))
    _check_joined(content, offset + size, b".snd", name)
    if size:
        _check_rest(content, offset, size, name)


def _nist(content: Content, name: str) -> None:
    """Check a file of NIST SPHERE, whose header is lines of text."""
    head = content[:1024].decode("latin-1")
    fields = dict(_NIST_FIELD.findall(head))
    size = head[8:16].strip()
    wanted = [fields.get(key, "") for key in ("sample_count", "channel_count", "sample_n_bytes")]
    if not (size.isdigit() and all(field.isdigit() for field in wanted)):
        raise AudioError(f"{name}: its header of NIST SPHERE does not tell how many samples there are")
    promised, there = math.prod(map(int, wanted)), len(content) - int(size)
    if promised > there:
        raise AudioError(
            f"{name}: breaks off: its header promises {promised} bytes, but only {there} are there"
        )
    _check_rest(content, int(size), promised, name)


_KINDS: dict[bytes, Callable[[Content, str], Pieces | None]] = {
    b"RIFF": _wav,
    b"RF64": _rf64,
    _W64_MARK[:4]: _w64,
    b"caff": _caf,
    b"FORM": _aiff,
    b".snd": _au,
    b"NIST": _nist,
}


def _check_joined(content: Content, end: int, mark: bytes, name: str) -> None:
    """Check that no other file begins where one ends."""
    if end > len(mark) and content[end : end + len(mark)] == mark:
        raise _joined(end, mark[:4].decode(), name)


def _joined(second: int, kind: str, name: str) -> AudioError:
    return AudioError(
        f"{name}: holds several files ({kind}); the second begins at byte {second}: were they joined? Take "
        "them apart, or join them with ffmpeg"
    )


def _unknown(name: str) -> AudioError:
    return AudioError(
        f"{name}: its header does not tell its length (written into a pipe?), and what follows is not "
        "samples alone; write it anew, into a file"
    )

"""Files of MPEG-4 (ISO/IEC 14496-12), Matroska (RFC 9559) and AAC in ADTS (ISO/IEC 13818-7): whether all of a
file is there. FFmpeg takes one that breaks off for a shorter one.
"""

from kikimimi.data.content import Content
from kikimimi.data.mp3 import after_tags, before_tags
from kikimimi.errors import AudioError

EBML = bytes.fromhex("1a45dfa3")
_SEGMENT, _CLUSTER = bytes.fromhex("18538067"), bytes.fromhex("1f43b675")
_ADTS_HEAD = 7


def check_container(content: Content, demuxer: str, name: str) -> None:
    """Check that a file goes on to where its boxes, elements or frames end.

    Args:
        content: The file.
        demuxer: FFmpeg's name of its kind: mp4, matroska or aac.
        name: The clip, for messages.

    Raises:
        AudioError: It breaks off, or several were joined.
    """
    {"mp4": _check_boxes, "matroska": _check_elements, "aac": _check_frames}[demuxer](content, name)


def _check_boxes(content: Content, name: str) -> None:
    at, kinds = 0, []
    while at < len(content):
        head = content[at : at + 16]
        size, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if size == 1 and len(head) == 16:
            size = int.from_bytes(head[8:], "big")
        if size == 0 and len(head) >= 8 and any(kind):
            size = len(content) - at  # goes on to the end
        if kind == b"ftyp" and b"ftyp" in kinds:
            raise _joined(at, "MPEG-4", name)
        if size == 0 and content.is_padding(at):
            break
        if size < 8 or at + size > len(content):
            raise _breaks_off(at, len(content), "box of MPEG-4", name)
        kinds.append(kind)
        at += size
    if b"moov" not in kinds:
        raise AudioError(f"{name}: breaks off: its table of samples (moov) is missing")


def _check_elements(content: Content, name: str) -> None:
    at, is_first = 0, True
    while at < len(content):
        head = content[at : at + 12]
        id_size = 9 - head[0].bit_length()
        place = id_size
        size_size = 9 - head[place].bit_length() if len(head) > place else 9
        if id_size > 4 or size_size > 8 or len(head) < place + size_size:
            raise _breaks_off(at, len(content), "element of Matroska", name)
        kind, value = head[:id_size], head[place : place + size_size]
        if kind == EBML and not is_first:
            raise _joined(at, "Matroska", name)
        mask = (1 << 7 * size_size) - 1
        size, begin = int.from_bytes(value, "big") & mask, at + place + size_size
        is_unknown = size == mask and kind in (_SEGMENT, _CLUSTER)
        if not is_unknown and begin + size > len(content):
            raise _breaks_off(at, len(content), "element of Matroska", name)
        at = begin if is_unknown or kind == _SEGMENT else begin + size
        is_first = False


def is_adts(content: Content, at: int) -> bool:
    """Tell whether two frames of AAC begin at a place, or one that ends the file."""
    size = _frame_size(content[at : at + _ADTS_HEAD])
    end = at + (size or 0)
    return size is not None and (
        end == len(content) or _frame_size(content[end : end + _ADTS_HEAD]) is not None
    )


def _frame_size(head: bytes) -> int | None:
    if len(head) < _ADTS_HEAD or head[0] != 0xFF or head[1] & 0xF6 != 0xF0 or head[2] >> 2 & 15 > 12:
        return None
    size = int.from_bytes(head[3:6], "big") >> 5 & 0x1FFF
    return size if size > _ADTS_HEAD else None


def _check_frames(content: Content, name: str) -> None:
    at, end = after_tags(content, 0), before_tags(content)
    while at < end:
        size = _frame_size(content[at : at + _ADTS_HEAD])
        if size is None and at + _ADTS_HEAD <= end:
            raise AudioError(f"{name}: damaged: at byte {at} of {len(content)} a frame of AAC should begin")
        if size is None or at + size > end:
            raise _breaks_off(at, len(content), "frame of AAC", name)
        at += size


def _breaks_off(at: int, size: int, what: str, name: str) -> AudioError:
    return AudioError(f"{name}: breaks off within the {what} that begins at byte {at}, after {size} bytes")


def _joined(second: int, kind: str, name: str) -> AudioError:
    return AudioError(
        f"{name}: holds several files ({kind}); the second begins at byte {second}: were they joined? Take "
        "them apart, or join them with ffmpeg"
    )

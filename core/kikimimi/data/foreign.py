"""What a file is, told by how it begins: names often lie, and a message has to tell what is there."""

from typing import NamedTuple

from kikimimi.data import containers
from kikimimi.data.content import Content
from kikimimi.data.mp3 import after_tags


class ForeignFile(NamedTuple):
    """A kind of file that libsndfile does not read.

    Attributes:
        words: What messages call it, such as ``"is an HTML page"``.
        demuxer: FFmpeg's name of what reads it, where it is one that is read; else None.
    """

    words: str
    demuxer: str | None = None


_MPEG_4 = ForeignFile("holds MPEG-4 audio (M4A, MP4)", "mp4")
_MATROSKA = ForeignFile("holds Matroska audio (WebM, MKA)", "matroska")
_ADTS = ForeignFile("holds AAC audio (ADTS)", "aac")
_BEGINNINGS = {
    containers.EBML: _MATROSKA,
    b"version https://git-lfs": ForeignFile(
        "is a pointer of Git LFS, not the file itself (git lfs pull fetches it)"
    ),
    b"%PDF": ForeignFile("is a PDF"),
    b"PK\3\4": ForeignFile("is a ZIP archive"),
    b"\x1f\x8b": ForeignFile("is a gzip archive"),
    b"7z\xbc\xaf": ForeignFile("is a 7z archive"),
    b"Rar!": ForeignFile("is a RAR archive"),
    b"\x89PNG": ForeignFile("is a PNG image"),
    b"\xff\xd8\xff": ForeignFile("is a JPEG image"),
    b"GIF8": ForeignFile("is a GIF image"),
    b"#!AMR": ForeignFile("holds AMR audio"),
    b"wvpk": ForeignFile("holds WavPack audio"),
    b"MAC ": ForeignFile("holds Monkey's Audio (APE)"),
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": ForeignFile("holds Windows Media audio (WMA, ASF)"),
    b".RMF": ForeignFile("holds RealAudio"),
    b"FLV\1": ForeignFile("is a Flash video"),
    b"MThd": ForeignFile("is a MIDI file: notes, not sound"),
    b"ajkg": ForeignFile("holds Shorten audio"),
    b"TTA1": ForeignFile("holds TTA audio"),
    b"DSD ": ForeignFile("holds DSD audio"),
    b"Creative Voice File": ForeignFile("is a Creative Voice file (VOC)"),
}
_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"skip")
_PAGES = (b"<!doctype html", b"<html", b"<head", b"<body", b"<script")


def foreign_file(content: Content) -> ForeignFile | None:
    """Tell what a file is that libsndfile does not read, or None where that is not known."""
    begin = content[:64]
    for mark, kind in _BEGINNINGS.items():
        if begin.startswith(mark):
            return kind
    if begin[4:8] in _BOXES:
        return _MPEG_4
    if begin.startswith(b"RIFF") and begin[8:12] not in (b"WAVE", b""):
        return ForeignFile(
            f"is a RIFF file of kind {begin[8:12].decode('ascii', 'replace').strip()!r}, not WAV"
        )
    if containers.is_adts(content, after_tags(content, 0)):
        return _ADTS
    return _text(content[:512])


def _text(begin: bytes) -> ForeignFile | None:
    plain = begin.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if plain.startswith(_PAGES):
        return ForeignFile("is an HTML page (was it fetched from a page that needs a login, or is gone?)")
    if plain.startswith((b"<?xml", b"<error")):
        return ForeignFile("is an XML document (an error that a server sent?)")
    if plain.startswith((b'{"', b"{\n", b"[{")):
        return ForeignFile("is JSON (an error that a server sent?)")
    return None

"""What comes with requests: forms, and clips in base64. All of it is held in memory; no file is made."""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
from collections.abc import AsyncGenerator
from typing import NamedTuple

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from kikimimi.serving.refusal import RefusalError

_MAX_FIELDS = 100
_MAX_FIELD_BYTES = 1 << 16
AUDIO_KINDS = {
    "wav": ("wav",),
    "flac": ("flac",),
    "mp3": ("mp3", "mpeg", "mpga"),
    "ogg": ("ogg", "oga", "opus"),
    "webm": ("webm",),
    "m4a": ("m4a", "mp4"),
}
"""Kinds of audio files, and what `format` may call each."""


# What is wrong with a form is told to who sent it.
logging.getLogger("python_multipart").setLevel(logging.ERROR)


class Form(NamedTuple):
    """A form that was sent.

    Attributes:
        fields: Texts of each field.
        file: The field `file`.
    """

    fields: dict[str, list[str]]
    file: bytes


class _InMemory(MultiPartParser):
    spool_max_size = 1 << 62  # the body is counted as it comes


async def read_body(request: Request, deadline: float) -> bytes:
    """Read the body of a request.

    Raises:
        RefusalError: It is too long, or does not come in time.
    """
    try:
        async with asyncio.timeout_at(deadline):
            return await request.body()
    except TimeoutError:
        raise _late() from None


async def read_form(request: Request, deadline: float) -> Form:
    """Read a form with one file.

    Raises:
        RefusalError: It is no such form, is too long, or does not come in time.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise RefusalError(400, "expected a form (multipart/form-data) with a file", code="no_form")
    parser = _InMemory(
        request.headers,
        _chunks(request),
        max_files=1,
        max_fields=_MAX_FIELDS,
        max_part_size=_MAX_FIELD_BYTES,
    )
    try:
        async with asyncio.timeout_at(deadline):
            form = await parser.parse()
    except TimeoutError:
        raise _late() from None
    except MultiPartException as error:
        raise RefusalError(400, f"the form cannot be read: {error.message}", code="no_form") from None
    try:
        fields: dict[str, list[str]] = {}
        content: bytes | None = None
        for name, value in form.multi_items():
            if not isinstance(value, UploadFile):
                fields.setdefault(name, []).append(value)
            elif name == "file":
                content = await value.read()
            else:
                raise RefusalError(400, "a file stands in another field than 'file'", param="file")
    finally:
        await form.close()
    if not content:
        said = "must be given, as a file (multipart/form-data)" if content is None else "the file is empty"
        raise RefusalError(400, f"file: {said}", param="file")
    return Form(fields, content)


async def _chunks(request: Request) -> AsyncGenerator[bytes, None]:
    async for chunk in request.stream():
        yield chunk


def _late() -> RefusalError:
    return RefusalError(408, "the request did not come whole within the time", code="timeout")


def decode_base64(data: str, kind: str, where: str) -> bytes:
    """Return the file that is given in base64.

    Args:
        data: The base64.
        kind: What kind of file it is said to be.
        where: The place in the request, for messages.

    Raises:
        RefusalError: It is none, or another kind of file.
    """
    names = [name for names in AUDIO_KINDS.values() for name in names]
    if kind not in names:
        raise RefusalError(
            400, f"{where}.format: not supported; allowed: {', '.join(names)}", param=f"{where}.format"
        )
    if "://" in data[:64] or data[:5].lower() == "data:":
        raise RefusalError(
            400,
            f"{where}.data: is a URL. Nothing is fetched: send the file itself in base64, without a prefix",
            param=f"{where}.data",
            code="no_urls",
        )
    try:
        content = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise RefusalError(
            400, f"{where}.data: is not base64 (in one line, without spaces)", param=f"{where}.data"
        ) from None
    if not content:
        raise RefusalError(400, f"{where}.data: the file is empty", param=f"{where}.data")
    found = _kind(content)
    if found is not None and kind not in AUDIO_KINDS[found]:
        raise RefusalError(
            400, f"{where}.format: says {kind}, but the file is {found}", param=f"{where}.format"
        )
    return content


def _kind(content: bytes) -> str | None:
    """Return the kind of an audio file by its first bytes; None where they do not tell."""
    marks = {
        b"RIFF": "wav",
        b"RF64": "wav",
        b"fLaC": "flac",
        b"OggS": "ogg",
        b"ID3": "mp3",
        b"\x1aE\xdf\xa3": "webm",
    }
    if content[4:8] == b"ftyp":
        return "m4a"
    return next((kind for mark, kind in marks.items() if content.startswith(mark)), None)

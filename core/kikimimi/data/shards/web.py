"""A file, or a piece of one, from a web server that nobody vouches for.

What it sends is counted while it comes, whatever length it announces; nothing is unpacked; a server that is
too slow is left, and one that sends elsewhere is followed to its own host only, or where `REDIRECT_HOSTS`
allows it.
"""

import asyncio
import os
import re
import time
from fnmatch import fnmatchcase
from typing import Any, cast
from urllib.parse import urljoin, urlsplit

from kikimimi.console.words import size as in_words
from kikimimi.errors import DataError, RequestError

WATCHED_SECONDS = 30.0
"""How long a server is watched before it is told to be too slow [s]."""
SLOWEST = 1000.0
"""Least rate at which a server has to send [bytes/s]."""
MOST_AT_ONCE = 1 << 20
"""Most that is taken from a server at once [bytes]."""
REDIRECT_HOSTS = "KIKIMIMI_REDIRECT_HOSTS"
"""Environment variable that names hosts to which servers may send, with commas (``a.org,*.b.org``)."""
MOST_REDIRECTS = 5
"""How often one answer may send elsewhere."""

_REDIRECTS = (301, 302, 303, 307, 308)
_DEFAULT_PORTS = {"http": 80, "https": 443}


class SlowError(Exception):
    """A server sends too slowly, or nothing."""


class TooLargeError(DataError):
    """A file is larger than what is read of such.

    Args:
        url: The file.
        limit: What is read [bytes].
        size: Its size where that is known [bytes].
    """

    def __init__(self, url: str, limit: int, size: int | None = None) -> None:
        said = "sends more than" if size is None else f"is {in_words(size)} large; at most"
        super().__init__(f"{url}: {said} {in_words(limit)}{'' if size is None else ' are read'}")


def read_web(system: Any, url: str, *, limit: int, offset: int | None = None) -> bytes:
    """Read a file, or a piece of it.

    Args:
        system: The file system of fsspec that holds the connections.
        url: The file.
        limit: Largest size that is read [bytes]; of a piece, its size.
        offset: Where the piece begins, or None for the whole file [bytes].

    Raises:
        RequestError: The server sends to another host, or compresses what it sends.
        TooLargeError: It sends more.
        SlowError: It sends too slowly.
    """
    from fsspec.asyn import sync

    return cast(bytes, sync(system.loop, _read, system, url, limit, offset))


async def _read(system: Any, url: str, limit: int, offset: int | None) -> bytes:
    session = await system.set_session()
    headers = {} if offset is None else {"Range": f"bytes={offset}-{offset + limit - 1}"}
    here, watch = url, _Watch()
    for _ in range(MOST_REDIRECTS + 1):
        request = session.get(system.encode_url(here), headers=headers, allow_redirects=False)
        async with await watch.wait(request) as answer:
            if answer.status in _REDIRECTS:
                here = _follow(url, here, answer.headers.get("Location", ""))
                continue
            if answer.status == 416:  # the file ends before the piece begins
                return b""
            answer.raise_for_status()
            if (coding := answer.headers.get("Content-Encoding", "identity")) != "identity":
                raise RequestError(
                    f"{url}: its server sends it compressed ({coding}), which is never unpacked"
                )
            whole = answer.status != 206
            if offset and whole:
                raise TooLargeError(url, limit)
            beginning = offset == 0 and whole
            if not beginning and (announced := answer.content_length) is not None and announced > limit:
                raise TooLargeError(url, limit, announced)
            return await _take(answer, url, limit, watch, beginning=beginning)
    raise RequestError(f"{url}: its server sends elsewhere more than {MOST_REDIRECTS} times")


async def _take(answer: Any, url: str, limit: int, watch: "_Watch", *, beginning: bool) -> bytes:
    content = bytearray()
    while block := await watch.wait(answer.content.read(MOST_AT_ONCE)):
        if len(content) + len(block) > limit:
            if beginning:  # of a server without byte ranges
                return bytes(content + block[: limit - len(content)])
            raise TooLargeError(url, limit)
        content += block
        watch.count(len(block))
    return bytes(content)


class _Watch:
    """Watches the rate at which a server sends."""

    def __init__(self) -> None:
        self.since, self.bytes = time.monotonic(), 0

    async def wait(self, coming: Any) -> Any:
        """Return what is awaited, if it comes before the rate is too low."""
        try:
            return await asyncio.wait_for(coming, self.since + WATCHED_SECONDS - time.monotonic())
        except TimeoutError as error:
            raise self.slow() from error

    def count(self, size: int) -> None:
        """Count what has come."""
        self.bytes += size
        if self.bytes >= SLOWEST * WATCHED_SECONDS:
            self.since, self.bytes = time.monotonic(), 0

    def slow(self) -> SlowError:
        """Return the error that tells the rate."""
        passed = time.monotonic() - self.since
        return SlowError(
            f"timed out: the server sent {in_words(self.bytes)} in {passed:.3g} s "
            f"({self.bytes / passed:.3g} bytes/s); at least {in_words(SLOWEST)} a second are expected"
        )


def _follow(url: str, here: str, location: str) -> str:
    """Return where a server sends, if that is allowed."""
    there = urljoin(here, location)
    scheme, host = urlsplit(there).scheme, urlsplit(there).hostname or ""
    if scheme not in (urlsplit(here).scheme, "https"):
        raise RequestError(f"{url}: its server sends to {there}, which is not read")
    # The same server by the other protocol is no other host.
    if _place(there) in (_place(here), re.sub(":80$", ":443", _place(here))):
        return there
    allowed = [name.strip().lower() for name in os.environ.get(REDIRECT_HOSTS, "").split(",") if name.strip()]
    if not any(fnmatchcase(name, pattern) for pattern in allowed for name in (host, _place(there))):
        raise RequestError(
            f"{url}: its server sends to another host, {_place(there)}, which is followed only where you "
            f"allow it. If you trust that host: export {REDIRECT_HOSTS}={host}"
        )
    return there


def _place(url: str) -> str:
    """Return host and port."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or _DEFAULT_PORTS.get(parts.scheme)}"

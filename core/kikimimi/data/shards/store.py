"""Reading pieces of shards, wherever they lie: local files, and through fsspec web servers and object stores.

Credentials come from where each driver looks for them (environment, ``~/.netrc``, cloud profiles, fsspec's
configuration files), proxies from the usual environment variables; nothing of either stands in a recipe.
"""

import os
import time
from collections.abc import Callable, Iterator
from random import Random
from typing import Any, TypeVar
from urllib.parse import urlsplit

from kikimimi.console.terminal import shortened
from kikimimi.console.words import counted, listing, nearest
from kikimimi.data.shards.web import SlowError, TooLargeError, read_web
from kikimimi.errors import RequestError, StorageError

OPEN_FILES = 64
"""Local shards kept open, for each store and process."""
DRIVERS = {
    "http": "fsspec[http]",
    "https": "fsspec[http]",
    "s3": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "hf": "huggingface_hub",
}
"""Protocols that are read, and the package that each needs."""

ATTEMPTS = 5
FIRST_PAUSE = 0.5
"""Pause before the second attempt [s]; it doubles with each one."""
SLOW_ATTEMPTS = 2
"""How often a server that is too slow is asked."""
CONNECT_SECONDS = 30.0
"""How long a connection may take [s]."""

_MOST_SAID = 500  # of what a server says of an error [characters]
_BLOCK = 1 << 20
_WEB = ("http", "https")
_TRY_LATER = (408, 425, 429)  # the refusals that are about the moment, not about the request
_FINAL = (ImportError, NotImplementedError, TypeError, ValueError)

# Of each process: connections must not cross a fork. Entries of the parent stay, so that a child never
# closes connections that it does not own.
_systems: dict[tuple[int, str], Any] = {}

_Result = TypeVar("_Result")


class Store:
    """Reads pieces of shards; files are opened where and when they are read.

    May be sent to other processes, and survives a fork: only descriptors are kept, and reading moves no file
    position.
    """

    def __init__(self) -> None:
        self._descriptors: dict[str, int] = {}

    def read(self, shard: str, offset: int, size: int, total: int) -> bytes:
        """Return a piece of a shard; less of it where the shard ends before.

        Args:
            shard: A path or a URL.
            offset: Where the piece begins [bytes].
            size: How long it is [bytes].
            total: How long the shard is thought to be [bytes].

        Raises:
            RequestError: A URL is not there, access is denied, or its server has no byte ranges.
            StorageError: The file cannot be opened or read, or the server does not answer.
        """
        if is_url(shard):
            return read_range(shard, offset, size, total)
        try:
            return read_descriptor(self._descriptor(shard), offset, size)
        except OSError as error:
            raise StorageError(f"{shard}: cannot be read: {error.strerror}") from error

    def close(self) -> None:
        """Close what is open; it is opened again when it is read."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def __getstate__(self) -> dict[str, Any]:
        return {"_descriptors": {}}

    def __del__(self) -> None:
        if "_descriptors" in self.__dict__:
            self.close()

    def _descriptor(self, shard: str) -> int:
        if shard not in self._descriptors:
            if len(self._descriptors) >= OPEN_FILES:
                os.close(self._descriptors.pop(next(iter(self._descriptors))))
            self._descriptors[shard] = os.open(shard, os.O_RDONLY | os.O_CLOEXEC)
        return self._descriptors[shard]


def read_descriptor(descriptor: int, offset: int, size: int) -> bytes:
    """Return a piece of an open file; less of it where the file ends before."""
    pieces = []
    # pread moves no file position: descriptors may be shared with forked processes.
    while size and (piece := os.pread(descriptor, size, offset)):
        pieces.append(piece)
        offset, size = offset + len(piece), size - len(piece)
    return b"".join(pieces)


def descriptor_blocks(descriptor: int, offset: int, size: int) -> Iterator[bytes]:
    """Yield a piece of an open file, block by block."""
    for at in range(offset, offset + size, _BLOCK):
        yield read_descriptor(descriptor, at, min(_BLOCK, offset + size - at))


def is_url(name: str) -> bool:
    """Tell whether a shard is named by a URL rather than by a path."""
    return "://" in name


def check_url(url: str) -> str:
    """Return the protocol of a URL that may be read.

    Raises:
        RequestError: Its protocol is not one of `DRIVERS`, it is a chain, or it holds a password.
    """
    protocol, _, rest = url.partition("://")
    if "::" in url or "://" in rest:
        raise RequestError(f"{url}: chained URLs (::) are refused; give one plain URL")
    if protocol == "file":
        raise RequestError(f"{url}: give the path itself: {rest}")
    if protocol not in DRIVERS:
        raise RequestError(
            f"{url}: shards are not read through {protocol!r}.{nearest(protocol, DRIVERS)} "
            f"Protocols: {listing(DRIVERS)}"
        )
    if protocol in _WEB and "@" in urlsplit(url).netloc:
        host = urlsplit(url).netloc.rpartition("@")[2]
        raise RequestError(
            f"{protocol}://...@{host}: a name or password in a URL would be written into logs and run "
            "folders; put it into ~/.netrc"
        )
    return protocol


def list_urls(pattern: str) -> list[str]:
    """Return what a URL with wildcards matches, in order.

    Raises:
        RequestError: The protocol cannot list files, or access is denied.
        StorageError: The store does not answer.
    """
    protocol = check_url(pattern)
    if protocol in _WEB:
        raise RequestError(
            f"{pattern}: a web server does not list its files, so wildcards (*?[) cannot be used; "
            "name the shards with braces: train-{000..255}.tar"
        )
    system = _system(pattern)
    found = _attempt(pattern, lambda: system.glob(system._strip_protocol(pattern)))
    return [f"{protocol}://{path.lstrip('/')}" for path in sorted(found)]


def fetch(url: str, *, limit: int) -> bytes:
    """Return the whole of a small file.

    Args:
        url: The file.
        limit: Largest size that is read [bytes].

    Raises:
        RequestError: It is not there, or access is denied.
        DataError: It is larger.
        StorageError: The server does not answer, or too slowly.
    """
    system = _system(url)
    path = system._strip_protocol(url)

    def read() -> bytes:
        if url.partition("://")[0] in _WEB:
            return read_web(system, url, limit=limit)
        size = int(system.size(path))
        if size > limit:
            raise TooLargeError(url, limit, size)
        content: bytes = system.cat_file(path)
        return content

    return _attempt(url, read)


def read_range(url: str, offset: int, size: int, total: int) -> bytes:
    """Return a piece of a file; less of it where the file ends before.

    Args:
        url: The file.
        offset: Where the piece begins [bytes].
        size: How long it is [bytes].
        total: How long the file is thought to be [bytes].

    Raises:
        RequestError: It is not there, access is denied, or the server has no byte ranges.
        StorageError: The server does not answer.
    """
    system = _system(url)
    path = system._strip_protocol(url)

    def read() -> bytes:
        protocol = url.partition("://")[0]
        if protocol in _WEB:
            try:
                return read_web(system, url, limit=size, offset=offset)
            except TooLargeError as error:
                raise RequestError(
                    f"{url}: its server does not serve byte ranges, and a whole shard is never fetched for "
                    "one record. Use another server, or copy the shards to a disk"
                ) from error
        if protocol != "hf":
            piece: bytes = system.cat_file(path, start=offset, end=offset + size)
            return piece
        # Its cat_file would read ahead.
        with system.open(path, "rb", size=total, cache_type="none") as file:
            file.seek(offset)
            found: bytes = file.read(size)
        return found

    piece = _attempt(url, read)
    if len(piece) > size:
        raise RequestError(f"{url}: its server does not serve byte ranges: {len(piece)} bytes for {size}")
    return piece


def _system(url: str) -> Any:
    import fsspec

    protocol = check_url(url)
    key = os.getpid(), protocol
    if key not in _systems:
        try:
            options = _web_options(protocol) if protocol in _WEB else {}
            _systems[key] = fsspec.filesystem(protocol, skip_instance_cache=True, **options)
        except ImportError as error:
            raise RequestError(
                f"{url}: {protocol}:// needs the package '{DRIVERS[protocol]}', which cannot be imported "
                f"({error}). Install it with: pip install '{DRIVERS[protocol]}'"
            ) from error
    return _systems[key]


def _web_options(protocol: str) -> dict[str, Any]:
    from aiohttp import ClientTimeout
    from fsspec.config import conf

    timeout = ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)  # the rest is watched by `read_web`
    # trust_env: proxies and ~/.netrc. identity: offsets are those of the file as it is.
    headers = {"Accept-Encoding": "identity"}
    options = {"trust_env": True, "timeout": timeout, "headers": headers, "auto_decompress": False}
    return {"client_kwargs": {**options, **conf.get(protocol, {}).get("client_kwargs", {})}}


def _attempt(url: str, action: Callable[[], _Result]) -> _Result:
    pause = FIRST_PAUSE
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return action()
        except (RequestError, TooLargeError):
            raise
        except SlowError as error:
            if attempt == SLOW_ATTEMPTS:
                raise StorageError(
                    f"{url}: cannot be read ({counted(attempt, 'attempt')}): {error}"
                ) from error
        # Each driver has its own errors, which are not known here. None is passed over.
        except Exception as error:
            status = _status(error)
            if isinstance(error, FileNotFoundError) or status in (404, 410):
                raise RequestError(f"{url}: not found") from error
            if isinstance(error, PermissionError) or status in (401, 403):
                raise RequestError(
                    f"{url}: access is denied ({shortened(str(error), _MOST_SAID)}). Are the credentials "
                    f"where the driver of {url.partition('://')[0]}:// looks for them?"
                ) from error
            refused = status is not None and 400 <= status < 500 and status not in _TRY_LATER
            if refused or isinstance(error, _FINAL) or attempt == ATTEMPTS:
                raise StorageError(
                    f"{url}: cannot be read ({counted(attempt, 'attempt')}): {type(error).__name__}: "
                    f"{shortened(str(error), _MOST_SAID)}"
                ) from error
        # Many processes lose a server at once; they should not all come back at once. A generator of its own:
        # the training's are left as they are.
        time.sleep(pause * Random().uniform(0.5, 1.0))
        pause *= 2
    raise AssertionError("unreachable")


def _status(error: Exception) -> int | None:
    """Return the HTTP status that an error of a driver tells, or None."""
    holders = (error, getattr(error, "response", None))
    for holder, name in ((holder, name) for holder in holders for name in ("status", "status_code", "code")):
        if isinstance(value := getattr(holder, name, None), int):
            return value
    return None

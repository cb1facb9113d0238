"""The sidecar index of a shard: where each record lies, how long it is, and its hash.

``train-000000.tar`` has ``train-000000.tar.index.safetensors``: columns, and a JSON header in the metadata.
With it, reading is random access, and the order of training is planned without touching the audio. Nothing in
it is believed: each column is checked before a byte of the shard is read by it.

Version 2. Version 1 was JSON Lines, which take minutes to parse at millions of rows; columns are copied once.
"""

import hashlib
import json
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from kikimimi.data.shards.record import MAX_RECORD, place
from kikimimi.data.shards.store import fetch, is_url
from kikimimi.data.shards.tar import BLOCK
from kikimimi.data.shards.web import TooLargeError
from kikimimi.errors import DataError, RequestError
from kikimimi.files.reading import MEBIBYTE, file_there, parse_json, read_bytes

SUFFIX = ".index.safetensors"
"""What the name of an index adds to that of its shard."""
FORMAT = "kikimimi-index"
INDEX_VERSION = 2
MAX_INDEX = 256 * MEBIBYTE
"""Largest index that is read or written [bytes]: some two million records."""
MANY = 16 * MEBIBYTE
"""Largest index of which many are fetched at a time [bytes]; larger ones come one after the other."""
_LARGE = threading.Lock()

COLUMNS: dict[str, type[np.generic]] = {
    "offsets": np.int64,
    "sizes": np.int64,
    "seconds": np.float32,
    "characters": np.int32,
    "hashes": np.uint8,
    "clip_seconds": np.float32,
    "clip_ends": np.int64,
    "languages": np.int16,
    "licenses": np.int16,
    "key_bytes": np.uint8,
    "key_ends": np.int64,
}
"""Every column and its type; `ShardIndex` tells what they hold."""

_PER_ROW = ("offsets", "sizes", "seconds", "characters", "clip_ends", "languages", "licenses", "key_ends")
_NAMES = {"float32": "F32", "int16": "I16", "int32": "I32", "int64": "I64", "uint8": "U8"}  # in the file

_HEADER = {"shard": str, "digest": str, "bytes": int}

Columns = Mapping[str, NDArray[Any]]


class Rejected(NamedTuple):
    """A record that an index leaves out.

    Attributes:
        key: Its name, or an empty text where none can be told.
        offset: Where its first header is in the shard, or where the shard breaks off [bytes].
        reason: What is wrong with it.
    """

    key: str
    offset: int
    reason: str


class LeftOut(NamedTuple):
    """A record that was left out when its shard was indexed.

    Attributes:
        where: Its place.
        reason: What is wrong with it.
    """

    where: str
    reason: str


@dataclass(frozen=True)
class ShardIndex:
    """The index of one shard, in columns; row i is the i-th record.

    Attributes:
        shard: The tar: a path, or a URL.
        shard_bytes: Size of the tar [bytes].
        digest: SHA-256 (hex) of the index's columns: the content of the shard, whatever its name.
        made_for: File name of the shard when the index was made.
        offsets: (rows,) int64: first header of the record [bytes].
        sizes: (rows,) int64: from there to the end of its last member, padding included [bytes].
        seconds: (rows,) float32: total length of its clips [s].
        characters: (rows,) int32: length of all its texts [characters].
        hashes: (rows, 32) uint8: SHA-256 of the bytes from `offsets` on, `sizes` long.
        clip_seconds: (clips,) float32: length of each clip of each record, end to end [s].
        clip_ends: (rows,) int64: where each record's clips end in `clip_seconds`.
        languages: (rows,) int16: position in `language_names`, or -1 where the record names none.
        licenses: (rows,) int16: position in `license_names`, or -1 where the record names none.
        key_bytes: (bytes,) uint8: the keys, UTF-8, end to end.
        key_ends: (rows,) int64: where each key ends in `key_bytes`.
        language_names: Languages as the records name them, sorted.
        license_names: Licences as the records name them, sorted.
        rejected: Records that were left out when the index was made.
    """

    shard: str
    shard_bytes: int
    digest: str
    made_for: str
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    seconds: NDArray[np.float32]
    characters: NDArray[np.int32]
    hashes: NDArray[np.uint8]
    clip_seconds: NDArray[np.float32]
    clip_ends: NDArray[np.int64]
    languages: NDArray[np.int16]
    licenses: NDArray[np.int16]
    key_bytes: NDArray[np.uint8]
    key_ends: NDArray[np.int64]
    language_names: tuple[str, ...]
    license_names: tuple[str, ...]
    rejected: tuple[Rejected, ...]

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def clips(self) -> NDArray[np.int32]:
        """(rows,) int32: how many clips each record has."""
        return np.diff(self.clip_ends, prepend=np.int64(0)).astype(np.int32)

    @property
    def longest(self) -> NDArray[np.float32]:
        """(rows,) float32: length of each record's longest clip [s]; 0 without clips."""
        clips = self.clips
        longest = np.zeros(len(self), dtype=np.float32)
        some = clips > 0
        if some.any():
            longest[some] = np.maximum.reduceat(self.clip_seconds, (self.clip_ends - clips)[some])
        return longest

    def key(self, row: int) -> str:
        """Return the key of a record."""
        begin = int(self.key_ends[row - 1]) if row else 0
        return self.key_bytes[begin : int(self.key_ends[row])].tobytes().decode("utf-8")

    def left_out(self) -> list[LeftOut]:
        """Return what was left out, as messages name it."""
        return [
            LeftOut(place(self.shard, item.offset, item.key or None), item.reason) for item in self.rejected
        ]

    @classmethod
    def load(cls, shard: Path | str) -> Self:
        """Read the index beside a shard.

        Raises:
            RequestError: The shard or its index does not exist, or access to it is denied.
            DataError: The index is malformed, no file, or is not of this version of the shard.
            StorageError: The server does not answer.
        """
        if is_url(str(shard)):
            return cls._fetch(str(shard))
        shard = Path(shard)
        path, again = index_path(shard), f"Make it again with: kikimimi data index {shard}"
        if not shard.is_file():
            raise RequestError(f"{shard}: no such shard")
        if not file_there(path, f"Delete it. {again}"):
            if (old := old_path(shard)).is_file():
                raise RequestError(f"{shard}: its index {old.name} is of an older version. {again}")
            raise RequestError(f"{shard}: has no index. Make it with: kikimimi data index {shard}")
        index = cls._parse(read_bytes(path, limit=MAX_INDEX, remedy=again), str(shard), str(path), again)
        if index.shard_bytes != (size := shard.stat().st_size):
            if index.made_for != shard.name:
                raise DataError(
                    f"{path}: is the index of another shard: made for {index.made_for}, of "
                    f"{index.shard_bytes} bytes, and this one has {size}. {again}"
                )
            raise DataError(
                f"{path}: is stale: made when the shard had {index.shard_bytes} bytes, now it has {size}. "
                + again
            )
        return index

    @classmethod
    def _fetch(cls, shard: str) -> Self:
        # That the shard itself is there and still the same is found when it is read: every record has a hash.
        url = f"{shard}{SUFFIX}"
        make = "Make it with 'kikimimi data index' where the shard is a local file, and upload both"
        try:
            data = _fetched(url)
        except RequestError as error:
            raise RequestError(f"{error}. Every shard needs its index beside it. {make}") from error
        return cls._parse(data, shard, url, make)

    @classmethod
    def _parse(cls, data: bytes, shard: str, name: str, advice: str) -> Self:
        """Read an index from the bytes of its file; messages end with how to get another."""
        try:
            header, columns = read_columns(data)
        except OtherVersionError as error:
            raise DataError(f"{name}: {error}. {advice}") from error
        except ValueError as error:
            raise DataError(f"{name}: is malformed ({error}). {advice}") from error
        return cls(
            shard=shard,
            shard_bytes=header["bytes"],
            digest=header["digest"],
            made_for=header["shard"],
            language_names=tuple(header["languages"]),
            license_names=tuple(header["licenses"]),
            rejected=tuple(Rejected(*item) for item in header["rejected"]),
            **columns,
        )


def _fetched(url: str) -> bytes:
    """Fetch an index, so that many together, of servers that nobody vouches for, do not fill the memory."""
    try:
        return fetch(url, limit=min(MANY, MAX_INDEX))
    except TooLargeError:
        with _LARGE:
            return fetch(url, limit=MAX_INDEX)


class OtherVersionError(ValueError):
    """The file is an index, but of another version."""


def index_path(shard: Path) -> Path:
    """Return where the index of a shard lies."""
    return shard.with_name(f"{shard.name}{SUFFIX}")


def old_path(shard: Path) -> Path:
    """Return where version 1 of an index would lie."""
    return shard.with_name(f"{shard.name}.index.jsonl")


def write_columns(columns: Columns, header: Mapping[str, Any]) -> bytes:
    """Return the bytes of an index file; the same columns and header always give the same."""
    from safetensors.numpy import save

    whole = {"format": FORMAT, "version": INDEX_VERSION, "digest": _digest(columns, header), **header}
    text = json.dumps(whole, ensure_ascii=False, sort_keys=True)
    # One entry of metadata: the order of several is not fixed.
    return save({name: np.ascontiguousarray(columns[name]) for name in COLUMNS}, {"kikimimi": text})


def _digest(columns: Columns, header: Mapping[str, Any]) -> str:
    """Return the SHA-256 (hex) of what an index says of a shard's content."""
    digest = hashlib.sha256(json.dumps([INDEX_VERSION, header["languages"], header["licenses"]]).encode())
    for name in COLUMNS:
        digest.update(np.ascontiguousarray(columns[name]).data)
    return digest.hexdigest()


def read_columns(data: bytes) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Take an index file apart and check it.

    Returns:
        The header and the columns.

    Raises:
        OtherVersionError: It is of another version.
        ValueError: It is not an index, or is damaged; the message says how.
    """
    from safetensors import SafetensorError, deserialize

    try:
        tensors: dict[str, dict[str, Any]] = dict(deserialize(data))  # type: ignore[no-untyped-call]  # C code
    except SafetensorError as error:
        raise ValueError(f"not safetensors: {error}") from error
    header = _header(data)
    if set(tensors) != set(COLUMNS):
        odd = sorted(set(tensors) ^ set(COLUMNS))
        raise ValueError(f"the columns are not those of an index: {odd[0]!r} is missing or unknown")
    columns: dict[str, NDArray[Any]] = {}
    for name, kind in COLUMNS.items():
        tensor = tensors[name]
        dtype = np.dtype(kind)
        if tensor["dtype"] != _NAMES[dtype.name]:
            raise ValueError(f"{name} is of type {tensor['dtype']}, not {_NAMES[dtype.name]}")
        columns[name] = np.frombuffer(tensor["data"], dtype.newbyteorder("<")).reshape(tensor["shape"])
    _check(columns, header)
    return header, columns


def _header(data: bytes) -> dict[str, Any]:
    (length,) = struct.unpack_from("<Q", data)
    try:
        header = parse_json(parse_json(data[8 : 8 + length], dict[str, Any])["__metadata__"]["kikimimi"], Any)  # pyright: ignore[reportArgumentType]
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError("not an index of a shard") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError("not an index of a shard")
    if header.get("version") != INDEX_VERSION:
        raise OtherVersionError(f"is of version {header.get('version')}, not {INDEX_VERSION}")
    texts = {name: header.get(name) for name in ("languages", "licenses")}
    rejected = header.get("rejected")
    fits = {name: type(header.get(name)) is kind for name, kind in _HEADER.items()}
    fits["bytes"] = fits["bytes"] and 0 <= header["bytes"] < 1 << 62
    fits |= {name: isinstance(x, list) and {*map(type, x)} <= {str} for name, x in texts.items()}
    fits["rejected"] = isinstance(rejected, list) and all(
        isinstance(item, list) and [type(value) for value in item] == [str, int, str] for item in rejected
    )
    for name, right in fits.items():
        if not right:
            raise ValueError(f"its header lacks {name!r}")
    return header


def _check(columns: Columns, header: Mapping[str, Any]) -> None:
    rows = columns["offsets"].size
    for name in COLUMNS:
        shape = (rows,) if name in _PER_ROW else (rows, 32) if name == "hashes" else (columns[name].size,)
        if columns[name].shape != shape:
            raise ValueError(f"{name} has the shape {columns[name].shape}, not {shape}")
    offsets, sizes = columns["offsets"], columns["sizes"]
    if rows and (
        offsets.min() < 0
        or sizes.min() < 2 * BLOCK
        or offsets.max() > header["bytes"]
        or (sizes > header["bytes"] - offsets).any()
        or (offsets[1:] < offsets[:-1] + sizes[:-1]).any()
        or ((offsets | sizes) % BLOCK).any()
    ):
        raise ValueError("records overlap, or reach past the end of the shard")
    if sizes.max(initial=0) > MAX_RECORD:
        raise ValueError(f"a record has {sizes.max()} bytes; at most {MAX_RECORD} are read")
    for name in ("seconds", "clip_seconds", "characters"):
        if not np.isfinite(columns[name]).all() or columns[name].min(initial=0) < 0:
            raise ValueError(f"{name} holds what is not a length")
    for bounds, values in (("clip_ends", "clip_seconds"), ("key_ends", "key_bytes")):
        ends = columns[bounds]
        total = int(ends[-1]) if rows else 0
        if (ends[1:] < ends[:-1]).any() or ends.min(initial=0) < 0 or total != columns[values].size:
            raise ValueError(f"{bounds} and {values} do not fit together")
    for name in ("languages", "licenses"):
        if columns[name].min(initial=0) < -1 or columns[name].max(initial=-1) >= len(header[name]):
            raise ValueError(f"{name} holds codes without a name")
    keys, key_ends = columns["key_bytes"], columns["key_ends"]
    keys.tobytes().decode("utf-8")  # UnicodeDecodeError is a ValueError
    if ((keys[key_ends[key_ends < keys.size]] & 0xC0) == 0x80).any():
        raise ValueError("a key ends within a character")
    if _digest(columns, header) != header["digest"]:
        raise ValueError("its digest is not that of its columns: damaged")

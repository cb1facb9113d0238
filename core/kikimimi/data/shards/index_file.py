"""The file of an index: columns in safetensors, and a JSON header in its metadata.

Version 2. Version 1 was JSON Lines, which take minutes to parse at millions of rows; these columns are copied
once. Nothing in the file is believed: each column is checked before a byte of the shard is read by it.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FORMAT = "kikimimi-index"
VERSION = 2

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
"""Every column and its type; `kikimimi.data.shards.index.ShardIndex` tells what they hold."""

_PER_ROW = ("offsets", "sizes", "seconds", "characters", "clip_ends", "languages", "licenses", "key_ends")
_NAMES = {"float32": "F32", "int16": "I16", "int32": "I32", "int64": "I64", "uint8": "U8"}  # in the file
_BLOCK = 512

Columns = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Rejected:
    """A record that an index leaves out.

    Attributes:
        key: Its name, or an empty text where none can be told.
        offset: Of its first header in the shard, or of where the shard breaks off [bytes].
        reason: What is wrong with it.
    """

    key: str
    offset: int
    reason: str


class OtherVersionError(ValueError):
    """The file is an index, but of another version."""


def digest_of(columns: Columns, language_names: tuple[str, ...], license_names: tuple[str, ...]) -> str:
    """Return the SHA-256 (hex) of what an index says of a shard's content."""
    digest = hashlib.sha256(json.dumps([VERSION, language_names, license_names]).encode())
    for name in COLUMNS:
        digest.update(np.ascontiguousarray(columns[name]).data)
    return digest.hexdigest()


def write_columns(columns: Columns, header: Mapping[str, Any]) -> bytes:
    """Return the bytes of an index file; the same columns and header always give the same."""
    from safetensors.numpy import save

    whole = {"format": FORMAT, "version": VERSION, **header}
    text = json.dumps(whole, ensure_ascii=False, sort_keys=True)
    # One entry of metadata: the order of several is not fixed.
    return save({name: np.ascontiguousarray(columns[name]) for name in COLUMNS}, {"kikimimi": text})


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
        header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["kikimimi"])
    except (KeyError, TypeError) as error:
        raise ValueError("not an index of a shard") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError("not an index of a shard")
    if header.get("version") != VERSION:
        raise OtherVersionError(f"is of version {header.get('version')}, not {VERSION}")
    for name, kind in {"shard": str, "digest": str, "bytes": int}.items():
        if not isinstance(header.get(name), kind):
            raise ValueError(f"its header lacks {name!r}")
    for name in ("languages", "licenses"):
        names = header.get(name)
        if not isinstance(names, list) or not all(isinstance(item, str) for item in names):
            raise ValueError(f"its header lacks {name!r}")
    rejected = header.get("rejected")
    if not isinstance(rejected, list) or not all(
        isinstance(item, list) and [type(value) for value in item] == [str, int, str] for item in rejected
    ):
        raise ValueError("its header lacks 'rejected'")
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
        or sizes.min() < 2 * _BLOCK
        or offsets.max() > header["bytes"]
        or (sizes > header["bytes"] - offsets).any()
        or (offsets[1:] < offsets[:-1] + sizes[:-1]).any()
        or ((offsets | sizes) % _BLOCK).any()
    ):
        raise ValueError("records overlap, or reach past the end of the shard")
    for name in ("seconds", "clip_seconds"):
        if not np.isfinite(columns[name]).all() or columns[name].min(initial=0) < 0:
            raise ValueError(f"{name} holds what is not a length")
    if columns["characters"].min(initial=0) < 0:
        raise ValueError("characters holds what is not a length")
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
    if digest_of(columns, tuple(header["languages"]), tuple(header["licenses"])) != header["digest"]:
        raise ValueError("its digest is not that of its columns: damaged")

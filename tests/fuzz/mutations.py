"""How files come to be damaged, by disks, kills, programs and people: each time as its seed decides."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from random import Random
from typing import Any

Mutation = Callable[[bytes, Random], bytes]

_NUMBERS = (
    0,
    1,
    -1,
    2,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    1 << 30,
)
_WIDE = (1 << 62, (1 << 63) - 1, (1 << 64) - 1)


def _place(data: bytes, rng: Random) -> int:
    # Half of them near the beginning, where headers are.
    return rng.randrange(min(len(data), 512) if rng.random() < 0.5 else len(data)) if data else 0


def _range(data: bytes, rng: Random) -> tuple[int, int]:
    begin = _place(data, rng)
    return begin, min(len(data), begin + rng.choice((1, 2, 4, 16, 100, 512, 4096, len(data) // 3 + 1)))


def cut(data: bytes, rng: Random) -> bytes:
    """Break off."""
    return data[: rng.randrange(len(data))] if data else data


def cut_front(data: bytes, rng: Random) -> bytes:
    """Lack the beginning."""
    return data[_place(data, rng) + 1 :]


def leave_out(data: bytes, rng: Random) -> bytes:
    """Lack a stretch in the middle."""
    begin, end = _range(data, rng)
    return data[:begin] + data[end:]


def repeat(data: bytes, rng: Random) -> bytes:
    """Hold a stretch twice."""
    begin, end = _range(data, rng)
    return data[:end] + data[begin:end] + data[end:]


def insert(data: bytes, rng: Random) -> bytes:
    """Hold bytes of something else."""
    begin = _place(data, rng)
    return data[:begin] + rng.randbytes(rng.choice((1, 2, 3, 17, 512))) + data[begin:]


def flip(data: bytes, rng: Random) -> bytes:
    """Have bits flipped."""
    if not data:
        return data
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        damaged[_place(data, rng)] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def fill(data: bytes, rng: Random) -> bytes:
    """Have a stretch of zeros or ones, as a block that was never written."""
    begin, end = _range(data, rng)
    return data[:begin] + rng.choice((b"\0", b"\xff")) * (end - begin) + data[end:]


def swap(data: bytes, rng: Random) -> bytes:
    """Have two stretches in each other's place."""
    begin, end = _range(data, rng)
    return data[end : 2 * end - begin] + data[begin:end] + data[:begin] + data[2 * end - begin :]


def number(data: bytes, rng: Random) -> bytes:
    """Have a number that means something where a header may keep one."""
    if len(data) < 8:
        return data
    begin = min(_place(data, rng), len(data) - 8)
    if rng.random() < 0.3:
        put = struct.pack(rng.choice("<>") + "Q", rng.choice((*_WIDE, 0, 1, len(data))))
    else:
        put = struct.pack(rng.choice("<>") + "I", rng.choice((*_NUMBERS, len(data))) & 0xFFFFFFFF)
    return data[:begin] + put + data[begin + len(put) :]


def append(data: bytes, rng: Random) -> bytes:
    """Go on after the end: with zeros, with noise, with itself."""
    return data + rng.choice((b"\0" * 1024, rng.randbytes(700), data, b"\n", data[: len(data) // 2]))


def other(data: bytes, rng: Random) -> bytes:
    """Be something else: nothing, a page, zeros of the same size, another encoding."""
    kinds = (b"", b"<html><body>404</body></html>", b"\0" * len(data), b"{", b"null", b"\x80\x04N.", b"\xff")
    chosen = rng.randrange(len(kinds) + 1)
    if chosen < len(kinds):
        return kinds[chosen]
    return (
        data[:100_000].decode("utf-8", errors="replace").encode(rng.choice(("utf-16", "utf-16-be", "utf-32")))
    )


BYTES: tuple[Mutation, ...] = (
    cut,
    cut,
    cut_front,
    leave_out,
    repeat,
    insert,
    flip,
    flip,
    flip,
    fill,
    swap,
    number,
    number,
    append,
    other,
)

VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1 << 40,
    10**400,
    0.5,
    float("nan"),
    float("inf"),
    -1e308,
    "",
    " ",
    "no",
    "NaN",
    "1:30",
    "010",
    "a\x00b",
    "\x1b[31mred\x1b[0m",
    "line\u2028break\x85",
    "\ufeff",
    "a\rb",
    "\t",
    "が",
    "../../../etc/passwd",
    "/dev/zero",
    "x" * 200_000,
    "${oc.env:HOME}",
    "${batch}",
    "[red]",
    "{{7*7}}",
    [],
    {},
    [[]],
    {"": {}},
    [None] * 50,
    {"a": 1},
)

_SNIPPETS = (
    "&a [*a]",
    "*a",
    "<<: *a",
    "!!python/object/apply:os.system ['true']",
    "!!binary aGk=",
    "- - - -",
    "? x",
    "[" * 3000,
    "{a: " * 500,
    "---\n",
    "%YAML 1.1\n",
    "\x00",
    "\u2028",
    "\x85",
    "\ufeff",
    "\r",
    "\t",
    '"',
    "'",
    ",",
    "\n\n",
    "🎤",
    "1e999",
    ".inf",
    ".nan",
    "0x10",
    "2024-01-01",
    "${",
    "\\",
)

_TOKEN = re.compile(r"[\w.+-]+")


def text(data: bytes, rng: Random) -> bytes:
    """Be edited as people and programs edit text: a word, a line, a mark."""
    words = data.decode("utf-8", errors="surrogateescape")
    lines = words.split("\n")
    at = rng.randrange(len(lines))
    kind = rng.randrange(7)
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(at, lines[rng.randrange(len(lines))])
    elif kind == 2:
        lines[at] = " " * rng.choice((1, 2, 3, 8)) + lines[at]
    elif kind == 3:
        lines[at] = lines[at].lstrip()
    elif kind == 4:
        place = rng.randrange(len(lines[at]) + 1)
        lines[at] = lines[at][:place] + rng.choice(_SNIPPETS) + lines[at][place:]
    else:
        tokens = list(_TOKEN.finditer(lines[at]))
        if tokens:
            token = rng.choice(tokens)
            value = rng.choice(VALUES)
            put = value if isinstance(value, str) else json.dumps(value)
            lines[at] = lines[at][: token.start()] + put + lines[at][token.end() :]
    return "\n".join(lines).encode("utf-8", errors="surrogateescape")


def tree(value: Any, rng: Random) -> Any:
    """Have a value of another type or size, one entry less, or one more."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        kind = rng.random()
        if kind < 0.1:
            return {name: item for name, item in value.items() if name != key}
        if kind < 0.2:
            return {**value, rng.choice(("", "a\x1b[0m", "x.y", key.upper(), "\ud83d")): rng.choice(VALUES)}
        return {**value, key: tree(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.85:
        at = rng.randrange(len(value))
        kind = rng.random()
        if kind < 0.1:
            return value[:at] + value[at + 1 :]
        if kind < 0.2:
            return [*value, value[at]]
        return [*value[:at], tree(value[at], rng), *value[at + 1 :]]
    if rng.random() < 0.02:
        return _deep(rng)
    return rng.choice(VALUES)


def _deep(rng: Random) -> Any:
    value: Any = 1
    for _ in range(rng.choice((50, 400))):
        value = [value] if rng.random() < 0.5 else {"a": value}
    return value


def json_lines(data: bytes, rng: Random) -> bytes:
    """Hold a line with a value of another type or size."""
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    try:
        value = json.loads(lines[at])
    except ValueError:
        return text(data, rng)
    lines[at] = json.dumps(tree(value, rng), ensure_ascii=rng.random() < 0.5).encode(
        "utf-8", errors="surrogatepass"
    )
    return b"\n".join(lines)


def json_file(data: bytes, rng: Random) -> bytes:
    """Hold a value of another type or size."""
    try:
        value = json.loads(data)
    except ValueError:
        return text(data, rng)
    return json.dumps(tree(value, rng), ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")


class Unharmed(Random):
    """Decides that nothing is damaged."""


def mutated(data: bytes, rng: Random, kinds: tuple[Mutation, ...]) -> bytes:
    """Return the data after one to three mutations."""
    if isinstance(rng, Unharmed):
        return data
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = rng.choice(kinds)(data, rng)
    return data

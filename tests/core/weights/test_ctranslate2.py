from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from kikimimi import WeightsError, find_weights
from kikimimi.weights.ctranslate2 import CTranslate2File

TYPES = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}


def text(value: str) -> bytes:
    return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"


def tensor(name: str, values: NDArray[np.generic]) -> bytes:
    shape = struct.pack(f"<B{values.ndim}I", values.ndim, *values.shape)
    kind = struct.pack("<BI", TYPES[str(values.dtype)], values.nbytes)
    return text(name) + shape + kind + values.tobytes()


WEIGHT = np.array([[1.0, -2.0, 0.5], [0.25, 4.0, -1.0]], np.float32)
SCALE = (127 / np.abs(WEIGHT).max(axis=1)).astype(np.float32)
TENSORS = [
    tensor("plain/weight", WEIGHT),
    tensor("half/weight", WEIGHT.astype(np.float16)),
    tensor("int8/weight", np.rint(WEIGHT * SCALE[:, None]).astype(np.int8)),
    tensor("int8/weight_scale", SCALE),
    tensor("int16/weight", np.rint(WEIGHT * 256).astype(np.int16)),
    tensor("int16/weight_scale", np.array(256, np.float32)),
    tensor("num_heads", np.array(8, np.int16)),
]
HEADER = struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<I", 3)
ALIASES = struct.pack("<I", 1) + text("alias/weight") + text("int8/weight")
MODEL = HEADER + struct.pack("<I", len(TENSORS)) + b"".join(TENSORS) + ALIASES


def opened(folder: Path, data: bytes, *, cut: int | None = None) -> CTranslate2File:
    folder.mkdir(exist_ok=True)
    if cut is None:
        (folder / "model.bin").write_bytes(data)
    else:
        (folder / "model.bin.part1").write_bytes(data[:cut])
        (folder / "model.bin.part2").write_bytes(data[cut:])
    files = find_weights(str(folder))
    assert files is not None
    return CTranslate2File(files)


@pytest.mark.parametrize("cut", [None, 3, len(HEADER) + 40, len(MODEL) - 1])
def test_reads_every_type_from_a_whole_or_split_file(tmp_path: Path, cut: int | None) -> None:
    file = opened(tmp_path / "m", MODEL, cut=cut)
    assert file.specification == "WhisperSpec"
    assert file.shapes["plain/weight"] == (2, 3)
    names = ["plain/weight", "half/weight", "int16/weight"]
    for values in file.tensors(names).values():
        assert values.dtype == torch.float32
        assert values.tolist() == WEIGHT.tolist()
    assert file.number("num_heads") == 8


def test_int8_is_multiplied_out_through_an_alias_too(tmp_path: Path) -> None:
    file = opened(tmp_path / "m", MODEL)
    tensors = file.tensors(["int8/weight", "alias/weight"])
    step = torch.from_numpy(0.5 / SCALE)[:, None]
    assert ((tensors["int8/weight"] - torch.from_numpy(WEIGHT)).abs() <= step).all()
    assert torch.equal(tensors["int8/weight"], tensors["alias/weight"])


def test_a_tensor_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no tensor 'plain/weigth'. Did you mean 'plain/weight'\?"):
        opened(tmp_path / "m", MODEL).tensors(["plain/weigth"])


@pytest.mark.parametrize("length", [0, 3, 10, len(HEADER), len(HEADER) + 30, len(MODEL) // 2, len(MODEL) - 1])
def test_a_truncated_file(tmp_path: Path, length: int) -> None:
    with pytest.raises(WeightsError, match=r"'model.bin' is truncated: at byte"):
        opened(tmp_path / "m", MODEL[:length])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            struct.pack("<I", 3) + MODEL[4:],
            r"not a CTranslate2 model of format version 6 \(its first number is 3\)",
        ),
        (b"PK\x03\x04" + MODEL, "is of another format"),
        (MODEL + b"xy", "is damaged: 2 bytes follow its end"),
        (MODEL[: -len(text("int8/weight"))] + text("lost/weight"), "alias 'alias/weight' leads nowhere"),
        (
            HEADER + struct.pack("<I", 1) + text("a") + b"\0" + b"\x09" + struct.pack("<I", 0),
            "unknown type 9",
        ),
        (
            HEADER + struct.pack("<I", 1) + text("a") + struct.pack("<BIBI", 1, 5, 0, 7),
            r"tensor 'a' of shape \[5\] and type torch.float32 has 7 bytes",
        ),
        (HEADER + struct.pack("<I", 1) + struct.pack("<H", 2) + b"\xff\xff", "a name is not text"),
    ],
)
def test_a_damaged_file(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        opened(tmp_path / "m", data)

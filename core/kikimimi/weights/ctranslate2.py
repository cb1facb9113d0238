"""Reads CTranslate2's `model.bin`, the format of faster-whisper, without ctranslate2.

The file is little-endian: a version, the name of a model specification and its revision, then for each
tensor its name, shape, type and bytes, then aliases. Written by `model_spec.py` of
https://github.com/OpenNMT/CTranslate2.
"""

import math
import struct
from dataclasses import dataclass
from typing import BinaryIO

import torch
from torch import Tensor

from kikimimi.console.words import nearest
from kikimimi.errors import WeightsError
from kikimimi.weights.files import WeightsFiles

_VERSION = 6
_DTYPES = (torch.float32, torch.int8, torch.int16, torch.int32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class _Entry:
    shape: tuple[int, ...]
    dtype: torch.dtype
    offset: int
    size: int


class CTranslate2File:
    """The tensors of a `model.bin`, each read when it is asked for.

    Attributes:
        specification: Name of the model specification (`WhisperSpec`).
        shapes: The shape of each tensor.
    """

    def __init__(self, files: WeightsFiles, name: str = "model.bin") -> None:
        """Read the header.

        Raises:
            WeightsError: The file is of another format or version, or is truncated or damaged.
        """
        self._files = files
        self._name = name
        with files.open(name) as file:
            header = _Header(file, f"{files.source}: '{name}'")
            self.specification, self._entries, self._aliases = header.read()
        self.shapes = {key: entry.shape for key, entry in self._entries.items()}

    def number(self, name: str) -> int:
        """Return a scalar as an integer."""
        return int(self.tensors([name])[name].item())

    def tensors(self, names: list[str]) -> dict[str, Tensor]:
        """Read tensors as float32; int8 and int16 weights are multiplied out with their scales.

        Raises:
            WeightsError: A tensor is not there.
        """
        with self._files.open(self._name) as file:
            return {name: self._read(file, name) for name in names}

    def _read(self, file: BinaryIO, name: str) -> Tensor:
        values = self._raw(file, name).float()
        scale_name = f"{self._aliases.get(name, name)}_scale"
        if scale_name not in self._entries:
            return values
        # A weight w is stored as round(w * scale); one scale per row (int8) or for the tensor (int16).
        scale = self._raw(file, scale_name).float()
        return values / scale.reshape(-1, *[1] * (values.dim() - 1)) if scale.dim() else values / scale

    def _raw(self, file: BinaryIO, name: str) -> Tensor:
        name = self._aliases.get(name, name)
        if name not in self._entries:
            raise WeightsError(
                f"{self._files.source}: '{self._name}' has no tensor '{name}'.{nearest(name, self._entries)}"
            )
        entry = self._entries[name]
        file.seek(entry.offset)
        data = bytearray(file.read(entry.size))
        return torch.frombuffer(data, dtype=entry.dtype).reshape(entry.shape)


class _Header:
    """Walks through the file, checking every length against what is left of it."""

    def __init__(self, file: BinaryIO, where: str) -> None:
        self._file = file
        self._where = where
        self._size = file.seek(0, 2)
        file.seek(0)

    def read(self) -> tuple[str, dict[str, _Entry], dict[str, str]]:
        version = self._number("<I")
        if version != _VERSION:
            raise WeightsError(
                f"{self._where} is not a CTranslate2 model of format version {_VERSION} (its first number is "
                f"{version}): it is of another format, or an old conversion to be made again with a current "
                "ctranslate2"
            )
        specification = self._text()
        self._number("<I")  # the specification's revision: the tensors' names and shapes are checked instead
        entries = dict(self._entry() for _ in range(self._number("<I")))
        aliases = {self._text(): self._text() for _ in range(self._number("<I"))}
        rest = self._size - self._file.tell()
        if rest:
            raise WeightsError(f"{self._where} is damaged: {rest} bytes follow its end")
        dangling = [name for name, target in aliases.items() if target not in entries]
        if dangling:
            raise WeightsError(f"{self._where} is damaged: alias '{dangling[0]}' leads nowhere")
        return specification, entries, aliases

    def _entry(self) -> tuple[str, _Entry]:
        name = self._text()
        shape = tuple(self._number("<I") for _ in range(self._number("<B")))
        type_id = self._number("<B")
        if type_id >= len(_DTYPES):
            raise WeightsError(f"{self._where} is damaged: tensor '{name}' is of the unknown type {type_id}")
        dtype = _DTYPES[type_id]
        size = self._number("<I")
        if size != math.prod(shape) * dtype.itemsize:
            raise WeightsError(
                f"{self._where} is damaged: tensor '{name}' of shape {list(shape)} and type {dtype} "
                f"has {size} bytes"
            )
        offset = self._file.tell()
        self._need(size)
        self._file.seek(offset + size)
        return name, _Entry(shape, dtype, offset, size)

    def _need(self, count: int) -> None:
        position = self._file.tell()
        if position + count > self._size:
            raise WeightsError(
                f"{self._where} is truncated: at byte {position}, {count} more are announced and "
                f"{self._size - position} are left"
            )

    def _number(self, form: str) -> int:
        size = struct.calcsize(form)
        self._need(size)
        (value,) = struct.unpack(form, self._file.read(size))
        return int(value)

    def _text(self) -> str:
        count = self._number("<H")
        self._need(count)
        # Texts end in a zero byte, which the length counts.
        data = self._file.read(count)
        try:
            return data.rstrip(b"\0").decode()
        except UnicodeDecodeError:
            raise WeightsError(f"{self._where} is damaged: a name is not text: {data[:40]!r}") from None

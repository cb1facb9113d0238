"""Named tensors in safetensors files: one file, or a piece with some rows for each rank of a sharded run.

A piece of a sharded file knows which rows of which tensor it holds; reading takes what is asked for from
whichever pieces hold it, so that it does not matter how many ranks wrote it, nor how many read.
"""

import errno
import hashlib
import json
import os
import re
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from kikimimi.files.hashes import BLANK, MANIFEST, OF_ITSELF, SEAL, SEAL_OF, FileMark, check_files, check_seal
from kikimimi.files.reading import parse_json, paths_in

_PIECE = re.compile(r"(?P<stem>.+)\.rank\d+-of-(?P<ranks>\d+)\.safetensors")
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in one or more files, of which nothing is read yet.

    Attributes:
        name: Name in the files.
        shape: The whole tensor's shape.
        pieces: The pieces, each with its first row and the number of rows; a whole tensor is one piece.
    """

    name: str
    shape: torch.Size
    pieces: tuple[tuple[int, int, Path], ...]

    def rows(self, start: int, stop: int) -> Tensor:
        """Read rows; no other row is read."""
        read = []
        for first, number, path in self.pieces:
            begin, end = max(start, first), min(stop, first + number)
            if begin < end:
                with safe_open(path, framework="pt") as file:
                    read.append(file.get_slice(self.name)[begin - first : end - first])
        if not read:
            return self._read_first()[:0]
        return read[0] if len(read) == 1 else torch.cat(read)

    def whole(self) -> Tensor:
        """Read all of it."""
        return self._read_first() if len(self.pieces) == 1 else self.rows(0, self.shape[0])

    def _read_first(self) -> Tensor:
        with safe_open(self.pieces[0][2], framework="pt") as file:
            tensor: Tensor = file.get_tensor(self.name)
        return tensor


def stored_tensors(path: Path) -> dict[str, StoredTensor]:
    """Return what a file, or the set that a piece belongs to, holds.

    Raises:
        OSError: A file is missing.
        ValueError: Rows of a tensor are missing, a file is no safetensors file, or damaged, or files of
            another set lie beside it.
    """
    found: dict[str, list[tuple[int, int, Path]]] = {}
    shapes: dict[str, torch.Size] = {}
    for piece in _pieces_of(path):
        try:
            with safe_open(piece, framework="pt") as file:
                held = {name: torch.Size(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
                offsets = parse_json((file.metadata() or {}).get("rows", "{}"), dict[str, tuple[int, int]])
        except (SafetensorError, ValueError) as error:
            raise ValueError(f"{piece.name} is no safetensors file, or ends too early: {error}") from error
        for name, shape in held.items():
            first, total = offsets.get(name, (0, shape[0] if shape else 1))
            shapes[name] = torch.Size((total, *shape[1:])) if shape else shape
            found.setdefault(name, []).append((first, shape[0] if shape else 1, piece))
    for name, pieces in found.items():
        expected, total = 0, shapes[name][0] if shapes[name] else 1
        for first, number, _ in [*sorted(pieces, key=lambda piece: piece[:2]), (total, 0, path)]:
            if first != expected:
                raise ValueError(f"row {expected} of {name} is in none of the files of {path.name}")
            expected += number
    return {name: StoredTensor(name, shapes[name], tuple(pieces)) for name, pieces in found.items()}


def check_stage(path: Path, stage: str) -> None:
    """Check that what a stage of a run left, or had reached, is in the place of that stage.

    Args:
        path: The file, or one of the pieces, of which `stored_tensors` finds nothing wrong.
        stage: The stage; what the header tells nothing of is taken as it is.

    Raises:
        ValueError: It is another's.
    """
    for piece in _pieces_of(path):
        with safe_open(piece, framework="pt") as file:
            texts = file.metadata() or {}
        told = parse_json(texts["kikimimi"], dict[str, Any]) if "kikimimi" in texts else texts
        if (other := told.get("stage", stage)) != stage:
            raise ValueError(f"{piece.name} holds the weights of stage '{other}', not of stage '{stage}'")


def check_stored(path: Path) -> bool:
    """Check the files of a set against their hashes.

    Args:
        path: The file, or one of the pieces.

    Returns:
        Whether they have any: earlier versions wrote none.

    Raises:
        OSError: A file is missing, or cannot be read.
        ValueError: A file is not as it was written.
    """
    pieces = _pieces_of(path)
    if os.path.lexists(path.parent / MANIFEST):
        return check_files(path.parent, {}, [piece.name for piece in pieces])
    sealed = [check_seal(piece) for piece in pieces]
    return all(sealed)


def piece_name(stem: str, rank: int = 0, ranks: int = 1) -> str:
    """Return the name of one rank's file of a set; of a single rank's, the file is whole."""
    return f"{stem}.safetensors" if ranks == 1 else f"{stem}.rank{rank}-of-{ranks}.safetensors"


def find_set(folder: Path, stem: str) -> Path:
    """Return the file of a set, or the first of its pieces; of a set that is not there, its file if whole."""
    pieces = paths_in(folder, f"{stem}.rank0-of-*.safetensors")
    return pieces[0] if pieces else folder / piece_name(stem)


def _pieces_of(path: Path) -> list[Path]:
    """Return the files of a set: the path itself, or of a piece, all pieces that belong together.

    Raises:
        OSError: A piece is missing.
        ValueError: Files of another set lie beside it.
    """
    stem, ranks = _set_of(path.name)
    beside = [file.name for file in paths_in(path.parent, "*.safetensors") if _set_of(file.name)[0] == stem]
    if other := [name for name in beside if _set_of(name)[1] != ranks]:
        raise ValueError(f"{other[0]} lies beside {path.name}: files of two are mixed")
    pieces, held = [path], set(beside)
    for rank in range(ranks or 0):  # a name may promise any number of them
        piece = path.with_name(f"{stem}.rank{rank}-of-{ranks}.safetensors")
        if piece.name not in held:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(piece))
        pieces[rank:] = [piece]
    return pieces


def _set_of(name: str) -> tuple[str, int | None]:
    """Return what a set is called, and the number of its pieces; None where it is one whole file."""
    found = _PIECE.fullmatch(name)
    if found is None:
        return name.removesuffix(".safetensors"), None
    return found["stem"], int(found["ranks"])


def write_tensors(
    path: Path | None,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    *,
    fetch: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    seal: bool = False,
) -> FileMark:
    """Write safetensors, one tensor after the other; the same tensors give the same bytes.

    Args:
        path: The file; None where another rank writes it and this one only helps to fetch.
        tensors: Tensors by name.
        metadata: Texts for the header.
        fetch: Brings the values of a tensor here, of the same shape and dtype; called for every tensor in an
            order that depends on names and dtypes alone, also after a failure, since other ranks take part.
        seal: Put the SHA-256 of the file, taken while zeros stand in its place, into its header.

    Returns:
        Size and SHA-256 of what was written; of a sealed file, of what it was before.

    Raises:
        OSError: The disk is full, or fails.
    """
    failure: OSError | None = None
    sealing = {SEAL: BLANK, SEAL_OF: OF_ITSELF} if seal else {}
    header = _header(tensors, {**metadata, **sealing})
    digest, size = hashlib.sha256(header), len(header)
    with open(os.devnull if path is None else path, "wb") as file:
        try:
            file.write(header)
        except OSError as error:
            failure = error
        for name in _file_order(tensors):
            values = fetch(tensors[name])
            if path is None or failure is not None:
                continue
            values = values.detach().cpu().contiguous()
            content = values.reshape(-1).view(torch.uint8).numpy().data
            digest.update(content)
            size += len(content)
            try:
                file.write(content)
            except OSError as error:
                failure = error
        if failure is not None:
            raise failure
        if seal:
            file.seek(header.index(f'"{SEAL}":"{BLANK}"'.encode()) + len(f'"{SEAL}":"'))
            file.write(digest.hexdigest().encode())
    return FileMark(size, digest.hexdigest())


def _header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    offset = 0
    for name in _file_order(tensors):
        tensor = tensors[name]
        size = tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    return struct.pack("<Q", len(encoded)) + encoded


def _file_order(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return names in the order of the file: wide numbers first, so that all are aligned."""
    return sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))


def row_range(tensor: DTensor) -> tuple[int, int]:
    """Return which rows of a tensor, sharded over one dimension of ranks, this rank owns: from, up to."""
    (placement,) = tensor.placements
    assert placement == Shard(0), placement
    share = -(-tensor.shape[0] // tensor.device_mesh.size())
    start = min(tensor.device_mesh.get_local_rank() * share, tensor.shape[0])
    stop = min(start + share, tensor.shape[0])
    assert tensor.to_local().shape[0] == stop - start
    return start, stop


def local_rows(tensor: Tensor) -> tuple[Tensor, list[int] | None]:
    """Return what this rank holds of a tensor; where that is a part, with its first row and all rows."""
    if not isinstance(tensor, DTensor):
        return tensor.detach(), None
    with torch.no_grad():
        return tensor.to_local().detach(), [row_range(tensor)[0], tensor.shape[0]]


@torch.no_grad()
def copy_into(target: Tensor, source: Tensor | StoredTensor) -> None:
    """Copy values into a tensor of the same shape; of a sharded one, this rank's rows alone are read."""
    if isinstance(target, DTensor):
        start, stop = row_range(target)
        rows = source.rows(start, stop) if isinstance(source, StoredTensor) else source[start:stop]
        target.to_local().copy_(rows)
    else:
        target.copy_(source.whole() if isinstance(source, StoredTensor) else source)


def like(target: Tensor, source: StoredTensor) -> Tensor:
    """Read a tensor that is sharded as `target` is where it has its shape (an optimiser's moments)."""
    if not isinstance(target, DTensor) or source.shape != target.shape:
        return source.whole()
    rows = source.rows(*row_range(target)).to(target.device)
    return DTensor.from_local(
        rows,
        target.device_mesh,
        target.placements,
        shape=target.shape,
        stride=target.stride(),
        run_check=False,
    )


def sharded(tensors: Iterable[Tensor]) -> bool:
    """Whether any tensor is spread over ranks."""
    return any(isinstance(tensor, DTensor) for tensor in tensors)

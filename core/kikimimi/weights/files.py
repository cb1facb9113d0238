"""The files of a source of weights: which there are, and how they are read. Pickle is never loaded."""

from __future__ import annotations

import codecs
import fnmatch
import hashlib
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from kikimimi.console.words import listing, nearest, size as in_words
from kikimimi.errors import WeightsError
from kikimimi.files.reading import MEBIBYTE, parse_json

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from torch import Tensor, nn

CONFIG_PATTERNS = ("*.json", "*.txt", "*.model", "*.jinja")
"""The small files: configuration, tokenizer, chat template."""
FETCHED_PATTERNS = (*CONFIG_PATTERNS, "*.safetensors", "*.gguf")
"""What is fetched from the Hub unless a component asks for something else."""
WEIGHT_PATTERNS = ("*.safetensors", "*.gguf", "model.bin")
"""Files that hold tensors in a format that is read here."""
PICKLE_PATTERNS = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
"""Files that are, or may be, pickled; `model.bin` alone is opened, as CTranslate2's format."""

WEIGHTS_INDEX = "model.safetensors.index.json"
"""What names the shards of a model, and the tensors in each."""
MAX_SETTINGS = 128 * MEBIBYTE
"""Largest file of those that are read whole: configuration, tokenizer, names of tensors [bytes]."""
_READ_WHOLE = (
    *("*config.json", "*.index.json", "tokenizer*.json", "vocab*", "merges.txt", "added_tokens.json"),
    *("special_tokens_map.json", "chat_template*", "*.jinja", "*.model"),
)
_SHOWN = 6


@dataclass(frozen=True)
class WeightsFiles:
    """The files of one source.

    Attributes:
        source: The source as it was written.
        revision: Commit of the Hub snapshot, or None for other sources.
        files: The path of each name, or the paths of its parts in order: `model.bin.part1` and
            `model.bin.part2` are the parts of `model.bin`.
    """

    source: str
    revision: str | None
    files: Mapping[str, tuple[Path, ...]]

    def __post_init__(self) -> None:
        # Here, since transformers reads them, too.
        for name in self.names(*_READ_WHOLE):
            size = sum(part.stat().st_size for part in self.files[name] if part.is_file())
            if size > MAX_SETTINGS:
                raise WeightsError(
                    f"{self.source}: '{name}' is {in_words(size)} large; of such files, at most "
                    f"{in_words(MAX_SETTINGS)} are read"
                )

    def names(self, *patterns: str) -> list[str]:
        """Return the names that match any of the patterns (`*.gguf`), or all of them, sorted."""
        return sorted(name for name in self.files if not patterns or matches_any(name, patterns))

    def parts(self, name: str) -> tuple[Path, ...]:
        """Return the paths whose contents, one after the other, are the file.

        Raises:
            WeightsError: There is no such file.
        """
        if name not in self.files:
            raise WeightsError(
                f"{self.source}: has no file '{name}'.{nearest(name, self.files)} "
                f"Files: {listing(self.files)}"
            )
        return self.files[name]

    def path(self, name: str) -> Path:
        """Return the path of a file that is not split.

        Raises:
            WeightsError: There is no such file, or it is split into parts.
        """
        parts = list(self.parts(name))
        if len(parts) > 1:
            raise WeightsError(
                f"{self.source}: '{name}' is split into {len(parts)} parts, and its format is read from "
                f"whole files only. Join them first: cat {' '.join(map(str, parts))} > {name}"
            )
        return parts[0]

    def open(self, name: str) -> BinaryIO:
        """Open a file, joined from its parts where it is split, for reading and seeking."""
        parts = self.parts(name)
        return parts[0].open("rb") if len(parts) == 1 else cast(BinaryIO, io.BufferedReader(_Joined(parts)))

    @property
    def folder(self) -> Path:
        """The folder that holds every file.

        Raises:
            WeightsError: The files lie in more than one folder.
        """
        folders = {part.parent for parts in self.files.values() for part in parts}
        if len(folders) != 1:
            raise WeightsError(f"{self.source}: lies in {len(folders)} folders, where one folder is needed")
        return folders.pop()

    def read_json(self, name: str) -> dict[str, Any]:
        """Parse a JSON file that holds a mapping.

        Raises:
            WeightsError: There is no such file, it is too large, or it is no such JSON.
        """
        with self.open(name) as file:
            content = file.read(MAX_SETTINGS + 1)
        if len(content) > MAX_SETTINGS:
            raise WeightsError(f"{self.source}: '{name}' is larger than {in_words(MAX_SETTINGS)}")
        try:
            return parse_json(content.removeprefix(codecs.BOM_UTF8), dict[str, Any])
        except ValueError as error:
            raise WeightsError(f"{self.source}: '{name}' {error}") from error

    def sha256(self, name: str) -> str:
        """Return the digest of a file (of its joined parts), in lower-case hexadecimal."""
        stats = [part.stat() for part in self.parts(name)]
        return _digest(self.parts(name), tuple((stat.st_size, stat.st_mtime_ns) for stat in stats))

    def state_dict(
        self, prefix: str = "", *, rename: Callable[[str], str | None] | None = None
    ) -> dict[str, Tensor]:
        """Read the tensors of `model.safetensors`, or of the shards that its index names.

        Args:
            prefix: Read only tensors whose name starts with it, and take it off.
            rename: What else to call a tensor of this name; None is not to read it.

        Raises:
            WeightsError: There is no safetensors file, a shard is missing, or one is damaged.
        """
        state: dict[str, Tensor] = {}
        for name in self._shards():
            with self._opened(name) as shard:
                for key in shard.keys():  # noqa: SIM118 - not a mapping
                    kept = key.removeprefix(prefix) if key.startswith(prefix) else None
                    if kept is not None and rename is not None:
                        kept = rename(kept)
                    if kept is not None:
                        state[kept] = shard.get_tensor(key)
        return state

    def not_finite(self) -> list[str]:
        """Return the names of the tensors that hold something else than finite numbers.

        Raises:
            WeightsError: As for `state_dict`.
        """
        found = []
        for name in self._shards():
            with self._opened(name) as shard:
                found += [key for key in shard.keys() if not is_finite(shard.get_tensor(key))]  # noqa: SIM118
        return found

    def tensor_names(self) -> set[str]:
        """Return the names of the tensors in the safetensors files, of which no tensor is read.

        Raises:
            WeightsError: As for `state_dict`.
        """
        if WEIGHTS_INDEX in self.files:
            return set(self._weight_map())
        names: set[str] = set()
        for name in self._shards():
            with self._opened(name) as shard:
                names.update(shard.keys())
        return names

    def shape(self, tensor: str) -> tuple[int, ...]:
        """Return the shape of a tensor, which is not read.

        Raises:
            WeightsError: There is no such tensor, or as for `state_dict`.
        """
        for name in self._shards():
            with self._opened(name) as shard:
                if tensor in shard.keys():  # noqa: SIM118 - not a mapping
                    return tuple(shard.get_slice(tensor).get_shape())
        raise WeightsError(f"{self.source}: has no tensor '{tensor}'")

    @contextmanager
    def _opened(self, name: str) -> Iterator[Any]:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path(name), framework="pt") as shard:
                yield shard
        except SafetensorError as error:
            raise WeightsError(f"{self.source}: '{name}' is not a safetensors file: {error}") from error

    def _weight_map(self) -> dict[str, str]:
        weight_map = self.read_json(WEIGHTS_INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or {*map(type, weight_map.values())} != {str}:
            raise WeightsError(f"{self.source}: '{WEIGHTS_INDEX}' has no weight_map")
        return weight_map

    def _shards(self) -> list[str]:
        if WEIGHTS_INDEX in self.files:
            return sorted(set(self._weight_map().values()))
        found = self.names("*.safetensors")
        if found:
            return ["model.safetensors"] if "model.safetensors" in found else found
        pickled = [name for name in self.files if is_pickle(name)]
        if pickled or self.revision is not None:
            held = f"only pickled weights ({listing(pickled)})" if pickled else "no *.safetensors file"
            raise WeightsError(
                f"{self.source}: holds {held}. A pickle can run any code, so it is never loaded. Convert it "
                "once, where you trust it: load the model with transformers, call save_pretrained(FOLDER), "
                "and set weights: FOLDER. On the Hub, a pull request of the repository may hold the "
                "conversion: org/name@refs/pr/NUMBER"
            )
        raise WeightsError(f"{self.source}: has no *.safetensors file. Files: {listing(self.files)}")


class _Joined(io.RawIOBase):
    """A file that is split into parts, read as one without copying it."""

    def __init__(self, parts: Sequence[Path]) -> None:
        super().__init__()
        self._files = [part.open("rb") for part in parts]
        self._sizes = [os.fstat(file.fileno()).st_size for file in self._files]
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        start = self._position
        for file, size in zip(self._files, self._sizes, strict=True):
            if start < size:
                file.seek(start)
                # A read ends with its part: the caller asks again for the rest.
                count = file.readinto(memoryview(buffer).cast("B"))
                self._position += count
                return count
            start -= size
        return 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: sum(self._sizes)}[whence]
        if base + offset < 0:
            raise ValueError(f"cannot seek to {base + offset}")
        self._position = base + offset
        return self._position

    def close(self) -> None:
        for file in self._files:
            file.close()
        super().close()


def load_state(
    module: nn.Module, state: Mapping[str, Tensor], *, source: str, ignore: Sequence[str] = ()
) -> None:
    """Copy tensors into a module; every name and shape has to fit.

    Args:
        module: What to fill; its dtypes and devices stay. Of parameters that are sharded over processes, the
            rows that this one holds are copied.
        state: Tensors by name.
        source: Where they come from, for the message.
        ignore: Patterns (`lm_head.*`) of names that may be missing or left over.

    Raises:
        WeightsError: Names are missing or unexpected, shapes differ, or whole numbers stand where others
            belong; lists them.
    """
    own = {name: value for name, value in module.state_dict().items() if not matches_any(name, ignore)}
    given = {name: value for name, value in state.items() if not matches_any(name, ignore)}
    problems = [
        *_problem("missing", [name for name in own if name not in given]),
        *_problem("unexpected", [name for name in given if name not in own]),
        *_problem(
            "of another shape",
            [
                f"{name} (is {list(given[name].shape)}, needs {list(value.shape)})"
                for name, value in own.items()
                if name in given and given[name].shape != value.shape
            ],
        ),
        *_problem(
            "of whole numbers",
            [
                _whole(name, given[name])
                for name, value in own.items()
                if name in given and value.is_floating_point() and not given[name].is_floating_point()
            ],
        ),
    ]
    if problems:
        raise WeightsError(
            f"{source}: does not fit {type(module).__name__} ({len(own)} tensors): " + "; ".join(problems)
        )
    filled = {name: value for name, value in state.items() if name in own}
    from kikimimi.weights.tensors import copy_into, sharded

    targets = module.state_dict(keep_vars=True)
    if sharded(targets.values()):
        for name, value in filled.items():
            copy_into(targets[name], value)
    else:
        # The check above is the strict one: it knows `ignore`.
        module.load_state_dict(filled, strict=False)


def is_finite(tensor: Tensor) -> bool:
    """Tell whether a tensor holds finite numbers alone; one without memory does."""
    return tensor.is_meta or bool(tensor.isfinite().all())


def _whole(name: str, tensor: Tensor) -> str:
    """Return how messages call a tensor of whole numbers (quantised ones, for instance)."""
    return f"{name} (is {str(tensor.dtype).removeprefix('torch.')}, needs floating-point numbers)"


def is_pickle(name: str) -> bool:
    """Whether a file is, or may be, pickled, going by its name."""
    return matches_any(name, PICKLE_PATTERNS) and name.rpartition("/")[2] != "model.bin"


def _problem(kind: str, names: list[str]) -> Iterator[str]:
    if names:
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        yield f"{len(names)} {kind}: {', '.join(names[:_SHOWN])}{more}"


def matches_any(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name matches any of the patterns."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


@lru_cache(maxsize=16)
def _digest(parts: tuple[Path, ...], _state: tuple[tuple[int, int], ...]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        with part.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()

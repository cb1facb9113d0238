"""Where weights come from: the Hub, a local folder, an installed package. Pickle is never loaded.

A source is written as one of

    org/name, org/name@REVISION, org/name/FILE@REVISION    the Hugging Face Hub
    ./folder, /folder, ~/folder, ./folder/FILE             this machine; so is any path that exists
    package:NAME, package:NAME+NAME, package:NAME/FILE     files that installed Python packages carry
    random                                                 none: the component starts from random weights

and ends in `@sha256:HEX` where the weights file of a folder or package has to have that digest.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from kikimimi.console.words import listing, nearest
from kikimimi.errors import WeightsError
from kikimimi.weights.joined import open_joined

if TYPE_CHECKING:
    from torch import Tensor, nn

CONFIG_PATTERNS = ("*.json", "*.txt", "*.model", "*.jinja")
"""The small files: configuration, tokenizer, chat template."""
DEFAULT_PATTERNS = (*CONFIG_PATTERNS, "*.safetensors", "*.gguf")
"""What is fetched from the Hub unless a component asks for something else."""
WEIGHT_PATTERNS = ("*.safetensors", "*.gguf", "model.bin")
"""Files that hold tensors in a format that is read here."""
PICKLE_PATTERNS = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
"""Files that are, or may be, pickled; `model.bin` alone is opened, as CTranslate2's format."""

INDEX = "model.safetensors.index.json"
"""What names the shards of a model, and the tensors in each."""
_SHOWN = 6


@dataclass(frozen=True)
class WeightsFiles:
    """The files of one source.

    Attributes:
        source: The source as it was written.
        revision: Commit of the Hub snapshot, or None for other sources.
        files: For each name its path, or the paths of its parts in order: `model.bin.part1` and
            `model.bin.part2` are the parts of `model.bin`.
    """

    source: str
    revision: str | None
    files: Mapping[str, tuple[Path, ...]]

    def names(self, *patterns: str) -> list[str]:
        """Return the names that match any of the patterns (`*.gguf`), or all of them, sorted."""
        return sorted(name for name in self.files if not patterns or matches(name, patterns))

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
        return open_joined(self.parts(name))

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

    def read_json(self, name: str) -> Any:
        """Parse a JSON file.

        Raises:
            WeightsError: There is no such file, or it is not JSON.
        """
        with self.open(name) as file:
            try:
                return json.load(file)
            except ValueError as error:
                raise WeightsError(f"{self.source}: '{name}' is not JSON: {error}") from error

    def sha256(self, name: str) -> str:
        """Return the digest of a file (of its joined parts), in lower-case hexadecimal."""
        stats = [part.stat() for part in self.parts(name)]
        return _digest(self.parts(name), tuple((stat.st_size, stat.st_mtime_ns) for stat in stats))

    def state_dict(self, prefix: str = "") -> dict[str, Tensor]:
        """Read the tensors of `model.safetensors`, or of the shards that its index names.

        Args:
            prefix: Read only tensors whose name starts with it, and take it off.

        Raises:
            WeightsError: There is no safetensors file, a shard is missing, or one is damaged.
        """
        from safetensors import SafetensorError, safe_open

        state: dict[str, Tensor] = {}
        for name in self._shards():
            try:
                with safe_open(self.path(name), framework="pt") as shard:
                    for key in shard.keys():  # noqa: SIM118 - not a mapping
                        if key.startswith(prefix):
                            state[key.removeprefix(prefix)] = shard.get_tensor(key)
            except SafetensorError as error:
                raise WeightsError(f"{self.source}: '{name}' is not a safetensors file: {error}") from error
        return state

    def _shards(self) -> list[str]:
        if INDEX in self.files:
            index = self.read_json(INDEX)
            weight_map = index.get("weight_map") if isinstance(index, dict) else None
            if not (isinstance(weight_map, dict) and weight_map):
                raise WeightsError(f"{self.source}: '{INDEX}' has no weight_map")
            return sorted(set(weight_map.values()))
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


_stand_in: ContextVar[Callable[[str], WeightsFiles] | None] = ContextVar("stand_in", default=None)


@contextmanager
def standing_in(find: Callable[[str], WeightsFiles]) -> Iterator[None]:
    """Let `find_weights` ask a function instead of the Hub: where only the shape of a model counts."""
    token = _stand_in.set(find)
    try:
        yield
    finally:
        _stand_in.reset(token)


def find_weights(spec: str, *, patterns: Sequence[str] = DEFAULT_PATTERNS) -> WeightsFiles | None:
    """Find the files of a weights source; nothing is read but what a digest needs.

    Args:
        spec: The source (see the module's docstring).
        patterns: What to fetch from the Hub, never pickles. A folder or package is listed whole.

    Returns:
        The files, or None for `random`.

    Raises:
        WeightsError: The source is malformed, does not exist, or does not have its digest.
    """
    from kikimimi.weights import sources as weights_sources

    if spec == "random":
        return None
    stand_in = _stand_in.get()
    if stand_in is not None:
        return stand_in(spec)
    source, digest = _split_digest(spec)
    files = weights_sources.locate(spec, source, pinned=digest is not None, patterns=patterns)
    if digest is not None:
        _check_digest(files, digest)
    return files


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
        WeightsError: Names are missing or unexpected, or shapes differ; lists them.
    """
    own = {name: value.shape for name, value in module.state_dict().items() if not matches(name, ignore)}
    given = {name: value for name, value in state.items() if not matches(name, ignore)}
    problems = [
        *_problem("missing", [name for name in own if name not in given]),
        *_problem("unexpected", [name for name in given if name not in own]),
        *_problem(
            "of another shape",
            [
                f"{name} (is {list(given[name].shape)}, needs {list(shape)})"
                for name, shape in own.items()
                if name in given and given[name].shape != shape
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


def is_pickle(name: str) -> bool:
    """Whether a file is, or may be, pickled, going by its name."""
    return matches(name, PICKLE_PATTERNS) and name.rpartition("/")[2] != "model.bin"


def _problem(kind: str, names: list[str]) -> Iterator[str]:
    if names:
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        yield f"{len(names)} {kind}: {', '.join(names[:_SHOWN])}{more}"


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name matches any of the patterns."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _split_digest(spec: str) -> tuple[str, str | None]:
    source, mark, digest = spec.rpartition("@sha256:")
    if not mark:
        return spec, None
    if not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
        raise WeightsError(f"{spec}: @sha256: is followed by 64 hexadecimal digits, not by '{digest}'")
    return source, digest.lower()


def _check_digest(files: WeightsFiles, expected: str) -> None:
    held = files.names(*WEIGHT_PATTERNS)
    if len(held) != 1:
        raise WeightsError(
            f"{files.source}: @sha256: pins one weights file, and there are {len(held)} ({listing(held)}). "
            "Name one of them at the end of the source, or leave the digest out"
        )
    found = files.sha256(held[0])
    if found != expected:
        raise WeightsError(
            f"{files.source}: '{held[0]}' has the sha256 {found}, not {expected}: "
            "it is another file, or damaged"
        )


@lru_cache(maxsize=16)
def _digest(parts: tuple[Path, ...], _state: tuple[tuple[int, int], ...]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        with part.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()

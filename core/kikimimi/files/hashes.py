"""SHA-256 of what we write: of each file of a folder in a manifest, and of a tensor file within itself."""

import hashlib
import json
import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from kikimimi.console.words import counted
from kikimimi.errors import DamagedError
from kikimimi.files.reading import MEBIBYTE, file_there, parse_json, paths_in, read_bytes, unreadable
from kikimimi.files.writing import writing

MANIFEST = "files.json"
"""Name of the file that lists the files of a folder; it is written last."""
SEAL, SEAL_OF = "sha256", "sha256_of"
"""Names of a sealed tensor file's hash, and of what the hash is of, in the texts of its header."""
BLANK = "0" * 64
"""What stands in place of the hash while it is computed."""
OF_ITSELF = "this file, with zeros in place of the hash"

UNVERIFIED = "has no hashes, as earlier versions wrote it: taken as it is, not verified"
"""What is said of a file or folder that may have been altered without its form showing it."""
ASSETS_REMEDY = "Restore it from a copy of the run folder"
"""What people can do where the assets of a run are damaged."""
CHECKPOINT_REMEDY = "'kikimimi train' goes on from the checkpoint before it"
"""What people can do where the weights of the newest checkpoint are damaged."""
WEIGHTS_REMEDY = (
    "Restore it from a copy, or delete it: 'kikimimi train' makes it again from the stage's last "
    "checkpoint, or where there is none trains the stage again"
)
"""What people can do where the weights are damaged that a stage has left."""
IMPORT_REMEDY = "Restore it from a copy, or delete it: 'kikimimi import' into the same folder makes it again"
"""What people can do where that is damaged which an import leaves in the place of a stage's weights."""

_LONGEST_HEADER = 100 * MEBIBYTE  # safetensors allows 100,000,000 bytes
_THREADS = 4


@dataclass(frozen=True)
class FileMark:
    """What tells whether a file is as it was written.

    Attributes:
        bytes: Its size [bytes].
        sha256: Its hash (hex).
    """

    bytes: int
    sha256: str


@dataclass(frozen=True)
class FileManifest:
    """The files of a folder.

    Attributes:
        of: What they are together, such as stage and step.
        files: Each file by its path in the folder.
    """

    of: dict[str, str | int]
    files: dict[str, FileMark]


def write_manifest(folder: Path, of: Mapping[str, str | int], files: Mapping[str, FileMark]) -> Path:
    """Write the manifest of a folder that has all of its files; return its path."""
    path = folder / MANIFEST
    said = {"of": dict(of), "files": {name: asdict(files[name]) for name in sorted(files)}}
    with writing(path):
        path.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    return path


def mark(path: Path) -> FileMark:
    """Read a file to its end and return its size and hash.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return FileMark(file.tell(), digest.hexdigest())


def check_files(folder: Path, of: Mapping[str, str | int], names: Collection[str] | None = None) -> bool:
    """Check the files of a folder against its manifest.

    Args:
        folder: Where they are.
        of: What they have to be.
        names: Files that are read; None checks all.

    Returns:
        Whether there is a manifest: earlier versions wrote none.

    Raises:
        ValueError: The manifest is damaged or of something else, or a file is missing, other, or too many.
        OSError: A file cannot be read.
    """
    try:
        if not file_there(folder / MANIFEST):
            return False
        manifest = parse_json(read_bytes(folder / MANIFEST, limit=16 * MEBIBYTE), FileManifest)
    except DamagedError as error:
        raise ValueError(str(error).removeprefix(f"{folder}{os.sep}")) from error
    except ValueError as error:
        raise ValueError(f"{MANIFEST}: {error}") from error
    for name, value in of.items():
        if manifest.of.get(name) != value:
            raise ValueError(f"its files are of {name} {manifest.of.get(name)}, not {value}")
    held = {name for name in _names_in(folder) if name.endswith((".safetensors", ".json"))}
    if other := held - {MANIFEST, *manifest.files}:
        raise ValueError(f"{min(other)} is not one of its files: files of two are mixed")
    if strange := set(names or ()) - manifest.files.keys():
        raise ValueError(f"{min(strange)} is missing in {MANIFEST}")
    wanted = [name for name in manifest.files if names is None or name in names]
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(lambda name: _check(folder, name, manifest.files[name]), wanted))
    return True


def require_files(folder: Path, remedy: str) -> bool:
    """Check the files of a folder against its manifest, if it has one, and return whether it has.

    Raises:
        DamagedError: A file is not as it was written.
        OSError: The system refuses to read one; see `unreadable`.
    """
    try:
        return check_files(folder, {})
    except (OSError, ValueError) as error:
        raise unreadable(folder, error, remedy, "") from error


def _names_in(folder: Path) -> Iterator[str]:
    """Yield the files of a folder, and of those in it, by their paths in the folder; no hidden ones."""
    for path in paths_in(folder, "*"):
        if path.is_dir():
            yield from (f"{path.name}/{name}" for name in _names_in(path))
        else:
            yield path.name


def _check(folder: Path, name: str, wanted: FileMark) -> None:
    path = folder / name
    if ".." in Path(name).parts or Path(name).is_absolute() or not path.is_file():
        raise ValueError(f"{name} is missing")
    if (size := path.stat().st_size) != wanted.bytes:
        raise ValueError(f"{name} has {counted(size, 'byte')} in place of {wanted.bytes:,}")
    if mark(path) != wanted:
        raise ValueError(f"{name} is not as it was written: its SHA-256 differs")


def content_mark(path: Path) -> str:
    """Return what tells a tensor file's content from another's, without reading it: the SHA-256 that was
    written with it, in the manifest of its folder or in its header; of a file without one, its time.

    Raises:
        DamagedError: Where the manifest is looked for, something else is.
        OSError: It cannot be read.
    """
    manifest = path.parent / MANIFEST
    if file_there(manifest, CHECKPOINT_REMEDY):
        return mark(manifest).sha256
    with path.open("rb") as file:
        try:
            texts = parse_json(_header(file)[8:], dict[str, object]).get("__metadata__", {})
        except ValueError:
            texts = {}  # damaged: told where it is loaded
    sealed = texts.get(SEAL) if isinstance(texts, dict) and texts.get(SEAL_OF) == OF_ITSELF else None
    return f"of {path.stat().st_mtime_ns}" if sealed is None else str(sealed)


def check_seal(path: Path) -> bool:
    """Check a tensor file (safetensors) against the hash in its header.

    Returns:
        Whether it has one: files of earlier versions, and of others, have none.

    Raises:
        ValueError: It is not as it was written.
        OSError: It cannot be read.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is not a file")  # a pipe without a writer would be waited for without end
    with path.open("rb") as file:
        header = _header(file)
        try:
            texts = parse_json(header[8:], dict[str, object]).get("__metadata__", {})
        except ValueError as error:
            raise ValueError(f"its header {error}") from error
        if SEAL_OF.encode() not in header and OF_ITSELF.encode() not in header:
            return False
        sealed = str(texts.get(SEAL)) if isinstance(texts, dict) else ""
        if not re.fullmatch("[0-9a-f]{64}", sealed):
            raise ValueError("its header is damaged: it lacks the hash")
        digest = hashlib.sha256(header.replace(sealed.encode(), BLANK.encode(), 1))
        buffer = memoryview(bytearray(MEBIBYTE))
        while size := file.readinto(buffer):
            digest.update(buffer[:size])
    if digest.hexdigest() != sealed:
        raise ValueError("it is not as it was written: its SHA-256 differs")
    return True


def _header(file: IO[bytes]) -> bytes:
    prefix = file.read(8)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or length > _LONGEST_HEADER:
        raise ValueError("it is no safetensors file, or ends too early")
    header = file.read(length)
    if len(header) < length:
        raise ValueError("it ends too early")
    return prefix + header

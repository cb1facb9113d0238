"""Where code comes from: Git's commit, and a hash of what an editable install runs."""

from __future__ import annotations

import hashlib
import json
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kikimimi.contracts.registry import KINDS


def git_state(path: Path) -> dict[str, Any] | None:
    """Return commit and dirty mark of the repository that a file lies in, or None where Git knows of none.

    Dirty means that a file of the repository, or the file itself, is not as it was committed.
    """
    folder = str(path.resolve().parent)
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    itself = _git(folder, "status", "--porcelain", "--ignored", "--", path.name)
    return {"commit": commit, "dirty": bool(changed or itself)}


def source_digest(name: str) -> str | None:
    """Return the SHA-256 over the modules of an editable install; None where the version says what runs.

    Args:
        name: Of a distribution.
    """
    try:
        held = distribution(name)
    except PackageNotFoundError:
        return None
    origin = json.loads(held.read_text("direct_url.json") or "{}")
    if not origin.get("dir_info", {}).get("editable"):
        return None
    groups = {kind.group for kind in KINDS.values()}
    modules = {entry.value.partition(":")[0] for entry in held.entry_points if entry.group in groups}
    packages = {module.partition(".")[0] for module in modules} | ({name} if find_spec(name) else set())
    return _digest(tuple(sorted(packages)))


@cache
def _digest(packages: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for package in packages:
        spec = find_spec(package)
        for root in (spec and spec.submodule_search_locations) or []:
            for file in sorted(Path(root).rglob("*.py")):
                digest.update(f"{package} {file.relative_to(root)}\n".encode())
                digest.update(hashlib.sha256(file.read_bytes()).digest())
        if spec is not None and spec.submodule_search_locations is None and spec.origin is not None:
            digest.update(hashlib.sha256(Path(spec.origin).read_bytes()).digest())  # one module
    return digest.hexdigest()


def _git(folder: str, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", folder, *arguments], capture_output=True, text=True, check=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError):
        return None  # no Git, or no repository
    return done.stdout.strip()

"""The code of a distribution as it is installed now, by its hash."""

import hashlib
import json
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

from kikimimi.contracts import registry


def source_digest(name: str) -> str | None:
    """Return the SHA-256 over the modules of an editable install; None where the version says what runs."""
    try:
        held = distribution(name)
    except PackageNotFoundError:
        return None
    origin = json.loads(held.read_text("direct_url.json") or "{}")
    if not origin.get("dir_info", {}).get("editable"):
        return None
    groups = {kind.group for kind in registry.KINDS.values()}
    modules = {entry.value.partition(":")[0] for entry in held.entry_points if entry.group in groups}
    packages = {module.partition(".")[0] for module in modules} | ({name} if find_spec(name) else set())
    return _digest(tuple(sorted(packages)))


def package_digest(module: str) -> str:
    """Return the SHA-256 over the modules of the package that a module is in, however it is installed."""
    return _digest((module.partition(".")[0],))


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

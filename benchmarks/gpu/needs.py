"""What a machine lacks to run kikimimi from a checkout, put into a folder; prints the PYTHONPATH to run with.

    python benchmarks/gpu/needs.py FOLDER

It runs before anything else is there, with what comes with Python and pip. torch is never installed: which
build fits a machine's GPU is the machine's affair.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TORCH = ("torch", "torchaudio")
WANTED = ("pytest>=8", "pytest-timeout>=2")
"""What is needed besides: for the tests of CUDA's paths."""
_ROUNDS = 8  # needs of needs of needs


def requirement(text: str) -> Any:
    try:
        from pip._vendor.packaging.requirements import Requirement
    except ImportError:  # as of an environment that uv has made
        sys.exit(
            f"{sys.executable} has no pip, which puts there what is missing: {sys.executable} -m ensurepip"
        )
    return Requirement(text)


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def lacking(wanted: list[str], folder: Path) -> list[str]:
    """Return the requirements, and those of what is there, that are not met."""
    # The folder comes first: what is in it stands in for what the machine has.
    there: dict[str, Distribution] = {}
    for found in distributions(path=[str(folder), *sys.path]):
        there.setdefault(canonical(found.metadata["Name"]), found)
    queue, seen, missing = list(wanted), set(), []
    while queue:
        one = requirement(queue.pop(0))
        name = canonical(one.name)
        if name in seen or (one.marker is not None and not one.marker.evaluate({"extra": ""})):
            continue
        seen.add(name)
        held = there.get(name)
        if held is None or not one.specifier.contains(held.version, prereleases=True):
            missing.append(f"{one.name}{one.specifier}")
        elif name not in TORCH:
            queue += held.requires or []
    return missing


def install(missing: list[str], folder: Path) -> None:
    source = os.environ.get("KIKIMIMI_WHEELS")
    offline = ["--no-index", "--find-links", source] if source else []
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade"]
    command += ["--target", str(folder), *offline, *missing]
    done = subprocess.run(command, stdout=sys.stderr, check=False)
    if done.returncode:
        sys.exit(
            f"{sys.executable} lacks {' '.join(missing)}, and pip could not install them (see above). "
            "Where no package index can be reached, put their wheels, and those of what they need, into a "
            "folder and name it in KIKIMIMI_WHEELS"
        )


def register(project: dict[str, Any], folder: Path) -> None:
    """Write the metadata by which the plugins are found, as an installation would."""
    info = folder / f"kikimimi-{project['version']}.dist-info"
    info.mkdir()
    about = f"Metadata-Version: 2.1\nName: kikimimi\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(about, encoding="utf-8")
    lines = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {target}" for name, target in entries.items()), ""]
    (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")


def main() -> None:
    folder = Path(sys.argv[1])
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for _ in range(_ROUNDS):
        missing = lacking([*settings["project"]["dependencies"], *WANTED], folder)
        if torch := [one for one in missing if requirement(one).name in TORCH]:
            sys.exit(f"{sys.executable} has no {' and '.join(torch)}: name a Python that has it (PYTHON=...)")
        if not missing:
            break
        install(missing, folder)
    register(settings["project"], folder)
    roots = settings["tool"]["hatch"]["build"]["dev-mode-dirs"]
    print(os.pathsep.join(map(str, [folder, ROOT, *(ROOT / root for root in roots)])))


if __name__ == "__main__":
    main()

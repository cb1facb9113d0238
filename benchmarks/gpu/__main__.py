"""Runs the sections, each in a process of its own: one that fails, or takes too long, stops no other.

python -m benchmarks.gpu [--size tiny|full] [--out DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from .machine import card
from .results import ROOT, Results
from .sections import SECTIONS
from .size import SIZES
from .subject import Subject

LIMIT = 510.0
"""All sections together [s], with what the start takes less than nine minutes."""
_LONGEST = 8000  # characters of an error

Run = Callable[[str, float], dict[str, Any]]
"""Runs a section by its name, within so many seconds; returns its result or its error."""


def run_here(subject: Subject) -> Run:
    """Return what runs sections in this process: no time limits them."""

    def run(name: str, limit: float) -> dict[str, Any]:
        try:
            return {"result": SECTIONS[name].measure(subject)}
        except Exception:  # noqa: BLE001 - the others go on
            return {"error": traceback.format_exc()[-_LONGEST:]}

    return run


def run_apart(size: str) -> Run:
    """Return what runs sections in processes of their own: memory is given back, and no hang lasts."""

    def run(name: str, limit: float) -> dict[str, Any]:
        with TemporaryDirectory() as folder:
            into = Path(folder) / "result.json"
            command = [sys.executable, "-m", "benchmarks.gpu", "--size", size, "--section", name]
            process = subprocess.Popen(
                [*command, "--into", str(into)],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
            try:
                said, _ = process.communicate(timeout=limit)
            except subprocess.TimeoutExpired:
                _kill(process)
                said, _ = process.communicate()
                return {**_made(into), "error": f"{said[-_LONGEST:]}\ntook longer than {limit:.0f} s"}
            except BaseException:  # it is interrupted
                _kill(process)
                raise
            made = _made(into)
            if process.returncode or not made:
                made["error"] = made.get("error") or f"{said[-_LONGEST:]}\nended with {process.returncode}"
            return made

    return run


def _made(into: Path) -> dict[str, Any]:
    """Return what a section has written, whole or in part."""
    return json.loads(into.read_text(encoding="utf-8")) if into.is_file() else {}


def _write(into: Path, made: dict[str, Any]) -> None:
    unfinished = into.with_suffix(".part")
    unfinished.write_text(json.dumps(made), encoding="utf-8")
    os.replace(unfinished, into)


def _kill(process: subprocess.Popen[str]) -> None:
    """End a section with all that it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def measure(names: Iterable[str], results: Results, run: Run, folder: Path, limit: float = LIMIT) -> Path:
    """Run sections one after the other, and write the results after each."""
    end = time.monotonic() + limit
    path = results.write(folder)
    for name in names:
        start = time.monotonic()
        left = min(SECTIONS[name].seconds, end - start)
        made = run(name, left) if left > 0 else {"error": "not begun: the time was used up"}
        took = time.monotonic() - start
        results.sections[name] = {"seconds": round(took, 1), **made}
        path = results.write(folder)
        print(f"{name}: {'failed' if 'error' in made else 'done'} ({took:.0f} s)", flush=True)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks/gpu.sh", description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.size == "full" and not torch.cuda.is_available():
        sys.exit("torch finds no GPU here: --size tiny runs on a CPU, and says nothing of speed")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if options.section is not None:
        subject = Subject(SIZES[options.size], device, lambda found: _write(options.into, {"result": found}))
        _write(options.into, run_here(subject)(options.section, 0))
        return
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    results = Results(card(device), options.size)
    path = measure(SECTIONS, results, run_apart(options.size), options.out)
    failed = [name for name, made in results.sections.items() if "error" in made]
    print(
        f"{path}: {len(results.sections)} sections"
        + (f", of which failed: {', '.join(failed)}" if failed else "")
    )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

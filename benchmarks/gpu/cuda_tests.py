"""The tests of CUDA's paths: `pytest -m gpu`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from .subject import Subject

ROOT = Path(__file__).resolve().parents[2]
_COUNT = re.compile(r"(\d+) (passed|failed|skipped|errors?)\b")


def cuda_tests(subject: Subject) -> dict[str, Any]:
    """How many pass, and what those that fail say."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "tests/gpu", "-o", "addopts=", "-q", "-rfEs"]
    options = ["--import-mode=importlib", "-p", "no:cacheprovider", "--color=no", "--tb=short"]
    done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, check=False)
    last = done.stdout.strip().rpartition("\n")[2]
    counts = {
        name.rstrip("s") if name.startswith("error") else name: int(n) for n, name in _COUNT.findall(last)
    }
    result: dict[str, Any] = {"passed": 0, "failed": 0, "skipped": 0, **counts}
    if done.returncode not in (0, 5) or result["failed"]:
        result["output"] = (done.stdout + done.stderr)[-8000:]
    return result

"""The tests of CUDA's paths: `pytest -m gpu`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from .subject import Subject

ROOT = Path(__file__).resolve().parents[2]
_COUNT = re.compile(r"(\d+) (passed|failed|skipped|errors?)\b")


def cuda_tests(subject: Subject) -> dict[str, Any]:
    """How many pass, and what those that fail say; on a CPU they are rehearsed there."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "tests/gpu", "-o", "addopts=", "-q", "-rfEs"]
    options = ["--import-mode=importlib", "-p", "no:cacheprovider", "--color=no", "--tb=short"]
    environment = {**os.environ, "KIKIMIMI_TEST_DEVICE": subject.device.type}
    done = subprocess.run(
        [*command, *options], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    last = done.stdout.strip().rpartition("\n")[2]
    counts = {
        name.rstrip("s") if name.startswith("error") else name: int(n) for n, name in _COUNT.findall(last)
    }
    if not counts:
        raise RuntimeError(f"no test has run:\n{(done.stdout + done.stderr)[-7000:]}")
    result: dict[str, Any] = {"passed": 0, "failed": 0, "skipped": 0, **counts}
    if done.returncode:
        result["output"] = (done.stdout + done.stderr)[-8000:]
    return result

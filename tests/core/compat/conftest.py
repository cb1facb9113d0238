"""What an earlier commit left behind, and the command line to train with, in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

DATA = Path(__file__).parent / "data"
ONE_WAY_TO_ADD = {
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
"""What makes torch, MKL and oneDNN run the same instructions on every x86-64 processor."""

COMMANDS = """
import sys
from kikimimi.cli import main
for command in sys.argv[1:]:
    sys.argv = ["kikimimi", *command.split()]
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
"""


class Before:
    """A copy of what the earlier commit left.

    Args:
        folder: Where the copy goes; commands run there.
    """

    averaging = "loss: micro_batches"
    """How that commit averaged the loss, as a recipe's `batch` says it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(DATA, folder)

    @staticmethod
    def to_the_bit() -> bool:
        """Whether these are the libraries and the kind of processor that the losses were computed with.

        Products of matrices are rounded otherwise on AMD's processors than on Intel's.
        """
        held = json.loads((DATA / "stopped" / "lock.json").read_text(encoding="utf-8"))["libraries"]
        same = all(held[name] == version(name) for name in ("torch", "transformers"))
        processors = Path("/proc/cpuinfo")
        return same and processors.is_file() and "GenuineIntel" in processors.read_text(encoding="utf-8")

    def kikimimi(self, *commands: str) -> str:
        """Run commands one after the other, in one process; return what they say."""
        done = subprocess.run(
            [sys.executable, "-u", "-c", COMMANDS, *commands],
            cwd=self.folder,
            env={**os.environ, **ONE_WAY_TO_ADD, "KIKIMIMI_CACHE": str(self.folder / "cache")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def measured(self, lines: Path) -> dict[tuple[str, int, str], float]:
        """Return the values of a file of metrics, by stage, step and name."""
        rows: list[dict[str, Any]] = list(
            map(json.loads, (self.folder / lines).read_text(encoding="utf-8").splitlines())
        )
        return {
            (row["stage"], row["step"], name): value
            for row in rows
            for name, value in row.items()
            if name not in ("stage", "step")
        }

    def assert_as_before(self, run: Path, name: str) -> None:
        """Compare what a run has logged with what the earlier commit did.

        To the bit, where that can be; elsewhere losses within 1e-6, and what is a difference of large numbers
        or is divided by small ones (rewards, norms of gradients) within 1e-4.
        """
        expected = self.measured(Path("expected", f"{name}.jsonl"))
        found = {key: v for key, v in self.measured(run / "metrics.jsonl").items() if key in expected}
        if self.to_the_bit():
            assert found == expected
            return
        losses = {key for key in expected if "loss" in key[2]}
        for keys, bound in ((losses, 1e-6), (expected.keys() - losses, 1e-4)):
            close = pytest.approx({key: expected[key] for key in keys}, rel=bound, abs=bound)
            assert {key: value for key, value in found.items() if key in keys} == close


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Before:
    return Before(tmp_path_factory.mktemp("before") / "left")

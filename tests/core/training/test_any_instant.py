"""Kills at any instant at which a training changes its run folder: run all with `pytest -m chaos -n 0`.

What such a kill leaves is gone on from without a trace: losses, validations and weights are those of the run
that was never touched.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kikimimi.run.folder import RunFolder, checkpoint_folders, checkpoint_step
from kikimimi.run.metrics import read_metrics
from kikimimi.training.lengthen import lengthen
from kikimimi.training.train import train

from .conftest import Make, Training

pytestmark = pytest.mark.fault(
    "The system: kills at any instant", "the run goes on without a trace: no line lost or doubled"
)

CHANGES = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate")


class Instants:
    """Copies a folder before each change of it: what a process leaves that is killed there."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        sys.addaudithook(self._see)  # for as long as this process lives

    @contextmanager
    def of(self, folder: Path, into: Path) -> Iterator[list[Path]]:
        """Give the list of copies, no two of which are the same."""
        self.folder, self.into = folder, into
        self.copies: list[Path] = []
        self.held: set[frozenset[tuple[str, bytes]]] = set()
        try:
            yield self.copies
        finally:
            self.folder = None

    def _see(self, event: str, given: tuple[Any, ...]) -> None:
        folder = self.folder
        if folder is None or event not in CHANGES or not str(given[0]).startswith(f"{folder}/"):
            return
        if event == "open" and given[2] & os.O_ACCMODE == os.O_RDONLY:
            return
        self.folder = None
        try:
            self._copy(folder)
        finally:
            self.folder = folder

    def _copy(self, folder: Path) -> None:
        files = [path for path in folder.rglob("*") if path.is_file()]
        state = frozenset((str(path), path.read_bytes()) for path in files)
        if state not in self.held:
            self.held.add(state)
            self.copies.append(self.into / f"instant-{len(self.copies):03}")
            shutil.copytree(folder, self.copies[-1])


@pytest.fixture(scope="module")
def instants() -> Instants:
    return Instants()


def assert_goes_on(copy: Path, whole: RunFolder) -> None:
    train(RunFolder.open(copy))
    assert Training.curve(copy) == Training.curve(whole.path), copy
    weights = "weights/asr.safetensors"
    assert (copy / weights).read_bytes() == (whole.path / weights).read_bytes(), copy


def tear(copy: Path) -> bool:
    """Cut the last line of the metrics short, as a kill in its writing does, where no checkpoint has it."""
    metrics, saved = copy / "metrics.jsonl", checkpoint_folders(copy / "checkpoints" / "asr")
    last = read_metrics(metrics)[-1:]
    if not last or (saved and last[0]["step"] <= checkpoint_step(saved[-1])):
        return False
    os.truncate(metrics, metrics.stat().st_size - 7)
    return True


def lock_without_sessions(run: Path) -> dict[str, Any]:
    held: dict[str, Any] = json.loads((run / "lock.json").read_text(encoding="utf-8"))
    assert [session["changes"] for session in held.pop("sessions")] == [[], []]
    return held


@pytest.mark.slow
def test_a_kill_at_any_instant_after_a_checkpoint(make_run: Make, instants: Instants, tmp_path: Path) -> None:
    whole = make_run("whole", "stages.asr.steps=2", "stages.asr.validate.every=2")
    with instants.of(whole.path, tmp_path / "instants") as copies:
        train(whole)
    saved = [copy for copy in copies if checkpoint_folders(copy / "checkpoints" / "asr")]
    assert len(saved) > 4  # before and after the line of its step, the validation, the weights
    for copy in saved:
        assert_goes_on(copy, whole)


@pytest.mark.slow
def test_a_kill_at_any_instant_while_a_stage_is_lengthened(
    make_run: Make, instants: Instants, tmp_path: Path
) -> None:
    run, longer = make_run("run", "stages.asr.steps=2", "trainer.cache_features=false"), "stages.asr.steps=3"
    train(run)
    with instants.of(run.path, tmp_path / "instants") as copies:
        lengthened = lengthen(run.path, [longer])
    train(lengthened)
    assert len(copies) > 4
    for copy in copies:
        # The same command goes on, and where the recipe was written, any other does, too.
        written = "steps: 3" in (copy / "recipe.yaml").read_text(encoding="utf-8")
        train(RunFolder.open(copy) if written else lengthen(copy, [longer]), locked=True)
        assert lock_without_sessions(copy) == lock_without_sessions(run.path), copy
        assert Training.curve(copy) == Training.curve(run.path), copy
        for name in ("recipe.yaml", "weights/asr.safetensors", "weights/asr.2-steps.safetensors"):
            assert (copy / name).read_bytes() == (run.path / name).read_bytes(), copy


@pytest.mark.chaos
@pytest.mark.parametrize("log_every", [1, 3])
def test_a_kill_at_every_instant_of_a_training(
    make_run: Make, instants: Instants, tmp_path: Path, log_every: int
) -> None:
    saving = "stages.asr.checkpoint={every: 2, keep: 1, keep_best: 1}"
    whole = make_run("whole", saving, "stages.asr.steps=10", f"trainer.log_every={log_every}")
    with instants.of(whole.path, tmp_path / "instants") as copies:
        train(whole)
    middle, again = copies[len(copies) // 2], tmp_path / "again"
    shutil.copytree(middle, again)
    with instants.of(again, tmp_path / "instants-again") as copies_again:
        train(RunFolder.open(again))
    assert len(copies) > 40
    assert len(copies_again) > 20
    torn = 0
    for copy in [*copies, *copies_again]:
        other = copy.with_name(f"{copy.name}-torn")
        shutil.copytree(copy, other)
        if tear(other):
            assert_goes_on(other, whole)
            torn += 1
        assert_goes_on(copy, whole)
    assert torn > 10

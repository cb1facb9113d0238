"""What the validation losses of a stage decide: which weights are kept, and whether it goes on."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from kikimimi.run.metrics import read_metrics

if TYPE_CHECKING:
    from kikimimi.recipe import Stage


class Best:
    """Keeps the weights of the lowest validation losses, and says when a stage no longer gets better.

    Its memory is the metrics file, which a run that goes on cuts back to its checkpoint: no state of its own
    can contradict it.

    Args:
        folder: Where the weights go, as ``step-NNNNNNNN.safetensors``.
        stage: Its options `checkpoint` and `early_stop`.
        save: Writes the weights as they are now to a path, whole or not at all; called by every rank.
    """

    def __init__(self, folder: Path, stage: Stage, save: Callable[[Path], None]) -> None:
        self.folder, self.stage, self._save = folder, stage, save
        self._losses: list[tuple[float, int]] = []

    def remember(self, metrics: Path, stage: str) -> None:
        """Take up the validation losses that stand in the metrics file for this stage."""
        self._losses = [
            (line["validation_loss"], line["step"])
            for line in read_metrics(metrics)
            if line["stage"] == stage and "validation_loss" in line
        ]

    def add(self, step: int, loss: float, *, delete: bool) -> None:
        """Note the loss of a validation, and keep the weights if it is among the lowest.

        Args:
            step: Where it was measured.
            loss: Mean over the held-out data; one that is not a number is never among the lowest.
            delete: Whether this process deletes what is no longer among the lowest.
        """
        self._losses = [entry for entry in self._losses if entry[1] != step]
        if not math.isnan(loss):
            self._losses.append((loss, step))
        if step in self.steps():
            self._save(self._path(step))
        if delete and self.folder.is_dir():
            kept = {self._path(number) for number in self.steps()}
            for path in self.folder.glob("step-*.safetensors"):
                if path not in kept:
                    path.unlink()

    def steps(self) -> list[int]:
        """Return the steps of the lowest losses, as many as are kept, lowest first; earlier before later."""
        return [step for _, step in sorted(self._losses)[: self.stage.checkpoint.keep_best]]

    def path(self) -> Path | None:
        """Return the weights of the lowest loss, or None where no validation had a loss."""
        steps = self.steps()
        return self._path(steps[0]) if steps else None

    def stalled(self) -> bool:
        """Whether the last `early_stop.patience` validations brought no loss lower by `min_delta`."""
        early = self.stage.early_stop
        if early is None:
            return False
        lowest, waited = math.inf, 0
        for loss, _ in sorted(self._losses, key=lambda entry: entry[1]):
            if loss < lowest - early.min_delta:
                lowest, waited = loss, 0
            else:
                waited += 1
        return waited >= early.patience

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}.safetensors"

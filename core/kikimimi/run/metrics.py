"""Metrics of a run as JSON lines, and the same as CSV."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from kikimimi.console.terminal import csv_cell
from kikimimi.files.writing import whole_file

Lines = list[dict[str, Any]]
"""Lines of ``metrics.jsonl``, in the order in which they were written."""


class StageLogger(Logger):
    """Base of the loggers that write into the run folder: of one stage, whose options stand there already."""

    def __init__(self, name: str, stage: str) -> None:
        super().__init__()
        self._name, self.stage = name, stage

    @property
    def name(self) -> str:
        """Name for Lightning."""
        return self._name

    @property
    def version(self) -> str:
        """Version for Lightning."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the resolved recipe stands in the run folder."""


class MetricsFile(StageLogger):
    """Appends to ``metrics.jsonl``; ``metrics.csv`` is made from it when a stage pauses or ends."""

    def __init__(self, folder: Path, stage: str) -> None:
        super().__init__("metrics", stage)
        self.path = folder / "metrics.jsonl"

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one line."""
        line = {"stage": self.stage, "step": step, **metrics}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    @rank_zero_only
    def forget_after(self, step: int) -> None:
        """Drop this stage's lines past a step: those that a resumed run is about to write again."""
        kept = [
            line for line in read_metrics(self.path) if line["stage"] != self.stage or line["step"] <= step
        ]
        with whole_file(self.path) as unfinished:
            unfinished.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")

    def has(self, step: int, name: str) -> bool:
        """Tell whether a value of this stage stands there for a step."""
        lines = read_metrics(self.path)
        return any(line["stage"] == self.stage and line["step"] == step and name in line for line in lines)

    @rank_zero_only
    def write_csv(self) -> None:
        """Write every line as a row of ``metrics.csv``."""
        lines = read_metrics(self.path)
        columns = list(dict.fromkeys(key for line in lines for key in line))
        with self.path.with_suffix(".csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writerow({name: csv_cell(name) for name in columns})
            writer.writerows({name: csv_cell(value) for name, value in line.items()} for line in lines)


def read_metrics(path: Path) -> Lines:
    """Read ``metrics.jsonl``; a last line cut short by a kill is left out."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


def by_stage(lines: Lines) -> dict[str, Lines]:
    """Return the lines of each stage."""
    stages: dict[str, Lines] = {}
    for line in lines:
        stages.setdefault(line["stage"], []).append(line)
    return stages


def names_of(lines: Lines, prefix: str) -> list[str]:
    """Return the names of all values in some lines that begin in a certain way."""
    return sorted({key for line in lines for key in line if key.startswith(prefix)})

"""Metrics of a run as JSON lines, and the same as CSV."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from kikimimi.console.terminal import csv_cell
from kikimimi.files.reading import read_json_lines
from kikimimi.files.writing import add_lines, sync, whole_file, writing

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
        add_lines(self.path, [json.dumps({"stage": self.stage, "step": step, **metrics})])

    @rank_zero_only
    def save(self) -> None:
        """Have all lines on the disk."""
        with writing(self.path):
            sync(self.path)

    @rank_zero_only
    def forget_after(self, step: int) -> None:
        """Drop this stage's lines past a step: those that a resumed run is about to write again."""
        lines = read_metrics(self.path)
        self._write([line for line in lines if line["stage"] != self.stage or line["step"] <= step])

    @rank_zero_only
    def drop_torn_line(self) -> None:
        """Drop a last line that a kill cut short: once another line stands after it, it is a damaged one."""
        if self.path.exists() and not self.path.read_bytes().endswith(b"\n"):
            self._write(read_metrics(self.path))

    def _write(self, lines: Lines) -> None:
        with whole_file(self.path) as unfinished:
            unfinished.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

    def has(self, step: int, name: str) -> bool:
        """Tell whether a value of this stage stands there for a step."""
        lines = read_metrics(self.path)
        return any(line["stage"] == self.stage and line["step"] == step and name in line for line in lines)

    @rank_zero_only
    def write_csv(self) -> None:
        """Write every line as a row of ``metrics.csv``."""
        lines = read_metrics(self.path)
        columns = list(dict.fromkeys(key for line in lines for key in line))
        with (
            whole_file(self.path.with_suffix(".csv")) as unfinished,
            unfinished.open("w", encoding="utf-8", newline="") as file,
        ):
            writer = csv.DictWriter(file, columns)
            writer.writerow({name: csv_cell(name) for name in columns})
            writer.writerows({name: csv_cell(value) for name, value in line.items()} for line in lines)


def _check(line: dict[str, Any]) -> None:
    wrong = [name for name, value in line.items() if name != "stage" and not isinstance(value, int | float)]
    stage, step = line.get("stage"), line.get("step")
    if not isinstance(stage, str) or not isinstance(step, int) or step < 0 or wrong:
        raise ValueError(f"{wrong[0]!r} is no number" if wrong else "it lacks a stage or a step")


def read_metrics(path: Path) -> Lines:
    """Read ``metrics.jsonl``; a last line cut short by a kill is left out.

    Raises:
        DamagedError: Another line is damaged, or it is no file.
    """
    kind: type[dict[str, Any]] = dict[str, int | float | str]
    return read_json_lines(
        path,
        kind,
        check=_check,
        remedy="Restore it from a copy, or delete it: its values are missing then",
        line_remedy="Restore the file from a copy, or delete that line: its values are missing then",
    )


def by_stage(lines: Lines) -> dict[str, Lines]:
    """Return the lines of each stage."""
    stages: dict[str, Lines] = {}
    for line in lines:
        stages.setdefault(line["stage"], []).append(line)
    return stages


def names_of(lines: Lines, prefix: str) -> list[str]:
    """Return the names of all values in some lines that begin in a certain way."""
    return sorted({key for line in lines for key in line if key.startswith(prefix)})

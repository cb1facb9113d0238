"""A sweep on disk: what it is, its runs, what became of them, their logs and its report.

sweep.json                what is swept
runs.jsonl                its runs, in the order in which they are trained
events.jsonl              what became of them
logs/RUN.log              what the training and evaluating of a run printed
report.html               the table that comes of it; results.csv, results.md and results.tex are the same
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from kikimimi.console.terminal import json_text
from kikimimi.errors import DamagedError, RunError
from kikimimi.files.reading import MEBIBYTE, damaged, read_json, read_json_lines
from kikimimi.files.writing import add_lines, whole_file, writing
from kikimimi.recipe import Recipe
from kikimimi.run.folder import RunFolder
from kikimimi.sweeps.factor import SEED_OPTION, Factor, short_names
from kikimimi.sweeps.plan_of_runs import HeldSweep, Sweep

FOLDERS = "sweeps"
"""Where sweeps lie, beside the run folders."""
State = Literal["waiting", "running", "finished", "failed", "pruned"]
_FILE = "sweep.json"
_AGAIN = "Delete it and start the sweep again: runs that are trained are not trained again"


class RunLine(TypedDict):
    """A line of ``runs.jsonl``.

    Attributes:
        name: Name of the run folder.
        digest: What its name ends with: of the resolved recipe.
        levels: Label of each factor's level.
        changes: What it changes of the recipe.
    """

    name: str
    digest: str
    levels: dict[str, str]
    changes: list[str]


class EventLine(TypedDict):
    """A line of ``events.jsonl``.

    Attributes:
        run: Name of the run folder.
        state: What became of it.
        at: Time, with its zone.
        cause: Why it failed or was pruned.
        code: Exit code of what trained it.
        seconds: How long it took [s].
    """

    run: str
    state: State
    at: str
    cause: NotRequired[str]
    code: NotRequired[int]
    seconds: NotRequired[float]


@dataclass(frozen=True, kw_only=True)
class SweepRun:
    """A run of a sweep.

    Attributes:
        name: Name of its folder.
        path: Its folder.
        digest: What the name ends with.
        levels: Label of each factor's level, without the seed's.
        seed: The seed's label; empty where the seed is not varied.
        changes: What it changes of the recipe.
    """

    name: str
    path: Path
    digest: str
    levels: Mapping[str, str]
    seed: str
    changes: tuple[str, ...]

    @property
    def setting(self) -> str:
        """What tables call the setting that it is a repetition of."""
        short = short_names(self.levels)
        return ", ".join(f"{short[name]}={label}" for name, label in self.levels.items())


@dataclass(frozen=True, kw_only=True)
class RunState:
    """What became of a run.

    Attributes:
        state: The state.
        cause: Why it failed or was pruned; empty otherwise.
    """

    state: State = "waiting"
    cause: str = ""


@dataclass
class SweepFolder:
    """An existing folder of a sweep; see `create` and `open`.

    Attributes:
        path: The folder.
        sweep: What is swept.
        runs: Its runs.
    """

    path: Path
    sweep: Sweep
    runs: list[SweepRun] = field(default_factory=list)

    @classmethod
    def create(cls, out: Path, sweep: Sweep) -> SweepFolder:
        """Make the folder of a sweep, or take up the one that is there, whose plan is then this one.

        Args:
            out: Where run folders lie.
            sweep: What is swept.

        Raises:
            RunError: It is not the folder of a sweep, or another process leads it by the plan that is there.
        """
        folder = cls(cls.place(out, sweep), sweep)
        if folder.path.exists() and any(one.name[0] != "." for one in folder.path.iterdir()):
            cls.require(folder.path)
            folder._read_runs()
        with folder.held(), whole_file(folder.path / _FILE) as unfinished:
            unfinished.write_text(json_text(sweep.to_json(), indent=2) + "\n", encoding="utf-8")
        return folder

    @classmethod
    def open(cls, path: Path) -> SweepFolder:
        """Open the folder of a sweep.

        Raises:
            RunError: It is none, or it was taken away from its run folders.
            DamagedError: What it holds is damaged.
        """
        cls.require(path)
        if Path(os.path.abspath(path)).parent.name != FOLDERS:
            raise RunError(
                f"{path} was taken away from its run folders: a sweep lies in RUNS/{FOLDERS}/NAME, and they "
                "lie in RUNS. Move it back"
            )
        held: HeldSweep = read_json(path / _FILE, HeldSweep, limit=64 * MEBIBYTE, remedy=_AGAIN)
        sweep = Sweep.from_json(held)
        folder = cls(path, replace(sweep, name=Path(os.path.abspath(path)).name))  # it may be renamed
        folder._read_runs()
        return folder

    def _read_runs(self) -> None:
        path = self.path / "runs.jsonl"
        lines = read_json_lines(path, RunLine, remedy=_AGAIN)
        if wrong := [line["name"] for line in lines if Path(line["name"]).name != line["name"]]:
            raise damaged(path, f"{wrong[0]!r} is not the name of a run folder", _AGAIN)
        self.runs = [self._run(line) for line in lines]

    @staticmethod
    def place(out: Path, sweep: Sweep) -> Path:
        """Return where the folder of a sweep is, whose runs lie in a folder."""
        return out / FOLDERS / sweep.name

    @staticmethod
    def require(path: Path) -> None:
        """Check that something is the folder of a sweep.

        Raises:
            RunError: It is none.
        """
        if not (path / _FILE).is_file():
            raise RunError(f"{path} is not the folder of a sweep (it has no {_FILE})")

    @staticmethod
    def is_one(path: Path) -> bool:
        """Whether something is the folder of a sweep."""
        return (path / _FILE).is_file()

    @property
    def out(self) -> Path:
        """Where its run folders lie."""
        return Path(os.path.normpath(self.path / ".." / ".."))

    @property
    def factors(self) -> dict[str, list[str]]:
        """Labels of the levels of each factor, the seed left out; of a range those that were drawn."""
        found: dict[str, list[str]] = {}
        for factor in self.sweep.factors:
            if factor.name == SEED_OPTION:
                continue
            if isinstance(factor, Factor):
                found[factor.name] = [level.label for level in factor.levels]
            else:
                found[factor.name] = list(dict.fromkeys(run.levels[factor.name] for run in self.runs))
        return found

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.path / "report.html"

    def log(self, run: SweepRun) -> Path:
        """Where what a run printed stands."""
        return self.path / "logs" / f"{run.name}.log"

    def write_runs(self, lines: Iterable[RunLine]) -> None:
        """Write which runs it has."""
        self.runs = []
        with (
            whole_file(self.path / "runs.jsonl") as unfinished,
            unfinished.open("w", encoding="utf-8") as file,
        ):
            for line in lines:
                file.write(json_text(line) + "\n")
                self.runs.append(self._run(line))

    def add_run(self, line: RunLine) -> SweepRun:
        """Add a run."""
        add_lines(self.path / "runs.jsonl", [json_text(line)])
        self.runs.append(self._run(line))
        return self.runs[-1]

    def _run(self, line: RunLine) -> SweepRun:
        levels = {name: label for name, label in line["levels"].items() if name != SEED_OPTION}
        return SweepRun(
            name=line["name"],
            path=self.out / line["name"],
            digest=line["digest"],
            levels=levels,
            seed=line["levels"].get(SEED_OPTION, ""),
            changes=tuple(line["changes"]),
        )

    def add_event(self, run: SweepRun, state: State, **beside: Any) -> None:
        """Write down what became of a run.

        Args:
            run: The run.
            state: Its state.
            **beside: ``cause``, ``code`` and ``seconds``.
        """
        line = {"run": run.name, "state": state, "at": datetime.now().astimezone().isoformat(), **beside}
        add_lines(self.path / "events.jsonl", [json_text(line)])

    def states(self) -> dict[str, RunState]:
        """Return what became of each run, by name; of one that is not said of, it waits.

        Raises:
            DamagedError: What is written of them is damaged.
        """
        found = {run.name: RunState() for run in self.runs}
        for line in read_json_lines(self.path / "events.jsonl", EventLine, remedy=_AGAIN):
            if line["run"] in found:  # else it is of an earlier plan
                found[line["run"]] = RunState(state=line["state"], cause=line.get("cause", ""))
        return found

    def times(self) -> dict[str, float]:
        """Return how long runs took, by name: all attempts of all sweeps beside this one together [s]."""
        found: dict[str, float] = {}
        for path in sorted(self.path.parent.glob("*/events.jsonl")):
            try:
                lines = read_json_lines(path, EventLine, remedy=_AGAIN)
            except DamagedError:
                continue  # what is wrong with this sweep's own is told by `states`
            for line in lines:
                if "seconds" in line:
                    found[line["run"]] = found.get(line["run"], 0.0) + line["seconds"]
        return found

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from leading this sweep.

        Raises:
            RunError: Another process leads it.
        """
        path = self.path / ".lock"
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("ab")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise RunError(
                    f"{self.path} is led by another process. Wait for it, or stop it; its report can be "
                    f"written meanwhile: kikimimi sweep {self.path} --report"
                ) from error
            yield


def find_run(out: Path, name: str, digest: str) -> Path:
    """Return the folder of a run: that which any sweep has made of the same recipe, or a new one.

    Args:
        out: Where run folders lie.
        name: What a new one is called.
        digest: What its name ends with.
    """
    there = sorted(out.glob(f"*-{digest}/recipe.yaml"))
    return there[0].parent if there else out / name


def begin_run(out: Path, line: RunLine, base: Recipe, recipe: Callable[[], Recipe]) -> RunLine:
    """Make the folder of a run with its recipe, or take up that which any sweep has made of the same recipe.

    One that has begun keeps the recipe that it has, which says where and how fast it trains.

    Args:
        out: Where run folders lie.
        line: The run.
        base: The sweep's recipe, with which the folder is looked at.
        recipe: Resolves the run's own; called where it is written down.

    Returns:
        The run by the name of its folder.

    Raises:
        RunError: The folder holds a run of another recipe.
    """
    path = find_run(out, line["name"], line["digest"])
    run = RunFolder(path, base)
    if not (run.begun or run.is_locked()):
        RunFolder.create(path, recipe())
    return RunLine(**{**line, "name": path.name})


def is_finished(path: Path) -> bool:
    """Whether the run of a folder is trained and evaluated."""
    if not ((path / "recipe.yaml").is_file() and os.path.lexists(path / "weights")):
        return False  # of a thousand runs that have not begun, no recipe is read
    recipe = RunFolder.read_recipe(path)
    folder = RunFolder(path, recipe)
    return all(folder.finished(stage) for stage in recipe.stages) and all(
        (folder.evaluation(name) / "scores.json").is_file() for name in recipe.evaluate
    )

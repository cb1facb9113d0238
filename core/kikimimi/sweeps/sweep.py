"""Leading a sweep: its runs are trained, some at a time, and what becomes of them is written down."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from kikimimi.console.progress import Progress
from kikimimi.console.terminal import say, shortened
from kikimimi.console.words import duration
from kikimimi.errors import KikimimiError
from kikimimi.run.folder import RunFolder
from kikimimi.sweeps.engine import Ended, Job, RunEngine
from kikimimi.sweeps.failure import failure_cause
from kikimimi.sweeps.source import RunSource
from kikimimi.sweeps.sweep_folder import SweepFolder, SweepRun, is_finished

STOP_CODES = (130, 143)
"""Exit codes of a run that was asked to stop, and has kept what it had done."""
BETWEEN_REPORTS = 60.0
"""Shortest time between two reports that are written while a sweep runs [s]."""
_REPORTING = 0.05  # share of the time, at most: no run is started meanwhile, and a large report takes long
_BETWEEN_LOOKS = 1.0


@dataclass
class Leader:
    """Leads the runs of a sweep.

    Attributes:
        folder: The sweep's folder.
        engine: What trains its runs.
        source: Which runs are trained.
        report: What writes the report.
    """

    folder: SweepFolder
    engine: RunEngine
    source: RunSource
    report: Callable[[SweepFolder], object]
    _running: dict[str, tuple[SweepRun, str]] = field(default_factory=dict)
    _found: Counter[str] = field(default_factory=Counter)
    _next_report: float = field(default_factory=lambda: time.monotonic() + BETWEEN_REPORTS)

    def lead(self) -> Counter[str]:
        """Train every run that the source gives.

        Returns:
            How many runs ended in each state.

        Raises:
            KeyboardInterrupt: The user stopped it; runs that were being trained have kept what they had done.
            SystemExit: A scheduler stopped it; so have they.
        """
        deadline = _deadline(self.folder.sweep.hours)
        with Progress("Training", self.source.left, "runs") as bar:
            try:
                while self._start(deadline, bar) or self._running:
                    for ended in self.engine.wait(_BETWEEN_LOOKS):
                        self._count(self._ended(ended), bar)
                        self._report()
                    self._prune()
            finally:
                self.engine.close()
                for run, _ in self._running.values():
                    self.folder.add_event(run, "waiting")
        return self._found

    def _count(self, state: str, bar: Progress) -> None:
        self._found[state] += 1
        bar.advance(note=", ".join(f"{count} {name}" for name, count in self._found.items()))

    def _start(self, deadline: float, bar: Progress) -> bool:
        """Start runs as long as there are free slots; return whether any was started."""
        started = False
        while len(self._running) < self.engine.slots and time.monotonic() < deadline:
            run = self.source.next_run()
            if run is None:
                break
            if is_finished(run.path):  # by another sweep, or in an earlier place of this one
                self.folder.add_event(run, "finished")
                say(f"is there  {_name(run)}", error=True)
                self._count("finished", bar)
                self.source.ended(run)
                continue
            try:
                self.engine.start(self._job(run))
            except KikimimiError as error:
                self.folder.add_event(run, "failed", cause=str(error))
                say(f"failed    {_name(run)}: {shortened(str(error), 300)}", error=True)
                self._count("failed", bar)
                self.source.ended(run)
                continue
            self.folder.add_event(run, "running")
            self._running[run.name] = run, ""
            started = True
        return started

    def _job(self, run: SweepRun) -> Job:
        recipe = RunFolder.read_recipe(run.path)
        return Job(
            name=run.name,
            run=run.path,
            log=self.folder.log(run),
            devices=recipe.trainer.devices,
            nodes=recipe.trainer.nodes,
            gpu=recipe.trainer.accelerator != "cpu",
        )

    def _ended(self, ended: Ended) -> str:
        """Write down how a run ended, and say so; return its state."""
        run, pruned = self._running.pop(ended.name)
        beside = {"code": ended.code, "seconds": round(ended.seconds, 1)}
        took = duration(ended.seconds)
        if is_finished(run.path) if pruned else ended.code == 0:  # it may have ended before it was stopped
            self.folder.add_event(run, "finished", **beside)
            say(f"finished  {_name(run)}  {took}", error=True)
            state = "finished"
        elif pruned and ended.code in (0, *STOP_CODES):
            self.folder.add_event(run, "pruned", cause=pruned, **beside)
            say(f"pruned    {_name(run)}  {took}: {pruned}", error=True)
            state = "pruned"
        else:
            cause = ended.cause or failure_cause(self.folder.log(run), ended.code)
            self.folder.add_event(run, "failed", cause=cause, **beside)
            say(f"failed    {_name(run)}  {took}: {shortened(cause, 300)}", error=True)
            state = "failed"
        self.source.ended(run)
        return state

    def _prune(self) -> None:
        """Stop runs of which what they have reached says that nothing will come."""
        for name, (run, pruned) in list(self._running.items()):
            if not pruned and (why := self.source.is_hopeless(run)):
                self._running[name] = run, why
                self.engine.stop(name)

    def _report(self) -> None:
        begun = time.monotonic()
        if begun > self._next_report:
            try:
                self.report(self.folder)
            except Exception as error:  # noqa: BLE001 - whatever it is, runs that train go on; the last tells it
                say(f"the report cannot be written now: {shortened(str(error), 300)}", error=True)
            now = time.monotonic()
            self._next_report = now + max(BETWEEN_REPORTS, (now - begun) / _REPORTING)


def _deadline(hours: float | None) -> float:
    return float("inf") if hours is None else time.monotonic() + hours * 3600


def _name(run: SweepRun) -> str:
    return ", ".join(filter(None, (run.setting, run.seed and f"seed={run.seed}"))) or run.name

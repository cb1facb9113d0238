"""Progress of long work: a bar with the time left and the time of day when it ends.

On a terminal it is a live bar; elsewhere (a log file, CI) it is one plain line now and then.
"""

import time
from datetime import datetime, timedelta
from types import TracebackType
from typing import Self

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress as RichProgress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from kikimimi.console.rich_console import SafeConsole
from kikimimi.console.terminal import say
from kikimimi.console.words import duration

SECONDS_BETWEEN_LINES = 15.0


def ending(seconds_left: float) -> str:
    """Return the time left with the time of day when it ends: ``1:10 left, ends 15:42:10``."""
    at = datetime.now() + timedelta(seconds=seconds_left)
    day = "" if at.date() == datetime.now().date() else at.strftime("%Y-%m-%d ")
    return f"{duration(seconds_left)} left, ends {day}{at.strftime('%H:%M:%S')}"


class _Ending(ProgressColumn):
    def render(self, task: Task) -> Text:
        if task.finished or task.time_remaining is None:
            return Text("")
        return Text(ending(task.time_remaining), style="cyan")


class Progress:
    """Shows how far a long step is.

    Args:
        title: What is being done ("Speaking").
        total: How many units there are.
        unit: The name of a unit, plural.
        done: How many were done before (after an interruption).
    """

    def __init__(self, title: str, total: int, unit: str, *, done: int = 0) -> None:
        self.title, self.total, self.unit, self.done = title, total, unit, done
        self.note = ""
        self._first = done
        self._live: RichProgress | None = None

    def __enter__(self) -> Self:
        self._start = self._said = time.monotonic()
        console = SafeConsole(error=True)
        if console.is_terminal:
            self._live = RichProgress(
                TextColumn("{task.description}", style="bold", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(self.unit, markup=False),
                TimeElapsedColumn(),
                _Ending(),
                TextColumn("{task.fields[note]}", markup=False),
                console=console,
            )
            self._live.start()
            self._task = self._live.add_task(self.title, total=self.total, completed=self.done, note="")
        else:
            self._say()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
        else:
            self._say(f" in {duration(time.monotonic() - self._start)}")

    def advance(self, count: int = 1, note: str | None = None) -> None:
        """Count `count` more units as done; `note` is shown at the end of the line."""
        self.done += count
        if note is not None:
            self.note = note
        if self._live is not None:
            self._live.update(self._task, completed=self.done, note=self.note)
            return
        now = time.monotonic()
        if now - self._said >= SECONDS_BETWEEN_LINES and self.done > self._first:
            self._said = now
            left = (now - self._start) / (self.done - self._first) * (self.total - self.done)
            self._say(f", {ending(left)}")

    def _say(self, time_: str = "") -> None:
        line = f"{self.title}: {self.done}/{self.total} {self.unit}{time_} {self.note}"
        say(line.rstrip(), error=True)

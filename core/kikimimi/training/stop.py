"""Stopping when a signal asks for it: at once where nothing is lost by it, else after the step.

Schedulers send SIGTERM or SIGUSR1 some time before they kill, people press Ctrl-C. Each of them ends a
training with what it needs to go on. This module imports no torch: commands are covered from their start.
"""

from __future__ import annotations

import functools
import itertools
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from kikimimi.console.signals import STOP_SIGNALS, Stopped
from kikimimi.console.terminal import say
from kikimimi.run.rank import child_of_lightning, global_rank

STOPPED = 128 + signal.SIGTERM
"""Exit code of a training that a scheduler's signal stopped, whichever it was."""
ONCE_MORE = 1.0
"""How long after the first Ctrl-C another one counts as a second [s]: torchrun passes on what the terminal
has sent to its processes already."""
IMPORTING = 0.05
"""How long after a signal that came in an import it is looked whether that has ended [s]."""
OVERDUE = 5.0
"""How long a step that waits for data has from the signal on until it is given up [s]."""
OBEYING = 10.0
"""How long after a stop the signal comes again, if the process is still there [s]: something swallowed it."""

_AGAIN = " Run the same command again: it goes on from here."
_BEGIN_ANEW = {
    *("chat", "check", "demo", "diff", "export", "import", "plan", "plugins", "score", "serve", "show"),
    *("transcribe", "data check", "data index", "data show", "data stats"),
}

Handler = Callable[[int, FrameType | None], None]


def told(by: str = "") -> str:
    """Return what people are told of a stop: whether what was done so far is kept for the same command.

    Args:
        by: What stopped it, such as `SIGTERM`.
    """
    given = sys.argv[1:3]
    again = "" if {given[0] if given else "", " ".join(given)} & _BEGIN_ANEW else _AGAIN
    return f"stopped{by and f' by {by}'}.{again}"


def at_once(number: int, frame: FrameType | None) -> None:
    """Stop here; the handler of signals outside of the steps.

    Modules that are being imported swallow what is raised in them, or are told to be broken: there it is
    noted, and asked again. So it is where libraries have swallowed it elsewhere.

    Raises:
        Stopped: Nothing is being imported.
    """
    ours = _importing_others(frame)
    if ours is None:
        _ask_after(OBEYING, number)
        raise Stopped(number)
    _ask_after(IMPORTING, number)
    if sys.gettrace() is None:  # no debugger
        for importing in ours:
            importing.f_trace = functools.partial(_stop_in_next_line, number)
        sys.settrace(lambda *_: None)


def _importing_others(frame: FrameType | None) -> list[FrameType] | None:
    """Return the frames of ours that are importing the modules of others; None where none are imported."""
    frames: list[FrameType] = []
    while frame is not None:
        frames.insert(0, frame)
        frame = frame.f_back
    ours = frames[:0]
    importing = False
    for outer, inner in itertools.pairwise(frames):
        importing = importing or inner.f_code.co_filename.startswith("<frozen importlib")
        if not importing:
            continue
        if _is_ours(outer):
            ours.append(outer)
        if not inner.f_code.co_filename.startswith("<frozen importlib") and not _is_ours(inner):
            return ours
    return None


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0].startswith("kikimimi")


def _stop_in_next_line(number: int, frame: FrameType, event: str, _: Any) -> None:
    if event == "line":
        raise Stopped(number)


def _ask_after(seconds: float, number: int) -> None:
    # By a timer of the system's: a thread cannot be started where the starting of one was interrupted.
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(number))
    signal.setitimer(signal.ITIMER_REAL, seconds)


class AfterStep:
    """The handler of signals during the steps: takes note, and the step ends.

    Attributes:
        signal: The first signal that came, or None.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._when = 0.0

    def stop_if_overdue(self) -> None:
        """Stop here where the step that is to end first does not.

        Raises:
            Stopped: It was asked some time ago.
        """
        if self.signal is not None and time.monotonic() - self._when > OVERDUE:
            raise Stopped(self.signal)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Take note; a second Ctrl-C stops at once. Schedulers repeat themselves: that changes nothing."""
        if self.signal is None:
            self.signal, self._when = number, time.monotonic()
            if global_rank() == 0:
                say("\nstopping after this step; Ctrl-C stops at once", error=True)
        elif number == signal.SIGINT and time.monotonic() - self._when > ONCE_MORE:
            raise Stopped(number)


def handle(handler: Handler | signal.Handlers) -> dict[int, Any]:
    """Let a handler see to the signals; return what did before, for `give_back`."""
    if threading.current_thread() is not threading.main_thread():
        return {}  # signals are the main thread's, whoever that belongs to
    return {number: signal.signal(number, handler) for number in STOP_SIGNALS}


def give_back(handlers: Mapping[int, Any]) -> None:
    """Put back what `handle` returned; what was asked of its handler is not asked again."""
    if handlers:
        signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@contextmanager
def stopping(then: Handler | signal.Handlers | None = None) -> Iterator[None]:
    """Stop at once when a signal asks for it, with a line instead of a traceback.

    Args:
        then: What sees to the signals afterwards; None is what did before.

    Raises:
        KeyboardInterrupt: It was Ctrl-C.
        SystemExit: It was SIGTERM or SIGUSR1 (143).
    """
    handlers, unraisable = handle(at_once), sys.unraisablehook
    after = handlers if then is None else dict.fromkeys(handlers, then)
    sys.unraisablehook = _ask_again(unraisable)
    try:
        try:
            yield
        finally:
            sys.unraisablehook = unraisable
            give_back(after)
    except Stopped as stopped:
        give_back(after)  # it may have come in the middle of that
        leave(stopped.number)


def _ask_again(hook: Callable[[sys.UnraisableHookArgs], Any]) -> Callable[[sys.UnraisableHookArgs], Any]:
    """Return a hook for what is raised where nothing can be: in finalisers, and in callbacks of C code."""

    def again(lost: sys.UnraisableHookArgs) -> None:
        if isinstance(lost.exc_value, Stopped):
            # A moment later: sent from here, it would be raised here, and lost once more.
            _ask_after(IMPORTING, lost.exc_value.number)
        else:
            hook(lost)

    return again


def leave(number: int) -> None:
    """End as a stop by a signal ends.

    Raises:
        KeyboardInterrupt: It was Ctrl-C.
        SystemExit: It was SIGTERM or SIGUSR1 (143).
    """
    if child_of_lightning():
        # One of them that ends with an error makes Lightning kill the process that the user started.
        raise SystemExit(0)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    if global_rank() == 0:
        say(told(signal.Signals(number).name), error=True)
    raise SystemExit(STOPPED)

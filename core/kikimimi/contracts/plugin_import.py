"""Importing a plugin: what it asks for comes first, it has a time limit, and its failures are its own."""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution, version
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

from kikimimi.console.signals import Stopped
from kikimimi.console.terminal import say
from kikimimi.console.words import nearest
from kikimimi.errors import PluginError

IMPORT_SECONDS = 30.0
"""Longest that a plugin's module may take to import [s], its libraries included."""
LIMIT_VARIABLE = "KIKIMIMI_IMPORT_SECONDS"
"""Environment variable that sets another limit."""
DISABLED_VARIABLE = "KIKIMIMI_DISABLE_PLUGINS"
"""Environment variable with the distributions whose plugins are left out, between commas."""
_GRACE_SECONDS = 10.0
"""How much later the process ends, where what is imported does not obey [s]."""

_Imported = TypeVar("_Imported")


def import_guarded(what: str, group: str, value: str, load: Callable[[], _Imported]) -> _Imported:
    """Import a plugin's class.

    Args:
        what: The plugin, for messages.
        group: The group of its entry point.
        value: Its ``module:Class``.
        load: Imports and returns it.

    Raises:
        PluginError: Its module raises, exits or takes too long.
    """
    seconds = _limit()
    too_long = f"{what} is broken: importing it takes more than {seconds:g} s"
    try:
        with _time_limit(seconds, too_long):
            return load()
    except _TooLongError:
        raise PluginError(f"{too_long}. {LIMIT_VARIABLE} sets more") from None
    except (KeyboardInterrupt, Stopped):
        raise
    except BaseException as error:
        if missing := _missing(value, error):
            raise PluginError(f"{what} is broken: its entry point (group {group}) {missing}") from error
        said = f"{type(error).__name__}: {error}".removesuffix(": ")
        raise PluginError(
            f"{what} is broken: {said} ({place_in(value, error)}). "
            f"'kikimimi plugins --check --verbose {what.split(chr(39))[1]}' shows the whole traceback."
        ) from error


def _missing(value: str, error: BaseException) -> str:
    """Return what an entry point names that is not there, in words; empty where something else is wrong."""
    module, _, attribute = value.partition("[")[0].replace(" ", "").partition(":")
    if _own_frames(module, error):
        return ""
    if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
        return f"names the module {module}, and there is no {error.name}"
    if isinstance(error, AttributeError) and module in sys.modules:
        known = [name for name in dir(sys.modules[module]) if not name.startswith("_")]
        return f"names {attribute}, which {module} has not.{nearest(attribute, known)}"
    return ""


def place_in(module: str, error: BaseException) -> str:
    """Return the last place in a module's package that an error came by, or else where it was raised.

    Args:
        module: Dotted name of the module, with or without ``:Class``.
        error: What was raised and caught.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f"in {error.filename}:{error.lineno}"
    last = (_own_frames(module, error) or traceback.extract_tb(error.__traceback__))[-1]
    return f"raised in {last.filename}:{last.lineno}"


def _own_frames(module: str, error: BaseException) -> list[traceback.FrameSummary]:
    """Return the places in a module's package that an error came by."""
    spec = find_spec(module.partition(":")[0].partition(".")[0])
    folders = list(spec.submodule_search_locations or ()) if spec else []
    return [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if (spec and frame.filename == spec.origin)
        or any(Path(frame.filename).is_relative_to(folder) for folder in folders)
    ]


def check_requirement(what: str, distribution_name: str) -> None:
    """Check that this kikimimi is one that a plugin's distribution asks for (``Requires-Dist``).

    pip sees to that when it installs; not where it was told to leave dependencies alone, nor when kikimimi is
    changed afterwards.

    Raises:
        PluginError: It is another one.
    """
    try:
        asked = distribution(distribution_name).requires or ()
    except PackageNotFoundError:
        return
    for line in asked:
        if not line.lower().startswith("kikimimi"):
            continue
        from packaging.requirements import InvalidRequirement, Requirement

        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue  # pip would not have installed it
        held, wanted = version("kikimimi"), requirement.specifier
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        if requirement.name.lower() == "kikimimi" and not wanted.contains(held, prereleases=True):
            raise PluginError(
                f"{what} needs kikimimi {wanted}, and {held} is installed. Install what fits: "
                f"pip install 'kikimimi{wanted}', or another version of {distribution_name}"
            )


class _TooLongError(BaseException):
    """Not an Exception: a module that catches those does not catch this."""


def _limit() -> float:
    given = os.environ.get(LIMIT_VARIABLE, "")
    try:
        seconds = float(given) if given else IMPORT_SECONDS
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise PluginError(f"{LIMIT_VARIABLE}: expected seconds above 0, not {given!r}")
    return seconds


@contextmanager
def _time_limit(seconds: float, said: str) -> Iterator[None]:
    """Raise a `_TooLongError` after a time, where signals can: in the main thread, if no timer is running.

    Args:
        seconds: The time [s].
        said: What is said where nothing stops what runs, some time later: then the process ends.
    """
    if threading.current_thread() is not threading.main_thread() or any(signal.getitimer(signal.ITIMER_REAL)):
        yield
        return
    calls = count()

    def give_up(number: int, frame: FrameType | None) -> NoReturn:
        if next(
            calls
        ):  # it was caught by a loop that catches everything: raised in the line that does so, too
            sys.settrace(lambda *_: None)
            while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
                frame.f_trace, frame = raise_again, frame.f_back
        raise _TooLongError

    def raise_again(frame: FrameType, event: str, value: object) -> Any:
        if event == "line":
            raise _TooLongError
        return raise_again

    def end() -> None:
        without = f"To go on without: {DISABLED_VARIABLE}=DISTRIBUTION"
        say(f"error: {said}, and nothing stops it: the command ends. {without}", error=True)
        os._exit(1)

    tracer = sys.gettrace()
    last = threading.Timer(seconds + _GRACE_SECONDS, end)
    last.daemon = True
    last.start()
    before: Any = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        last.cancel()
        # Somebody who asked the command to stop meanwhile has the timer, and the lines that are watched.
        if signal.getsignal(signal.SIGALRM) is give_up:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            sys.settrace(tracer)

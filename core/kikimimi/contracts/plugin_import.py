"""Importing a plugin: what it asks for comes first, it has a time limit, and its failures are its own."""

import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution, version
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

from kikimimi.errors import PluginError

IMPORT_SECONDS = 30.0
"""Longest that a plugin's module may take to import [s], its libraries included."""
LIMIT_VARIABLE = "KIKIMIMI_IMPORT_SECONDS"
"""Environment variable that sets another limit."""

_Imported = TypeVar("_Imported")


def import_guarded(what: str, value: str, load: Callable[[], _Imported]) -> _Imported:
    """Import a plugin's class.

    Args:
        what: The plugin, for messages.
        value: Its ``module:Class``.
        load: Imports and returns it.

    Raises:
        PluginError: Its module raises, exits or takes too long.
    """
    seconds = _limit()
    try:
        with _time_limit(seconds):
            return load()
    except _TooLongError:
        raise PluginError(
            f"{what} is broken: importing it takes more than {seconds:g} s. {LIMIT_VARIABLE} sets more"
        ) from None
    except (Exception, SystemExit) as error:  # whatever a third party's module raises
        said = f"{type(error).__name__}: {error}".removesuffix(": ")
        raise PluginError(
            f"{what} is broken: {said} ({place_in(value, error)}). "
            f"'kikimimi plugins --check --verbose {what.split(chr(39))[1]}' shows the whole traceback."
        ) from error


def place_in(module: str, error: BaseException) -> str:
    """Return the last place in a module's package that an error came by, or else where it was raised.

    Args:
        module: Dotted name of the module, with or without ``:Class``.
        error: What was raised and caught.
    """
    frames = traceback.extract_tb(error.__traceback__)
    spec = find_spec(module.partition(":")[0].partition(".")[0])
    folders = list(spec.submodule_search_locations or ()) if spec else []
    own = [
        frame
        for frame in frames
        if (spec and frame.filename == spec.origin)
        or any(Path(frame.filename).is_relative_to(folder) for folder in folders)
    ]
    last = (own or frames)[-1]
    return f"raised in {last.filename}:{last.lineno}"


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
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise a `_TooLongError` after a time, where signals can: in the main thread, if no timer is running."""
    if threading.current_thread() is not threading.main_thread() or any(signal.getitimer(signal.ITIMER_REAL)):
        yield
        return

    def give_up(number: int, frame: FrameType | None) -> NoReturn:
        raise _TooLongError

    before: Any = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

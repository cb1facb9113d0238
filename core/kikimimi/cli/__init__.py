"""The command line. Exit codes: 0 done, 1 the work failed, 2 the request was wrong, 130 Ctrl-C, 143 SIGTERM.

Signals are seen to before anything else is imported: `kikimimi.cli.commands` takes a moment.
"""

import atexit
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from kikimimi.console.libraries import guard_libraries
from kikimimi.console.terminal import say
from kikimimi.training.stop import handle, stopping, told

if TYPE_CHECKING:
    from kikimimi.cli.commands import app as app


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from kikimimi.cli.commands import app

    return app


def main() -> None:
    """Run the command line as what this process is there for.

    Once the command is done, no signal changes how it ended: one that comes while Python and the libraries
    shut down ends that at once, with the command's exit code.
    """
    _open_closed_streams()
    guard_libraries()
    atexit.register(handle, signal.SIG_IGN)  # the last of them: from then on Python calls no handler
    code = 1
    try:
        code = _exit_code()
    finally:
        handle(lambda *_: os._exit(code))
    sys.exit(code)


def _open_closed_streams() -> None:
    """Let nothing be read and written where the process was started without one of its standard streams.

    A file that is opened takes the number of the first one that is closed: what is printed would go there.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8"))  # noqa: SIM115


def _exit_code() -> int:
    """Run the command; errors that a user can mend are shown without a traceback."""
    code: Any
    try:
        with stopping(then=signal.SIG_IGN):
            code = _run()
    except KeyboardInterrupt:
        say(f"\n{told()}", error=True)
        code = 130
    except SystemExit as ended:
        code = ended.code
    # Here, where what was interrupted is no longer held by an exception: processes that worked have ended.
    if isinstance(code, str):
        say(code, error=True)
        code = 1
    return _said(int(code or 0))


def _run() -> int:
    from kikimimi.cli.commands import app
    from kikimimi.errors import KikimimiError, RequestError
    from kikimimi.files.writing import system_refusal

    try:
        app()
    except RequestError as error:
        say(f"error: {error}", error=True)
        return 2
    except KikimimiError as error:
        say(f"error: {error}", error=True)
        return 1
    except OSError as error:
        if (told := system_refusal(error, "" if error.filename else "the command cannot go on")) is None:
            raise
        say(f"error: {told}", error=True)
        return 1
    return 0


def _said(code: int) -> int:
    """Write out what was printed; return the exit code, which says so where that does not go."""
    from kikimimi.files.writing import system_refusal

    try:
        sys.stdout.flush()
    except OSError as error:
        if not code:  # else what went wrong has been said: it may be this
            say(f"error: {system_refusal(error, 'the output')}", error=True)
        with open(os.devnull, "w") as nowhere:  # Python tries again at its end, and says more than a line
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        return code or 1
    return code

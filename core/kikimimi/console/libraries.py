"""What libraries and Python itself print: warnings, logs, and errors that nothing catches."""

import logging
import sys
import threading
import traceback
import warnings
from types import TracebackType
from typing import Any

from kikimimi.console.terminal import say, visible


def guard_libraries() -> None:
    """Have what libraries print in the usual ways written as `say` writes it: in a process of our own."""
    sys.excepthook = _show
    if threading.excepthook is threading.__excepthook__:  # else others see to it
        threading.excepthook = lambda told: _show(told.exc_type, told.exc_value, told.exc_traceback)
    warnings.showwarning = _warn
    logging.setLogRecordFactory(_Record)


class _Record(logging.LogRecord):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.exc_info and self.exc_info[0]:  # what formatters take as it stands
            self.exc_text = visible(
                "".join(traceback.format_exception(*self.exc_info)).rstrip("\n"), lines=True
            )

    def getMessage(self) -> str:  # noqa: N802  (logging's own name)
        return visible(super().getMessage(), lines=True)


def _show(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    if not issubclass(kind, SystemExit):  # with which a thread ends itself, silently
        say("".join(traceback.format_exception(kind, error, trace)).rstrip("\n"), error=True)


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: str | None = None,
) -> None:
    say(warnings.formatwarning(message, category, filename, lineno, line).rstrip("\n"), error=True)

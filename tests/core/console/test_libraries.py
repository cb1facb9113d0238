"""What libraries print is seen as what the core prints is."""

from __future__ import annotations

import io
import logging
import sys
import threading
import warnings
from collections.abc import Iterator

import pytest

from kikimimi.console.libraries import guard_libraries

pytestmark = pytest.mark.fault(
    "Printing: control characters, markup, formulas", "shown as escapes, on terminals and pages"
)

HOSTILE, HARMLESS = "\x1b]52;c;aGk=\x07\u202ea\r", "\\x1b]52;c;aGk=\\x07\\u202ea\\r"


@pytest.fixture(autouse=True)
def _guarded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    factory = logging.getLogRecordFactory()
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    guard_libraries()
    yield
    logging.setLogRecordFactory(factory)


def test_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        guard_libraries()
        warnings.warn(HOSTILE, stacklevel=1)
    assert f"UserWarning: {HARMLESS}" in capsys.readouterr().err


def test_logs(capsys: pytest.CaptureFixture[str]) -> None:
    file = io.StringIO()
    log, handler = logging.getLogger("kikimimi-test"), logging.StreamHandler(file)
    log.addHandler(handler)
    try:
        log.warning("of %s\n%d", HOSTILE, 3)
        try:
            raise ValueError(HOSTILE)
        except ValueError:
            log.exception("failed")
    finally:
        log.removeHandler(handler)
    said = file.getvalue()
    assert said.startswith(f"of {HARMLESS}\n3\nfailed\nTraceback (most recent call last):\n")
    assert said.endswith(f"ValueError: {HARMLESS}\n")


def test_errors_of_threads_and_of_the_process(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise ValueError(HOSTILE)

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    assert capsys.readouterr().err.endswith(f"ValueError: {HARMLESS}\n")
    leaver = threading.Thread(target=sys.exit)
    leaver.start()
    leaver.join()
    sys.excepthook(ValueError, ValueError(HOSTILE), None)
    assert capsys.readouterr().err == f"ValueError: {HARMLESS}\n"

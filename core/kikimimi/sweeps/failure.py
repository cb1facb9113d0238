"""Why a run failed, as its log and its exit code tell."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

from kikimimi.console.terminal import shortened

_TAIL = 64 * 1024
_LONGEST = 1500
_COMMAND = "$ kikimimi "
_SIGNALS = {
    signal.SIGKILL: "killed (SIGKILL): by the system where memory was full, or by hand",
    signal.SIGSEGV: "a library crashed (SIGSEGV)",
    signal.SIGBUS: "a library crashed (SIGBUS): a file may have changed, or /dev/shm is full",
    signal.SIGABRT: "a library gave up (SIGABRT)",
}


def failure_cause(log: Path, code: int) -> str:
    """Return why a run failed, in words.

    Args:
        log: What it printed.
        code: Exit code, 128 and the number of the signal that ended it.
    """
    said = _said(log)
    number = code - 128
    if number in _SIGNALS and not said.startswith("error: "):
        last = said.split("\n")[-1:]
        return _SIGNALS[signal.Signals(number)] + (f"; its last line: {last[0]}" if last else "")
    return shortened(said.removeprefix("error: "), _LONGEST) or f"it ended with exit code {code}"


def _said(log: Path) -> str:
    """Return the error that the newest command printed, or the end of what it printed."""
    if not log.is_file():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
        text = file.read().decode("utf-8", errors="replace")
    lines = text[text.rfind(_COMMAND) :].split("\n") if _COMMAND in text else text.split("\n")
    lines = [line.rpartition("\r")[2].rstrip() for line in lines if line.strip()]
    begins = [row for row, line in enumerate(lines) if line.startswith("error: ")]
    if begins:
        return "\n".join(lines[begins[-1] :])
    raised = [row for row, line in enumerate(lines) if re.match(r"Traceback \(most recent call last\)", line)]
    if raised:
        after = [row for row in range(raised[-1] + 1, len(lines)) if not lines[row].startswith(" ")]
        return "\n".join(lines[after[0] :]) if after else lines[-1]
    return lines[-1] if len(lines) > 1 or (lines and not lines[0].startswith(_COMMAND)) else ""

"""What trains and evaluates runs, in a process for that: the same two commands as by hand.

Called in a process that is forked from one which has imported everything already: of a run that takes a
minute, importing twice is a good part. Of a run of a few steps, so is the first use of what was imported:
such runs come one after the other into the same process.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from kikimimi.console.signals import STOP_SIGNALS
from kikimimi.console.terminal import say
from kikimimi.files.writing import writing
from kikimimi.run.folder import RunFolder
from kikimimi.sweeps.engine import Job, clean_environment
from kikimimi.sweeps.tidy import tidy

COMMANDS = ("train", "evaluate")
"""Commands that a run is given to, one after the other."""
PRELOADED = ("kikimimi.cli.commands", "kikimimi.training.train", "kikimimi.evaluation.evaluate", __name__)
"""Modules that are imported before the first run, once for all."""
COMMAND_LINE = "kikimimi.cli"
"""The module that is the command line."""
_PR_SET_PDEATHSIG = 1
_BETWEEN_LOOKS = 1.0


def work(jobs: Connection, environment: Mapping[str, str], leader: Connection) -> None:
    """Train and evaluate runs in this process, until one fails or there are no more.

    Args:
        jobs: End of a pipe, through which each `Job` comes and its exit code goes.
        environment: Variables that are set in addition.
        leader: End of a pipe whose other end the process that leads the sweep holds, as long as it is there.

    Raises:
        SystemExit: Always, with the exit code of the last run.
    """
    os.setsid()  # Ctrl-C is for the process that leads the sweep: it says when to stop
    threading.Thread(target=_stop_after, args=(leader,), daemon=True).start()
    code = 0
    while not code:
        try:
            job = jobs.recv()
        except EOFError:
            break
        with warnings.catch_warnings():  # what one run has been warned of, the next one is, too
            code = work_on(job, environment)
        tidy()
        with suppress(OSError):  # nobody asks any more
            jobs.send(code)
    raise SystemExit(code)


def work_on(job: Job, environment: Mapping[str, str]) -> int:
    """Train and evaluate a run in this process.

    Args:
        job: The run.
        environment: Variables that are set in addition.

    Returns:
        The exit code of the command that failed; 0 where none did.
    """
    variables = {**clean_environment(os.environ), **environment}
    os.environ.clear()
    os.environ.update(variables)
    _print_into(job.log)
    code = 0
    for command in COMMANDS:
        wait_until_free(job.run)
        arguments = [command, str(job.run)]
        say(f"$ kikimimi {' '.join(arguments)}")
        code = _call(arguments) if job.devices == 1 else _start(arguments)
        if code:
            break
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def end_with_parent() -> None:
    """Have this process be asked to stop (SIGTERM), and so to save, once its parent is gone."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _stop_after(leader: Connection) -> None:
    """Ask this process, and those that it has started, to stop and save once the leader is gone."""
    with suppress(EOFError, OSError):
        leader.recv_bytes()
    os.killpg(os.getpgrp(), signal.SIGTERM)


def wait_until_free(run: Path) -> None:
    """Wait until no other process trains a run: another sweep, or one that was killed and still saves."""
    told = False
    while RunFolder(run, RunFolder.read_recipe(run)).is_locked():
        if not told:
            say(f"{run} is being trained by another process: waiting for it")
        told = True
        time.sleep(_BETWEEN_LOOKS)


def _call(arguments: list[str]) -> int:
    """Run a command in this process."""
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    sys.argv = ["kikimimi", *arguments]
    try:
        runpy.run_module(COMMAND_LINE, run_name="__main__")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1
    finally:
        _obey_signals()
    return 0


def _obey_signals() -> None:
    """Let signals end this process: a command leaves behind that it ends well by them, and others follow."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def _start(arguments: list[str]) -> int:
    """Run a command that starts further processes itself: it has to be one that it can start again."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    command = [sys.executable, "-m", COMMAND_LINE, *arguments]
    process = subprocess.Popen(command, preexec_fn=_obey)
    # A signal to stop goes to the whole group, but for that of a parent who is gone: it is passed on, which
    # changes nothing where it has come already. This process waits for what the command makes of it.
    signal.signal(signal.SIGTERM, lambda number, frame: process.send_signal(number))
    code = process.wait()
    _obey_signals()
    return code if code >= 0 else 128 - code


def _obey() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent()


def _print_into(log: Path) -> None:
    """Let what this process and those that it starts print go to the end of a file."""
    with writing(log):
        log.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        for stream in (1, 2):
            os.dup2(file, stream)
        os.close(file)
        sys.stdout, sys.stderr = (
            os.fdopen(stream, "w", 1, "utf-8", "backslashreplace", closefd=False) for stream in (1, 2)
        )

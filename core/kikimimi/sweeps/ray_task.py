"""What Ray runs for a run of a sweep: a task that starts its training as a process of its own, and waits.

Ray can lose a task's process at any time, and then starts the task again. The training is told by the system
that its parent is gone, saves and ends; the new one waits for that, and goes on from what was saved.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType

from kikimimi.sweeps.engine import Ended, Job, clean_environment
from kikimimi.sweeps.work import end_with_parent, work_on

_BETWEEN_LOOKS = 0.1
_WRONG = 2


def ray_task(job: Job, folder: Path, environment: Mapping[str, str]) -> Ended:
    """Train and evaluate a run on the machine where Ray has put this task.

    Ray's cancelling, which is a SIGINT here, has the training save and end.

    Args:
        job: The run; its paths are absolute.
        folder: The folder that the sweep was started in, from which recipes may name their data.
        environment: Variables that are set in addition.
    """
    for needed in (job.run / "recipe.yaml", job.log.parent, folder):
        if not needed.exists():
            cause = (
                f"{needed} is not there on {socket.gethostname()}: the machines of the cluster have to see "
                "run folders, and the folder in which the sweep is started, under the same paths"
            )
            return Ended(name=job.name, code=_WRONG, seconds=0.0, cause=cause)
    begun = time.monotonic()
    stopped = False
    process: subprocess.Popen[bytes] | None = None

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True
        if process is not None:
            _terminate(process)

    before = signal.signal(signal.SIGINT, stop)
    try:
        command = [
            sys.executable,
            "-m",
            __name__,
            str(job.run),
            str(job.log),
            str(job.devices),
            str(os.getpid()),
        ]
        cleaned = clean_environment(os.environ)
        process = subprocess.Popen(command, cwd=folder, env={**cleaned, **environment})
        if stopped:
            _terminate(process)
        while (code := process.poll()) is None:
            time.sleep(_BETWEEN_LOOKS)
    finally:
        signal.signal(signal.SIGINT, before)
    return Ended(name=job.name, code=code if code >= 0 else 128 - code, seconds=time.monotonic() - begun)


def _terminate(process: subprocess.Popen[bytes]) -> None:
    """Ask a training to stop, with all that work for it."""
    try:
        os.killpg(process.pid, signal.SIGTERM)
    except ProcessLookupError:  # it has just begun, and leads no group yet
        with suppress(ProcessLookupError):
            process.terminate()


def _main(run: str, log: str, devices: str, parent: str) -> None:
    end_with_parent()
    if os.getppid() != int(parent):  # it was gone before that
        raise SystemExit(128 + signal.SIGTERM)
    # What Ray keeps from its own processes.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    job = Job(name=Path(run).name, run=Path(run), log=Path(log), devices=int(devices))
    os.setsid()  # the task ends what works for it as one group
    raise SystemExit(work_on(job, {}))


if __name__ == "__main__":
    _main(*sys.argv[1:])

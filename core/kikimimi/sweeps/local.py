"""Runs of a sweep in processes of this machine, so many at a time, with the CPU's threads divided."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess

from kikimimi.errors import RequestError
from kikimimi.sweeps.engine import Ended, Job, RunEngine, environment
from kikimimi.sweeps.work import PRELOADED, work

_SERVER = multiprocessing.get_context("forkserver")


SHARED_BELOW = 30.0
"""A process takes a further run where the one before took less than this [s]: beginning anew, about a second,
or several on a GPU, is little of a longer one."""
MOST_SHARED = 20
"""How many runs a process takes: what they leave behind ends with it."""


@dataclass
class _Worker:
    """A process that takes runs one after the other."""

    process: ForkServerProcess
    jobs: Connection
    environment: dict[str, str]
    taken: int = 0

    @classmethod
    def start(cls, environment: dict[str, str], leader: Connection) -> _Worker:
        ours, its = _SERVER.Pipe()
        with _set(environment):  # the process that all are forked from is started with the first
            process = _SERVER.Process(target=work, args=(its, environment, leader))
            process.start()
        its.close()
        return cls(process, ours, environment)

    def give(self, job: Job) -> bool:
        """Give it a job; return whether it is there to take it."""
        self.taken += 1
        try:
            self.jobs.send(job)
        except OSError:
            return False
        return True

    def code(self) -> int | None:
        """Return the exit code of its job, as a shell gives it; None while that runs."""
        with suppress(EOFError, OSError):
            if self.jobs.poll():
                return int(self.jobs.recv())
        if self.process.is_alive():
            return None
        code = self.process.exitcode or 0
        return code if code >= 0 else 128 - code

    def stop(self) -> None:
        """Have its job stop and keep what it has done."""
        if self.process.pid is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGTERM)

    def end(self) -> None:
        """End it, after its job."""
        self.jobs.close()
        self.process.join()
        self.process.close()


@dataclass
class _Running:
    worker: _Worker
    job: Job
    since: float
    slot: int


class Local(RunEngine):
    """Processes of this machine.

    Args:
        slots: How many runs train at a time.
        gpus: The GPUs that runs get in turn, as CUDA_VISIBLE_DEVICES names them; empty where there is none.
    """

    def __init__(self, slots: int, gpus: Sequence[str] = ()) -> None:
        self.slots = slots
        self.threads = max(1, len(os.sched_getaffinity(0)) // slots)
        self._gpus = list(gpus)
        self._running: dict[str, _Running] = {}
        self._free: dict[int, _Worker] = {}
        _SERVER.set_forkserver_preload(list(PRELOADED))
        self._told, self._tells = _SERVER.Pipe(duplex=False)  # the second end is this process' alone

    def start(self, job: Job) -> None:
        """Start a job.

        Raises:
            RequestError: It asks for several machines, or for more GPUs than a slot has.
        """
        if job.nodes > 1:
            raise RequestError(
                f"{job.run} trains on {job.nodes} machines (trainer.nodes): take --engine slurm --dry-run"
            )
        slot = min(set(range(self.slots)) - {one.slot for one in self._running.values()})
        worker = self._worker(slot, dict(environment(self.threads)) | self._gpus_of(slot, job), job)
        self._running[job.name] = _Running(worker, job, time.monotonic(), slot)

    def _worker(self, slot: int, environment: dict[str, str], job: Job) -> _Worker:
        """Return the process that has taken a job: the one that had the slot's last, or a new one."""
        worker = self._free.pop(slot, None)
        if worker is not None:
            if worker.environment == environment and job.devices == 1 and worker.give(job):
                return worker
            worker.end()
        worker = _Worker.start(environment, self._told)
        worker.give(job)  # where it cannot, it has ended, which is seen as with any other
        return worker

    def wait(self, seconds: float) -> list[Ended]:
        """Wait until a job has ended, or so long [s]; return those that have."""
        workers = [one.worker for one in self._running.values()]
        connection.wait([*(one.jobs for one in workers), *(one.process.sentinel for one in workers)], seconds)
        ended = []
        for name, one in list(self._running.items()):
            if (code := one.worker.code()) is None:
                continue
            took = time.monotonic() - one.since
            ended.append(Ended(name=name, code=code, seconds=took))
            del self._running[name]
            if not code and one.job.devices == 1 and took < SHARED_BELOW and one.worker.taken < MOST_SHARED:
                self._free[one.slot] = one.worker
            else:
                one.worker.end()
        return ended

    def stop(self, name: str) -> None:
        """Have a job stop and keep what it has done."""
        if name in self._running:
            self._running[name].worker.stop()

    def close(self) -> None:
        """Stop all that runs."""
        for name in self._running:
            self.stop(name)
        for worker in (*self._free.values(), *(one.worker for one in self._running.values())):
            worker.end()
        self._running.clear()
        self._free.clear()
        self._tells.close()
        self._told.close()

    def _gpus_of(self, slot: int, job: Job) -> dict[str, str]:
        if not (self._gpus and job.gpu):
            return {}
        each = len(self._gpus) // self.slots
        if job.devices > max(each, 1):
            raise RequestError(
                f"{job.run} trains on {job.devices} GPUs (trainer.devices), and each of {self.slots} "
                f"processes has {max(each, 1)} of this machine's {len(self._gpus)}: take fewer --processes"
            )
        own = self._gpus[slot * each : (slot + 1) * each] if each else [self._gpus[slot % len(self._gpus)]]
        return {"CUDA_VISIBLE_DEVICES": ",".join(own)}


@contextmanager
def _set(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def visible_gpus() -> list[str]:
    """Return the GPUs that this process sees, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [one.strip() for one in named.split(",") if one.strip() not in ("", "-1")]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]

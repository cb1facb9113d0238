"""Runs of a sweep as processes of this machine, so many at a time, with the CPU's threads divided."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.context import ForkServerProcess

from kikimimi.errors import RequestError
from kikimimi.sweeps.engine import Ended, Job, RunEngine, environment
from kikimimi.sweeps.work import PRELOADED, work

_SERVER = multiprocessing.get_context("forkserver")


@dataclass
class _Running:
    process: ForkServerProcess
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
        beside = dict(environment(self.threads)) | self._gpus_of(slot, job)
        with _set(beside):  # the process that all are forked from is started with the first
            process = _SERVER.Process(target=work, args=(job, beside, self._told), name=job.name)
            process.start()
        self._running[job.name] = _Running(process, time.monotonic(), slot)

    def wait(self, seconds: float) -> list[Ended]:
        """Wait until a job has ended, or so long [s]; return those that have."""
        connection.wait([one.process.sentinel for one in self._running.values()], seconds)
        ended = []
        for name, one in list(self._running.items()):
            if one.process.is_alive():
                continue
            code = one.process.exitcode or 0
            took = time.monotonic() - one.since
            ended.append(Ended(name=name, code=code if code >= 0 else 128 - code, seconds=took))
            one.process.close()
            del self._running[name]
        return ended

    def stop(self, name: str) -> None:
        """Have a job stop and keep what it has done."""
        if name in self._running and (number := self._running[name].process.pid) is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(number, signal.SIGTERM)

    def close(self) -> None:
        """Stop all that runs."""
        for name in list(self._running):
            self.stop(name)
        for one in self._running.values():
            one.process.join()
        self._running.clear()
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

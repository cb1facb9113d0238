"""Runs of a sweep as tasks of a Ray cluster, an existing one or one of this machine's own."""

from __future__ import annotations

import importlib
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kikimimi.console.signals import STOP_SIGNALS
from kikimimi.console.terminal import shortened
from kikimimi.errors import MissingExtraError, RequestError
from kikimimi.files.writing import scratch_folder
from kikimimi.sweeps.engine import Ended, Job, RunEngine, environment
from kikimimi.sweeps.ray_task import ray_task

RETRIES = 3
"""How often a run goes on that Ray has lost the process or the machine of."""
OBJECT_STORE = 100 * 10**6
"""Room of a local cluster's store of objects, of which a sweep has none to speak of [bytes]."""
_LONGEST_GRACE = 600.0  # for a step and a checkpoint, when all is stopped
_LONGEST_CONNECTING = 10.0
_BETWEEN_SIGNALS = 0.5
_STOPPED = 128 + signal.SIGTERM
_KILLED = 128 + signal.SIGKILL
_AUTHENTICATION = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@dataclass(frozen=True)
class _Task:
    job: Job
    reference: Any
    since: float


class RayEngine(RunEngine):
    """Tasks of a Ray cluster.

    Each takes a place of ``trainer.devices`` times the CPUs and GPUs, on one machine, and starts our own
    training there; Ray waits for a free place, and starts it again where a process or a machine is lost.

    Args:
        address: An existing cluster, ``HOST:PORT`` or ``auto``; None starts one here, and stops it.
        cpus: CPUs of each process of a run.
        gpus: GPUs of each of them; None means 1 where the cluster has some.

    Raises:
        RequestError: There is no such cluster, or these numbers cannot be.
    """

    def __init__(self, *, address: str | None = None, cpus: float = 1.0, gpus: float | None = None) -> None:
        if cpus <= 0:
            raise RequestError(f"--cpus {cpus:g}: a process of a run needs some of a CPU")
        if gpus is not None and gpus > 1 and gpus != int(gpus):
            raise RequestError(f"--gpus {gpus:g}: above 1, Ray gives whole GPUs")
        if address is not None and "://" in address:
            raise RequestError(
                f"--address {address}: name the cluster itself, HOST:6379 or auto, and start the sweep on "
                "one of its machines; Ray's client protocol is not needed for that"
            )
        self._cpus = cpus
        self._tasks: dict[str, _Task] = {}
        with ExitStack() as held:
            self._ray = held.enter_context(_connected(address))
            self._gpus = gpus if gpus is not None else float(self._ray.cluster_resources().get("GPU", 0) > 0)
            self.slots = self._all_places()
            self._held = held.pop_all()
        self._function = self._ray.remote(ray_task)

    def start(self, job: Job) -> None:
        """Hand a job to the cluster, which starts it as soon as there is a place.

        Raises:
            RequestError: It asks for more than any machine of the cluster has: it would wait for ever.
        """
        if job.nodes > 1:
            raise RequestError(
                f"{job.run} trains on {job.nodes} machines (trainer.nodes), and a task of Ray is on one: "
                "take --engine slurm --dry-run"
            )
        needs = self._needs(job)
        if 0 < needs["GPU"] < job.devices:
            raise RequestError(
                f"{job.run} trains on {job.devices} GPUs (trainer.devices), which cannot be shared: "
                "take --gpus 1"
            )
        self._check_room(job, needs)
        # Paths are those of this process; elsewhere, a task begins in another folder.
        job = replace(job, run=job.run.absolute(), log=job.log.absolute())
        job.log.parent.mkdir(parents=True, exist_ok=True)
        beside = dict(environment(max(1, int(self._cpus)))) | {
            name: value for name, value in os.environ.items() if name.startswith("KIKIMIMI_")
        }
        placed = self._function.options(
            name=job.name,
            num_cpus=needs["CPU"],
            num_gpus=needs["GPU"],
            max_retries=RETRIES,
            retry_exceptions=False,
        )
        reference = placed.remote(job, Path.cwd(), beside)
        self._tasks[job.name] = _Task(job, reference, time.monotonic())

    def wait(self, seconds: float) -> list[Ended]:
        """Wait until a job has ended, or so long [s]; return those that have."""
        if not self._tasks:
            return []
        if ready := self._wait(1, seconds):  # others may have ended at the same time
            ready = self._wait(len(self._tasks), 0)
        names = {task.reference: name for name, task in self._tasks.items()}
        return [self._ended(self._tasks.pop(names[one])) for one in ready]

    def stop(self, name: str) -> None:
        """Have a job stop and keep what it has done; one that waits for a place is not begun."""
        if name in self._tasks:
            self._ray.cancel(self._tasks[name].reference, force=False)

    def close(self) -> None:
        """Stop all that runs, and a cluster of our own; leave another one."""
        with self._held:
            for name in self._tasks:
                self.stop(name)
            if self._tasks:
                self._wait(len(self._tasks), _LONGEST_GRACE)
            self._tasks.clear()

    def _wait(self, count: int, seconds: float) -> list[Any]:
        """Wait until so many tasks have ended, or so long [s]; return those that have."""
        references = [task.reference for task in self._tasks.values()]
        until = time.monotonic() + seconds
        while True:
            # What a signal's handler raises inside of Ray comes out after its wait, as another error.
            left = min(max(0.0, until - time.monotonic()), _BETWEEN_SIGNALS)
            try:
                ready, _ = self._ray.wait(references, num_returns=count, timeout=left)
            except SystemError as error:
                if error.__cause__ is None:
                    raise
                raise error.__cause__ from None
            if len(ready) >= count or not left:
                return list(ready)

    def _needs(self, job: Job) -> dict[str, float]:
        return {"CPU": self._cpus * job.devices, "GPU": self._gpus * job.devices * job.gpu}

    def _machines(self) -> list[Mapping[str, float]]:
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def _all_places(self) -> int:
        """Return how many runs of one process the cluster takes at a time.

        Raises:
            RequestError: None.
        """
        needs = self._needs(Job(name="", run=Path(), log=Path()))
        if places := sum(_places(machine, needs) for machine in self._machines()):
            return places
        raise RequestError(
            f"a run needs {_resources(needs)} (--cpus, --gpus), and the machines of the cluster have "
            f"{self._largest()}"
        )

    def _largest(self) -> str:
        return ", or ".join(sorted({_resources(machine) for machine in self._machines()}))

    def _check_room(self, job: Job, needs: Mapping[str, float]) -> None:
        if not any(_places(machine, needs) for machine in self._machines()):
            raise RequestError(
                f"{job.run} needs {_resources(needs)} on one machine (trainer.devices={job.devices}), and "
                f"those of the cluster have {self._largest()}: it would wait for ever. Take fewer --cpus, "
                "--gpus or trainer.devices"
            )

    def _ended(self, task: _Task) -> Ended:
        errors = self._ray.exceptions
        try:
            ended: Ended = self._ray.get(task.reference)
        except errors.TaskCancelledError:
            code, cause = _STOPPED, ""
        except errors.OutOfMemoryError as error:
            code, cause = _KILLED, f"Ray killed it, as memory of its machine was full: {_first(error)}"
        except errors.NodeDiedError as error:
            code, cause = (
                _KILLED,
                f"the machine was lost, at the last of {RETRIES + 1} attempts: {_first(error)}",
            )
        except (errors.WorkerCrashedError, errors.LocalRayletDiedError) as error:
            code, cause = (
                _KILLED,
                f"Ray's process was lost in each of {RETRIES + 1} attempts: {_first(error)}",
            )
        except errors.RayError as error:
            code, cause = 1, f"Ray could not run it: {_last(error)}"
        else:
            return ended
        return Ended(name=task.job.name, code=code, seconds=time.monotonic() - task.since, cause=cause)


def _places(machine: Mapping[str, float], needs: Mapping[str, float]) -> int:
    """Return how many tasks go onto a machine."""
    return int(min(machine.get(name, 0) // need for name, need in needs.items() if need))


def _resources(amounts: Mapping[str, float]) -> str:
    return f"{amounts.get('CPU', 0):g} CPUs and {amounts.get('GPU', 0):g} GPUs"


def _first(error: Exception) -> str:
    return shortened(next(iter(str(error).strip().split("\n")), ""), 300)


def _last(error: Exception) -> str:
    return shortened(next(iter(reversed(str(error).strip().split("\n"))), ""), 300)


@contextmanager
def _connected(address: str | None) -> Iterator[Any]:
    """Connect this process to a cluster, and leave it as it was: its variables, and what sees to signals."""
    before = dict(os.environ)
    changed: set[str] = set()
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    # Before the import, which reads them.
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", **_authentication(address)}
    try:
        with ExitStack() as held:
            try:
                import ray  # pyright: ignore[reportMissingImports]
            except ImportError as error:
                raise MissingExtraError("--engine ray", "ray", "ray") from error
            if ray.is_initialized():
                raise RequestError("--engine ray: this process is connected to a Ray cluster already")
            _require_answer(address)
            own = {} if address else _own_cluster(held.enter_context(scratch_folder()))
            held.callback(ray.shutdown)
            try:
                _read_authentication()
                ray.init(address=address or "local", logging_level="error", log_to_driver=False, **own)
            except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
                what = f"no Ray cluster answers at {address}" if address else "Ray does not start"
                raise RequestError(f"--engine ray: {what}: {_first(error)}") from error
            finally:
                changed = {name for name in before | os.environ if before.get(name) != os.environ.get(name)}
                for number, handler in handlers.items():
                    signal.signal(number, handler)
            yield ray
    finally:
        for name in changed or {"RAY_USAGE_STATS_ENABLED", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"}:
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]
        if "ray._raylet" in sys.modules:
            _read_authentication()


def _require_answer(address: str | None) -> None:
    """Check that something answers at an address: Ray itself asks again and again, for many minutes.

    Raises:
        RequestError: Nothing does.
    """
    host, _, port = (address or "").rpartition(":")
    if not (host and port.isdecimal()):
        return  # that of a cluster which runs on this machine
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_LONGEST_CONNECTING).close()
    except (OSError, OverflowError) as error:
        raise RequestError(f"--engine ray: no Ray cluster answers at {address}: {error}") from error


def _own_cluster(folder: Path) -> dict[str, Any]:
    return {
        "num_cpus": len(os.sched_getaffinity(0)),
        "object_store_memory": OBJECT_STORE,
        "include_dashboard": False,
        "_temp_dir": str(folder),
        # A training whose task has gone saves and ends by itself. What fills the memory once does so again.
        "_system_config": {"kill_child_processes_on_worker_exit": False, "task_oom_retries": 1},
    }


def _authentication(address: str | None) -> dict[str, str]:
    """Return how processes of a cluster know one another, where the user does not say so.

    Left alone, Ray writes a token into the user's home for a cluster of its own (from 2.59 on).
    """
    if "RAY_AUTH_MODE" in os.environ:
        return {}
    if address is None:
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    there = any(name in os.environ for name in _AUTHENTICATION)
    there |= (Path.home() / ".ray" / "auth_token").is_file()
    return {"RAY_AUTH_MODE": "token" if there else "disabled"}


def _read_authentication() -> None:
    """Have Ray read the variables anew: it keeps what it has found before."""
    kept = importlib.import_module("ray._raylet")  # as Ray does itself; there is no public name for it
    kept.Config.initialize("")
    kept.AuthenticationTokenLoader.instance().reset_cache()

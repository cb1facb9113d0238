"""Sweeps on Ray: one small cluster, on which processes are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

import pytest

from kikimimi.console.signals import Stopped
from kikimimi.errors import MissingExtraError, RequestError
from kikimimi.run.folder import RunFolder
from kikimimi.sweeps.engine import Ended, Job, clean_environment
from kikimimi.sweeps.failure import failure_cause
from kikimimi.sweeps.ray_engine import RayEngine
from kikimimi.sweeps.ray_task import ray_task
from kikimimi.sweeps.sweep_folder import SweepFolder, is_finished

MakeSweep = Callable[..., SweepFolder]
WaitFor = Callable[[Callable[[], bool]], None]
LONG = ["stages.asr.steps=100000", "stages.asr.checkpoint.every=1000"]
# The processes of a cluster outlive what starts them, and are looked for by name only.
DRIVER = """
import sys
from pathlib import Path
from kikimimi.sweeps.engine import Job
from kikimimi.sweeps.ray_engine import RayEngine
engine = RayEngine(address=sys.argv[1])
engine.start(Job(name="long", run=Path(sys.argv[2]), log=Path(sys.argv[3])))
while not engine.wait(1):
    pass
"""


@dataclass
class Cluster:
    """A cluster of this machine's own.

    Attributes:
        engine: What has started it.
        before: The environment before that.
        home: The user's home meanwhile.
    """

    engine: RayEngine
    before: dict[str, str]
    home: Path

    @property
    def address(self) -> str:
        import ray

        return str(ray.get_runtime_context().gcs_address)

    def ended(self, *names: str) -> dict[str, Ended]:
        """Wait until jobs have ended."""
        found: dict[str, Ended] = {}
        while len(found) < len(names):
            found |= {ended.name: ended for ended in self.engine.wait(1.0)}
        assert set(found) == set(names)
        return found


def test_no_cluster_at_an_address() -> None:
    """Stands first: a process is connected to one cluster alone."""
    pytest.importorskip("ray")
    before = dict(os.environ)
    with pytest.raises(RequestError, match=r"no Ray cluster answers at 127.0.0.1:1: .*refused"):
        RayEngine(address="127.0.0.1:1")
    assert dict(os.environ) == before


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    pytest.importorskip("ray")
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("KIKIMIMI_CACHE", str(tmp_path_factory.mktemp("cache")))
        before = dict(os.environ)
        engine = RayEngine()
        yield Cluster(engine, before, home)
        engine.close()


def job(folder: SweepFolder, name: str) -> Job:
    run = next(run for run in folder.runs if run.name == name)
    return Job(name=name, run=run.path, log=folder.log(run), gpu=False)


def trainings(run: Path) -> list[int]:
    """Return processes that Ray's tasks have started for a run."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                words = (process / "cmdline").read_bytes().split(b"\0")
            except OSError:  # it has just ended
                continue
            if b"kikimimi.sweeps.ray_task" in words and str(run).encode() in words:
                found.append(int(process.name))
    return found


def stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(number)


def parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def steps(run: Path) -> list[int]:
    file = run / "metrics.jsonl"
    lines = map(json.loads, file.read_text().splitlines() if file.is_file() else [])
    return [line["step"] for line in lines if "train/loss" in line or "loss" in line]


@pytest.mark.slow
def test_jobs_end_and_one_fails(cluster: Cluster, make_sweep: MakeSweep) -> None:
    folder = make_sweep(a=[], b=["seed=1"], bad=["stages.asr.data.tones.shards=none-*.tar"])
    assert cluster.engine.slots == len(os.sched_getaffinity(0))
    for run in folder.runs:
        cluster.engine.start(job(folder, run.name))
    ended = cluster.ended("a", "b", "bad")
    assert {name: one.code for name, one in ended.items()} == {"a": 0, "b": 0, "bad": 2}
    assert all(one.seconds > 0 and not one.cause for one in ended.values())
    for run in folder.runs[:2]:
        assert is_finished(run.path)
        log = folder.log(run).read_text()
        assert f"$ kikimimi train {run.path}\n" in log
        assert f"$ kikimimi evaluate {run.path}\n" in log
    assert "none-*.tar" in failure_cause(folder.log(folder.runs[2]), 2)
    assert not list(cluster.home.rglob("*ray*"))


@pytest.mark.slow
def test_a_lost_process_is_replaced(cluster: Cluster, make_sweep: MakeSweep, wait_for: WaitFor) -> None:
    folder = make_sweep(long=LONG)
    (run,) = folder.runs
    cluster.engine.start(job(folder, "long"))
    wait_for(lambda: len(steps(run.path)) > 5)
    (training,) = trainings(run.path)
    os.kill(parent(training), signal.SIGKILL)
    log = folder.log(run)
    # Ray starts it again, and it goes on from what the first one has saved at its end.
    wait_for(lambda: "going on after step" in log.read_text())
    reached = len(steps(run.path))
    wait_for(lambda: len(steps(run.path)) > reached + 5)
    # What a signal raises while the engine waits is what comes out of it.
    handler = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    with pytest.raises(Stopped):
        cluster.engine.wait(600.0)
    signal.signal(signal.SIGALRM, handler)
    cluster.engine.stop("long")
    assert cluster.ended("long")["long"].code == 143
    assert not trainings(run.path)
    assert log.read_text().count("stopped by SIGTERM") == 2
    # No step is trained twice, and none is left out.
    assert steps(run.path) == list(range(1, len(steps(run.path)) + 1))


@pytest.mark.slow
def test_a_lost_driver(cluster: Cluster, make_sweep: MakeSweep, wait_for: WaitFor) -> None:
    folder = make_sweep(long=LONG)
    (run,) = folder.runs
    words = [sys.executable, "-c", DRIVER, cluster.address, str(run.path), str(folder.log(run))]
    with subprocess.Popen(words) as driver:
        wait_for(lambda: len(steps(run.path)) > 5)
        driver.kill()
    wait_for(lambda: not trainings(run.path))
    reached = len(steps(run.path))
    cluster.engine.start(job(folder, "long"))
    wait_for(lambda: len(steps(run.path)) > reached + 5)
    cluster.engine.stop("long")
    assert cluster.ended("long")["long"].code == 143
    assert f"going on after step {reached}\n" in folder.log(run).read_text()
    assert steps(run.path) == list(range(1, len(steps(run.path)) + 1))


@pytest.mark.slow
def test_what_the_cluster_has_no_room_for(
    cluster: Cluster, make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = job(make_sweep(a=[]), "a")
    with pytest.raises(
        RequestError, match=r"needs 1000 CPUs and 0 GPUs on one machine \(trainer.devices=1000\)"
    ):
        cluster.engine.start(replace(small, devices=1000))
    with pytest.raises(RequestError, match=r"2 machines .* take --engine slurm --dry-run"):
        cluster.engine.start(replace(small, nodes=2))
    monkeypatch.setattr(cluster.engine, "_gpus", 1000.0)
    with pytest.raises(
        RequestError, match=r"a run needs 1 CPUs and 1000 GPUs \(--cpus, --gpus\), and the mach"
    ):
        cluster.engine._all_places()
    with pytest.raises(RequestError, match="this process is connected to a Ray cluster already"):
        RayEngine(address=cluster.address)
    assert cluster.engine.wait(0.0) == []


@pytest.mark.slow
def test_it_leaves_the_process_as_it_was(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    script = """
import os, signal, sys
from kikimimi.sweeps.ray_engine import RayEngine
handlers = [signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)]
before, handlers = dict(os.environ), [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
for _ in range(2):  # the second cluster has another token
    engine = RayEngine()
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == handlers
    engine.close()
    assert dict(os.environ) == before, set(before) ^ set(os.environ)
"""
    home = {"HOME": str(tmp_path / "home"), "TMPDIR": "/tmp"}
    (tmp_path / "home").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **home},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert not list((tmp_path / "home").rglob("*"))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"cpus": 0.0}, "--cpus 0: a process of a run needs some of a CPU"),
        ({"gpus": 1.5}, "--gpus 1.5: above 1, Ray gives whole GPUs"),
        ({"address": "ray://head:10001"}, r"--address ray://head:10001: name the cluster itself, HOST:6379"),
    ],
)
def test_what_cannot_be(options: dict[str, float], told: str) -> None:
    with pytest.raises(RequestError, match=told):
        RayEngine(**options)  # type: ignore[arg-type]


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    for loaded in [name for name in sys.modules if name.partition(".")[0] == "ray"]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, "ray", None)
    before = dict(os.environ)
    with pytest.raises(MissingExtraError, match=r"--engine ray needs the package 'ray'.*kikimimi\[ray\]"):
        RayEngine()
    assert dict(os.environ) == before


def test_a_machine_that_does_not_see_the_run(make_sweep: MakeSweep, tmp_path: Path) -> None:
    here = job(make_sweep(a=[]), "a")
    here.log.parent.mkdir(parents=True)
    for wrong, folder in (
        (replace(here, run=tmp_path / "none"), tmp_path),
        (replace(here, log=tmp_path / "none" / "a.log"), tmp_path),
        (here, tmp_path / "none"),
    ):
        ended = ray_task(wrong, folder, {})
        assert ended.code == 2
        assert f"{tmp_path / 'none'}" in ended.cause
        assert "the machines of the cluster have to see run folders" in ended.cause
    assert not RunFolder(here.run, RunFolder.read_recipe(here.run)).begun


def test_ranks_of_the_cluster_are_none_of_the_run() -> None:
    kept = {"PATH": "/bin", "HOME": "/home", "KIKIMIMI_CACHE": "/cache", "CUDA_VISIBLE_DEVICES": "1"}
    of_others = {
        "SLURM_PROCID": "3",
        "RANK": "1",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "4",
        "RAY_AUTH_TOKEN": "secret",
    }
    assert clean_environment(kept | of_others) == kept

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.popen_spawn_posix import Popen
from pathlib import Path
from typing import Any

import pytest

from kikimimi.console.signals import STOP_SIGNALS
from kikimimi.data.shards.indexing import build_index
from kikimimi.data.workers import in_order, working_processes
from kikimimi.errors import DataError

# The processes run what stands above the last line, too.
CHECK = """
import os
import sys
import time
from pathlib import Path
from kikimimi.data.shards import check

def wait(record):
    Path(sys.argv[1]).with_name(f"at-work-{os.getpid()}").touch()
    time.sleep(600)

check._ROWS = 1
check._check_clips = wait
if __name__ == "__main__":
    check.ShardCheck([sys.argv[1]]).run(workers=2)
"""


def test_results_come_in_the_order_of_the_tasks() -> None:
    tasks = ["a", "bb", ""]
    assert list(in_order(len, tasks, 1)) == [1, 2, 0]
    assert list(in_order(len, tasks, 8)) == [1, 2, 0]
    with pytest.raises(ValueError, match="invalid literal"):
        list(in_order(int, ["1", "x", "2"], 2))


def test_a_process_that_dies() -> None:
    with pytest.raises(DataError, match=r"a process has died; out of memory\? Run .* with fewer --work"):
        list(in_order(os._exit, [1, 2], 2))


def test_no_signal_reaches_a_process_that_is_being_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signals that a terminal sends to all would end one with a traceback, before it can see to them."""
    held: list[set[int]] = []
    launch = Popen.__init__

    def launched(self: Popen, process: Any) -> None:
        held.append(set(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, []))))
        launch(self, process)

    monkeypatch.setattr(Popen, "__init__", launched)
    pipes = [tmp_path / str(number) for number in range(3)]
    with working_processes(3) as submit:
        for pipe in pipes:
            os.mkfifo(pipe)
        futures = [
            submit(Path.read_text, pipe) for pipe in pipes
        ]  # no process is idle before they are written
        for pipe in pipes:
            pipe.write_text("read")
        assert [future.result() for future in futures] == ["read"] * 3
    assert len(held) == 3
    assert all(blocked >= set(STOP_SIGNALS) for blocked in held)
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])


TRACKED = """
import os, signal
from multiprocessing.resource_tracker import _resource_tracker
from kikimimi.data.workers import working_processes

with working_processes(1) as submit:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        os.kill(_resource_tracker._pid, number)
    print(submit(abs, -3).result())
"""


def test_signals_to_all_leave_what_python_starts_beside_them() -> None:
    done = subprocess.run([sys.executable, "-c", TRACKED], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")


def test_processes_end_with_the_one_that_started_them(
    tmp_path: Path,
    shard: Callable[..., Path],
    wait_for: Callable[[Callable[[], bool]], None],
    ended: Callable[[set[int]], bool],
) -> None:
    path = shard(2)
    build_index(path)
    script = tmp_path / "check.py"
    script.write_text(CHECK)
    process = subprocess.Popen([sys.executable, str(script), str(path)])
    try:
        wait_for(lambda: len(list(tmp_path.glob("at-work-*"))) == 2)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    at_work = {int(file.name.rpartition("-")[2]) for file in tmp_path.glob("at-work-*")}
    wait_for(lambda: ended(at_work))

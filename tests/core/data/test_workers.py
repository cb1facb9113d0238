from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing import resource_tracker
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
        tracker = resource_tracker._resource_tracker
        os.kill(tracker._pid, signal.SIGUSR1)  # type: ignore[attr-defined]
        assert tracker._check_alive()  # type: ignore[attr-defined]
    assert len(held) == 3
    assert all(blocked >= set(STOP_SIGNALS) for blocked in held)
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])


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

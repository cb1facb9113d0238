from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kikimimi.data.shards.indexing import build_index
from kikimimi.data.workers import in_order
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

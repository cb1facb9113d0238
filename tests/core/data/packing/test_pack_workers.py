"""Packing in several processes: the same bytes, whatever happens to them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest

from kikimimi.console.progress import Progress
from kikimimi.data.packing.pack import pack
from kikimimi.errors import DataError, RequestError

Tone = Callable[..., bytes]
WaitFor = Callable[[Callable[[], bool]], None]
Ended = Callable[[set[int]], bool]

LAYOUT = '''
import os
import time
from dataclasses import dataclass
from pathlib import Path
from kikimimi.errors import MissingExtraError
from kikimimi.contracts.layout import Layout, LayoutConfig, Row

class Clips(Layout):
    """A folder of clips; files beside them make it slow, deadly or broken."""

    Config = LayoutConfig

    def __init__(self, path, config):
        super().__init__(path, config)
        self.files = sorted(Path(path).glob("*.wav"))

    @classmethod
    def matches(cls, path):
        return any(path.glob("*.wav"))

    def __len__(self):
        return len(self.files)

    def fingerprint(self, begin, end):
        return "-".join(file.name for file in self.files[begin:end])

    def rows(self, begin, end):
        for number, file in enumerate(self.files[begin:end], start=begin):
            if (wait := file.with_name("slow")).is_file():
                time.sleep(float(wait.read_text()))
            if (kill := file.with_name("kill")).is_file() and int(kill.read_text()) == number:
                os.kill(os.getpid(), 9)
            if (fail := file.with_name("fail")).is_file() and number == 5:
                raise {
                    "extra": MissingExtraError("it", "pyarrow", "parquet"),
                    "bug": ZeroDivisionError("oops"),
                    "full": OSError(28, "No space left on device"),
                }[fail.read_text()]
            text = "" if number % 4 == 3 else f"text {number}"
            yield Row(file.name, {"text": text, "language": "en", "meta": {}}, (file,))
'''


class Install(Protocol):
    def __call__(self, name: str, entry_points: Any, modules: Any) -> Path: ...


@pytest.fixture
def site(install: Install) -> Path:
    entries = {"kikimimi.layouts": {"clips": "clips_layout:Clips"}}
    return install("clips-layout", entries, {"clips_layout": LAYOUT})


@pytest.fixture
def clips(tmp_path: Path, tone: Tone, site: Path) -> Path:
    folder = tmp_path / "clips"
    folder.mkdir()
    for number in range(12):
        (folder / f"{number:02d}.wav").write_bytes(tone(0.1 + number / 100))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def run(clips: Path, out: Path, **options: Any) -> Any:
    return pack(clips, out, layout="clips", records_per_shard=2, **options)


def start(
    clips: Path, out: Path, site: Path, *, records_per_shard: int, workers: int
) -> subprocess.Popen[bytes]:
    """Start `kikimimi data pack` in a session of its own."""
    command = [sys.executable, "-m", "kikimimi.cli", "data", "pack", str(clips), str(out)]
    command += ["--layout", "clips", "--records-per-shard", str(records_per_shard), "--workers", str(workers)]
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, start_new_session=True)


def children(process: int) -> set[int]:
    found = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return {int(child) for child in found}


def test_any_number_of_workers_makes_the_same_bytes(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    alone = run(clips, one)
    with Progress("Packing", 12, "rows") as progress:
        report = run(clips, two, workers=2, progress=progress)
    assert progress.done == 12
    assert contents(one) == contents(two)
    assert (report.records, report.rows, len(report.shards)) == (9, 12, 6)
    assert report.shards == alone.shards
    assert run(clips, two).kept_shards == 6
    assert contents(one) == contents(two)


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_in_the_middle_it_goes_on(
    clips: Path, site: Path, tmp_path: Path, workers: int, wait_for: WaitFor, ended: Ended
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    run(clips, whole)
    (clips / "slow").write_text("0.1")
    process = start(clips, out, site, records_per_shard=2, workers=workers)
    try:
        wait_for(lambda: len(list(out.glob("*.tar.pack.jsonl"))) > 0)
        wait_for(lambda: len(list(out.glob("*.tar.*.tmp"))) > 0)
        busy = children(process.pid)
        with pytest.raises(
            RequestError, match="out: another packing is at work there; wait for it, or choose"
        ):
            run(clips, out)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert len(busy) >= (workers if workers > 1 else 0)
    wait_for(lambda: ended(busy))  # nobody goes on without the first process
    made = len(list(out.glob("*.tar.pack.jsonl")))
    assert 0 < made < 6
    (clips / "slow").unlink()
    report = run(clips, out, workers=workers)
    assert report.kept_shards == made
    assert contents(out) == contents(whole)


def test_ctrl_c_stops_after_the_current_rows(
    clips: Path, site: Path, tmp_path: Path, wait_for: WaitFor
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    run(clips, whole)
    (clips / "slow").write_text("0.5")
    process = start(clips, out, site, records_per_shard=6, workers=2)
    try:
        wait_for(lambda: len(list(out.glob("*.tar.*.tmp"))) == 2)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
        _, said = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert b"stopped. Run the same command again: it goes on from here." in said
    assert b"Traceback" not in said
    assert list(out.iterdir()) == []
    (clips / "slow").unlink()
    run(clips, out)
    assert contents(out) == contents(whole)


@pytest.mark.parametrize("everywhere", [False, True])
def test_sigterm_ends_all_processes(
    clips: Path, site: Path, tmp_path: Path, wait_for: WaitFor, ended: Ended, everywhere: bool
) -> None:
    """Sent to the first one alone, or to all as some schedulers do: none is taken for one that died."""
    out = tmp_path / "out"
    (clips / "slow").write_text("600")  # rows are not waited for
    process = start(clips, out, site, records_per_shard=6, workers=2)
    try:
        wait_for(lambda: len(list(out.glob("*.tar.*.tmp"))) == 2)
        busy = children(process.pid)
        (os.killpg if everywhere else os.kill)(process.pid, signal.SIGTERM)
        _, said = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 143, said
    assert said.splitlines()[-1] == b"stopped by SIGTERM. Run the same command again: it goes on from here."
    assert b"Traceback" not in said
    wait_for(lambda: ended(busy))
    assert list(out.iterdir()) == []


def test_a_process_that_finds_no_room_says_so(clips: Path, tmp_path: Path) -> None:
    (clips / "fail").write_text("full")
    with pytest.raises(DataError, match=r"shard-000002\.tar: could not be written: No space left on device"):
        run(clips, tmp_path / "out", workers=2)
    assert not list((tmp_path / "out").glob("*.tmp"))


def test_a_process_that_dies_is_named_with_its_row(clips: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    run(clips, whole)
    (clips / "kill").write_text("9")
    with pytest.raises(
        DataError,
        match=r"a process that packs has died; out of memory\? At work then: .*row 9 \(shard-000004\.tar\).*"
        r"Whole shards are kept: the same command goes on from here, and with fewer --workers",
    ):
        run(clips, out, workers=2)
    assert not list(out.glob("*.tmp"))
    (clips / "kill").unlink()
    assert run(clips, out).kept_shards >= 2
    assert contents(out) == contents(whole)


@pytest.mark.parametrize(
    ("how", "error", "said"),
    [
        ("extra", RequestError, r"it needs the package 'pyarrow'.*pip install 'kikimimi\[parquet\]'"),
        ("bug", ZeroDivisionError, "oops"),
    ],
)
def test_an_error_in_a_process_arrives(
    clips: Path, tmp_path: Path, how: str, error: type[Exception], said: str
) -> None:
    (clips / "fail").write_text(how)
    before = threading.active_count()
    with pytest.raises(error, match=said):
        run(clips, tmp_path / "out", workers=2)
    assert not list((tmp_path / "out").glob("*.tmp"))
    assert threading.active_count() <= before

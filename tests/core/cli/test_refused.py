"""The system refuses to write, in every command that does: one line, exit code 1, and nothing by half."""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kikimimi.errors import WriteError
from kikimimi.run.folder import RunFolder
from kikimimi.run.metrics import MetricsFile
from kikimimi.testing import write_shard

pytestmark = pytest.mark.fault(
    "The system: full disks, folders without permission", "one line, exit code 1, nothing by half"
)

Cli = Callable[..., Any]
Write = Callable[..., Path]
REFUSED = (
    r"(?m)^error: \S+: could not be written: No space left on device\. Make room, then run the same command "
    r"again\. What was written before is untouched$"
)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let the system refuse all that makes a file larger than so many bytes, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def find_no_room(path: Path) -> None:
    """Do as a disk that is found full when what was written reaches it."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def assert_refused(cli: Cli, folder: Path, *command: object) -> None:
    """Run a command that may write nothing; what it finds stays as it is."""
    before = contents(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kikimimi.files.writing.sync", find_no_room)
        done = cli(*command)
    assert done.code == 1, done.err
    assert len(re.findall(REFUSED, done.err)) == 1, done.err
    assert "Traceback" not in done.err
    # The lock of a run is empty as long as nobody holds it.
    now = contents(folder)
    assert {name: held for name, held in now.items() if held} == {
        n: held for n, held in before.items() if held
    }


@pytest.fixture
def shards(tmp_path: Path) -> str:
    return write_shard(tmp_path / "data", 3)


@pytest.mark.parametrize(
    "command",
    [
        ("data", "index", "{shards}"),
        ("data", "check", "{shards}", "--json", "{out}/new/report.json"),
        ("data", "stats", "{shards}", "--json", "{out}/report.json"),
        ("data", "stats", "{shards}", "--html", "{out}/page.html"),
        ("data", "synth", "ja_small", "--out", "{out}/synth", "--count", "2", "--held-out", "1"),
        ("data", "pack", "{table}", "{out}/packed"),
        ("plugins", "new", "mine", "--kind", "adapter", "--out", "{out}/mine"),
        ("train", "{recipe}", "--out", "{out}/runs"),
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_a_command_that_finds_no_room(
    cli: Cli,
    tmp_path: Path,
    shards: str,
    recipe_file: Path,
    write: Write,
    tone: Any,
    command: tuple[str, ...],
) -> None:
    write("a.wav", tone(0.5))
    write("b.wav", tone(0.5))
    table = tmp_path / "list.csv"
    table.write_text("path,text,language\na.wav,one,en\nb.wav,two,en\n")
    names = {"shards": shards, "out": tmp_path / "out", "table": table, "recipe": recipe_file}
    assert_refused(cli, tmp_path, *(word.format(**names) for word in command))


@pytest.mark.parametrize("there", [False, True])
def test_an_evaluation_that_finds_no_room(cli: Cli, trained: Path, tmp_path: Path, there: bool) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    if there:
        assert cli("evaluate", run).code == 0
        (run / "evaluations" / "held_out" / "scores.json").unlink()
    assert_refused(cli, tmp_path, "evaluate", run)


def test_the_quickstart_that_finds_no_room(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(cli, tmp_path, "quickstart")


def test_metrics_that_find_no_room_keep_the_lines_before(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path, "asr")
    metrics.log_metrics({"loss": 1.0}, step=1)
    metrics.write_csv()
    before = contents(tmp_path)
    with largest_file(60):
        with pytest.raises(WriteError, match=r"metrics\.jsonl: could not be written: File too large"):
            metrics.log_metrics({"loss": 2.0}, step=2)
        assert contents(tmp_path) == before
    metrics.log_metrics({"loss": 2.0}, step=2)
    with largest_file(20), pytest.raises(WriteError, match=r"metrics\.csv: could not be written"):
        metrics.write_csv()
    assert contents(tmp_path)["metrics.csv"] == before["metrics.csv"]


def test_a_folder_whose_place_is_taken_by_a_file(cli: Cli, tmp_path: Path, shards: str) -> None:
    (tmp_path / "taken").write_text("")
    done = cli("data", "stats", shards, "--html", tmp_path / "taken" / "page.html")
    assert done.code == 1
    assert "page.html: could not be written: " in done.err
    assert "One of the folders in this path is a file: choose another path" in done.err


@pytest.mark.parametrize(
    ("command", "work"),
    [
        (("data", "check", "{shards}", "--json", "{bad}"), "kikimimi.data.shards.check.ShardCheck"),
        (("data", "stats", "{shards}", "--json", "{bad}"), "kikimimi.inspect.stats.measure_stats"),
        (("data", "stats", "{shards}", "--html", "{bad}"), "kikimimi.inspect.stats.measure_stats"),
        (("data", "index", "{shards}"), "kikimimi.data.shards.indexing._Builder"),
        (("evaluate", "{run}"), "kikimimi.evaluation.evaluate.load_model"),
    ],
    ids=lambda given: " ".join(given[:2]) + given[-2] if isinstance(given, tuple) else "",
)
def test_a_target_is_tried_before_the_work(
    cli: Cli,
    tmp_path: Path,
    shards: str,
    trained: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    work: str,
) -> None:
    def begun(*_: Any, **__: Any) -> None:
        raise AssertionError("the work has begun")

    run = tmp_path / "run"
    shutil.copytree(trained, run)
    (run / "evaluations").write_text("in the way")
    index = next(path for path in Path(shards).parent.iterdir() if path.suffix != ".tar")
    if command[1] == "index":
        index.unlink()
        index.mkdir()
    monkeypatch.setattr(work, begun)
    names = {"shards": shards, "bad": index / "a.json", "run": run}
    done = cli(*(word.format(**names) for word in command))
    assert done.code == 1
    wrong = (
        r"could not be written: (Is a dir|Not a dir|File exists)|is not a folder\. Put back what it leads to"
    )
    assert re.search(rf"^error: \S+: .*({wrong})", done.err, re.M)


def test_files_that_may_not_be_large_are_told_of_sound_in_memory(cli: Cli, tmp_path: Path) -> None:
    """Files without a name, in which sound is held, are limited as others are."""
    with largest_file(4096):
        done = cli("data", "synth", "ja_small", "--out", tmp_path / "out", "--count", "1", "--held-out", "1")
    assert done.code == 1
    assert re.search(r"sound held in memory: .*ulimit -f", done.err), done.err
    assert "Traceback" not in done.err


def test_a_folder_without_permission(cli: Cli, tmp_path: Path, shards: str) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir(mode=0o555)
    if os.access(folder, os.W_OK):
        pytest.skip("root may write everywhere")
    done = cli("data", "stats", shards, "--json", folder / "a.json")
    assert done.code == 1
    assert "a.json: could not be written: Permission denied. Name a folder that you may write to" in done.err


def test_too_many_open_files_are_one_line(cli: Cli, shards: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise OSError(24, "Too many open files", shards)

    monkeypatch.setattr("kikimimi.inspect.stats.measure_stats", refused)
    done = cli("data", "stats", shards)
    assert done.code == 1
    assert done.err == (
        f"error: {shards}: Too many open files. Raise the limit (ulimit -n 65536), or take fewer workers, "
        "then run the same command again\n"
    )


def test_what_is_no_refusal_of_the_system_is_not_hidden(
    cli: Cli, shards: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise OSError("a bug")

    monkeypatch.setattr("kikimimi.inspect.stats.measure_stats", broken)
    with pytest.raises(OSError, match="a bug"):
        cli("data", "stats", shards)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_finds_no_room(unbuffered: str) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "kikimimi.cli", "--version"],
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    line = (
        "error: the command cannot go on: No space left on device. Make room, then run the same command again"
    )
    assert done.stderr == f"{line}\n"


def test_the_lock_of_a_run_that_finds_no_room(trained: Path, tmp_path: Path) -> None:
    run = RunFolder.open(shutil.copytree(trained, tmp_path / "run"))
    with (
        largest_file(0),
        pytest.raises(WriteError, match=r"run/\.lock: could not be written: File too large"),
        run.locked(),
    ):
        pass  # closing the file does not write it again, and fail without a name

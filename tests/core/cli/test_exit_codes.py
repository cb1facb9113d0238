"""What a command ends with: 1 where something that it needs is damaged, 2 where the request is wrong."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kikimimi.files.hashes import MANIFEST
from kikimimi.run.made_with import tell_difference

from .conftest import Outcome
from .test_check import flip

pytestmark = pytest.mark.fault(
    "Our files: a run folder, `kikimimi check`", "each item is sound, or named with what to do"
)

Cli = Callable[..., Outcome]
WEIGHTS, STEP = "weights/asr.safetensors", "checkpoints/asr/step-00000002"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "small"))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def unfinished(run: Path) -> None:
    (run / WEIGHTS).unlink()


@pytest.mark.parametrize("damage", [flip, cut])
@pytest.mark.parametrize(
    ("command", "file", "before", "said"),
    [
        (["evaluate"], WEIGHTS, None, "cannot be read: .*Restore it from a copy, or delete it"),
        (["evaluate"], f"{STEP}/weights.safetensors", unfinished, "cannot be read: .* goes on from the "),
        (
            ["evaluate"],
            "assets/llm/tokenizer/tokenizer.json",
            None,
            "tokenizer.json .*Restore it from a copy",
        ),
        (["transcribe", "a.wav"], WEIGHTS, None, "cannot be read: .*Restore it from a copy, or delete it"),
        (["train"], f"{STEP}/resume.safetensors", unfinished, "damaged: .*There is no other to go on from"),
    ],
)
def test_what_is_damaged_is_work_that_failed(
    cli: Cli,
    run: Path,
    write: Any,
    tone: Any,
    monkeypatch: pytest.MonkeyPatch,
    damage: Any,
    command: list[str],
    file: str,
    before: Any,
    said: str,
) -> None:
    monkeypatch.chdir(run)
    write("a.wav", tone(0.2)).rename(run / "a.wav")
    if before is not None:
        before(run)
    damage(run / file)
    done = cli(command[0], run, *command[1:])
    assert done.code == 1, done.err
    assert re.search(f"error: .*{said}", done.err)


@pytest.mark.parametrize("command", [["evaluate"], ["train"], ["check"], ["transcribe", "no.wav"]])
def test_a_run_that_is_not_there_is_a_wrong_request(cli: Cli, tmp_path: Path, command: list[str]) -> None:
    assert cli(command[0], tmp_path / "none", *command[1:]).code == 2


@pytest.mark.parametrize("name", ["scores.json", "record.json"])
@pytest.mark.parametrize("put", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("nowhere")])
def test_what_is_no_file_of_an_evaluation_is_named_alike(cli: Cli, run: Path, name: str, put: Any) -> None:
    """``evaluate`` spoke of another path to choose, or wrote it again, and ``check`` of deleting it."""
    file = run / "evaluations" / "held_out" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    put(file)
    problem = r"is (not a file|a symbolic link that leads nowhere)\. .*[Dd]elete it: 'kikimimi evaluate' "
    found = re.search(rf"evaluations/held_out/{name}: ({problem}.*)", cli("check", run).out)
    assert found is not None
    assert cli("evaluate", run).err.endswith(f"error: {file}: {found[1]}\n")


def test_a_damaged_lock_is_said_once(cli: Cli, run: Path) -> None:
    (run / "lock.json").write_text("x")
    said = "lock.json: is not JSON: "
    for command in (["train"], ["check"], ["evaluate"], ["show"]):
        tell_difference.cache_clear()  # as another process has it
        done = cli(command[0], run, *command[1:])
        assert (done.out + done.err).count(said) == 1, command
    (run / WEIGHTS).unlink()
    tell_difference.cache_clear()
    done = cli("train", run)
    assert done.err.count(said) == 1
    assert done.err.endswith("or delete it: the next session writes a new one\n")


def test_what_earlier_versions_wrote_is_told_to_be_unverified(cli: Cli, run: Path) -> None:
    (run / WEIGHTS).unlink()
    (run / STEP / MANIFEST).unlink()
    done = cli("evaluate", run)
    assert done.code == 0
    where = run / STEP / "weights.safetensors"
    said = f"{where}: has no hashes, as earlier versions wrote it: taken as it is, not verified\n"
    assert done.err.count(said) == 1

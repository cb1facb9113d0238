"""What saving does when something goes wrong, in one process; two are in test_fsdp.py."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from kikimimi.errors import DamagedError, KikimimiError, RequestError, WriteError
from kikimimi.files import writing
from kikimimi.files.writing import sync
from kikimimi.model.assembly import assemble, load_deferred
from kikimimi.model.sharding import shard
from kikimimi.training.state import checkpoint
from kikimimi.training.train import train

from .conftest import Make


def fill_disk(monkeypatch: pytest.MonkeyPatch, part: str, number: int = errno.ENOSPC) -> None:
    """Let the disk be full for files whose path holds `part`."""
    real = sync

    def full(path: Path) -> None:
        if part in str(path):
            raise OSError(number, os.strerror(number))
        real(path)

    for module in (checkpoint, writing):
        monkeypatch.setattr(module, "sync", full)


def test_a_disk_that_may_not_be_written_to(make_run: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run("run", "stages.asr.validate.every=0")
    fill_disk(monkeypatch, "step-00000003", errno.EROFS)
    with pytest.raises(
        KikimimiError, match=r"Read-only .* There is none before it\. Name a folder that can be"
    ):
        train(run)


@pytest.mark.fault(
    "The system: full disks, folders without permission", "one line, exit code 1, nothing by half"
)
@pytest.mark.parametrize(
    "folder", ["weights", "checkpoints", "checkpoints/asr", "checkpoints/asr/best", "faults"]
)
def test_a_folder_that_takes_no_files_is_told_before_the_first_step(make_run: Make, folder: str) -> None:
    run = make_run("run")
    (run.path / folder).parent.mkdir(exist_ok=True, parents=True)
    (run.path / folder).touch()
    with pytest.raises(DamagedError, match=rf"/{folder}: is not a folder\. Put back .*, or delete it"):
        train(run)
    assert not run.metrics.exists()


@pytest.mark.fault(
    "The system: full disks, folders without permission", "one line, exit code 1, nothing by half"
)
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (Path.mkdir, "could not be written: Is a directory. It is a folder: .* or move it away"),
        (os.mkfifo, "is a device or a pipe, in whose place no file is put"),
    ],
)
def test_what_is_written_last_is_tried_before_the_first_step(
    make_run: Make, make: Callable[[Path], object], said: str
) -> None:
    """The table of metrics is made where a stage ends, before its weights are written."""
    run = make_run("run")
    make(run.path / "metrics.csv")
    with pytest.raises(WriteError, match=rf"/metrics\.csv: {said}"):
        train(run)
    assert not run.metrics.exists()


@pytest.mark.parametrize(
    ("part", "said", "left"),
    [
        (
            "step-00000003",
            r"step-00000003: .* No space left on device\. There is none before it\. Make room",
            [],
        ),
        ("step-00000006", r"The one before it, step-00000003, is intact\. Make room", ["step-00000003"]),
        (
            "asr.safetensors",
            r"asr\.safetensors: the weights could not be written: No .* The last checkpoint is intact\.",
            ["step-00000003", "step-00000006", "step-00000008"],
        ),
    ],
)
def test_a_full_disk(
    make_run: Make, monkeypatch: pytest.MonkeyPatch, part: str, said: str, left: list[str]
) -> None:
    run = make_run("run", "stages.asr.validate.every=0")
    with monkeypatch.context() as patch:
        fill_disk(patch, part)
        with pytest.raises(KikimimiError, match=said):
            train(run)
    assert sorted(path.name for path in run.checkpoints("asr").iterdir()) == left
    assert not run.finished("asr")
    assert not list(run.path.rglob(".*.tmp"))
    train(run)
    assert run.finished("asr")


def test_what_a_kill_leaves_is_passed_over_and_cleared(make_run: Make) -> None:
    run = make_run("run")
    for name in (".step-00000002.tmp", ".step-00000001.old"):
        (run.checkpoints("asr") / name).mkdir(parents=True)
        (run.checkpoints("asr") / name / "weights.safetensors").write_bytes(b"half")
    weights = run.weights("asr")
    weights.parent.mkdir()
    for name in (f".{weights.name}.tmp", f".{weights.name}.77-0a1b2c3d.tmp"):
        (weights.parent / name).write_bytes(b"half")
    train(run)
    assert not list(run.checkpoints("asr").glob(".*"))
    assert list(weights.parent.iterdir()) == [weights]
    assert run.finished("asr")


def test_a_single_number_cannot_be_shared_out(make_run: Make) -> None:
    model = assemble(make_run("run").recipe, texts=lambda: ["a"])
    model.adapter.register_parameter("scale", torch.nn.Parameter(torch.ones(())))
    with pytest.raises(
        RequestError, match=r"fsdp cannot share out adapter\.scale, .* Give it the shape \(1,\)"
    ):
        shard(model, cast(Any, None), "fp32")


def test_parts_without_memory_are_filled_as_others(make_run: Make, tmp_path: Path) -> None:
    """With low-rank updates beside the weights: the same numbers, and no update is lost."""
    source = assemble(make_run("source", "llm.scratch={tokenizer: bytes, dim: 32, num_heads: 2}").recipe)
    llm: Any = source.llm
    llm.model.save_pretrained(tmp_path / "llm")
    llm.tokenizer.save_pretrained(tmp_path / "llm")
    recipe = make_run(
        "run", f"llm={{name: llama, weights: {tmp_path}/llm, chat_template: plain, lora: {{}}}}"
    ).recipe
    whole, empty = assemble(recipe), assemble(recipe, deferred=True)
    assert empty.deferred == {"llm"}  # the encoder's weights are drawn at random
    bare = {name for name, p in empty.named_parameters() if p.is_meta}
    assert bare == {f"llm.{name}" for name, _ in empty.llm.named_parameters() if ".lora_" not in name}
    filled: Any = empty.llm
    filled._apply(lambda t: torch.empty_like(t, device="cpu") if t.is_meta else t)
    filled.model.tie_weights()
    load_deferred(empty)
    expected = dict(whole.named_parameters())
    found = dict(empty.named_parameters())
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert (whole.fixed, whole.pretrained) == (empty.fixed, empty.pretrained)

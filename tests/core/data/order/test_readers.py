"""Processes that read: what they cannot hand over, their deaths, and those that stand still."""

from __future__ import annotations

import gc
import math
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing import active_children
from typing import Any, cast

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from kikimimi.console.terminal import say
from kikimimi.data.order import readers
from kikimimi.data.order.loader import StageLoader
from kikimimi.data.order.readers import ReaderError, Readers, handed_over, lost_readers_told
from kikimimi.data.workers import ignore_signals

pytestmark = pytest.mark.fault(
    "The system: readers that die, stand still, or lack `/dev/shm`", "named within seconds, exit code 1"
)


class Numbers(Dataset[torch.Tensor]):
    """Tensors of one number; the third one may be hard to come by."""

    def __init__(self, trouble: Callable[[], Any] = int) -> None:
        self.trouble = trouble

    def __len__(self) -> int:
        return 4

    def __getitem__(self, number: int) -> torch.Tensor:
        if number == 2:
            self.trouble()
        return torch.tensor([number])


def read(trouble: Callable[[], Any] = int, waiting: Callable[[], None] = lambda: None) -> list[int]:
    loader: Any = DataLoader(
        Numbers(trouble),
        batch_size=None,
        num_workers=2,
        multiprocessing_context="fork",
        collate_fn=handed_over,
        worker_init_fn=ignore_signals,
        timeout=1,
    )
    with lost_readers_told():
        return [int(batch) for batch in Readers(lambda: iter(loader), waiting)]


@pytest.fixture(autouse=True)
def no_reader_is_left() -> Iterator[None]:
    yield
    assert active_children() == []


def test_batches_arrive_in_order() -> None:
    assert read() == [0, 1, 2, 3]


def test_more_workers_than_cores_are_nothing_to_warn_of() -> None:
    dataset: Any = Numbers(int)
    assert StageLoader(dataset, cast(Any, range(4)), workers=4096).num_workers == 4096


def test_a_slow_batch_is_waited_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "TOLD_AFTER", 1.2)
    told = multiprocessing.get_context("fork").Event()

    def tell(message: str, *, error: bool) -> None:
        say(message, error=error)
        told.set()

    monkeypatch.setattr("kikimimi.data.order.readers.say", tell)
    assert read(told.wait) == [0, 1, 2, 3]
    said = capsys.readouterr().err
    assert said.count("waiting for data: the processes that read training data (trainer.workers=2)") == 1
    assert "/dev/shm has" in said


def test_a_full_shared_memory_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        @staticmethod
        def dumps(batch: Any) -> Any:
            raise RuntimeError(
                "unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)\n"
                "Exception raised from somewhere in C++"
            )

    monkeypatch.setattr(readers, "ForkingPickler", Full)
    with pytest.raises(
        ReaderError,
        match=r"\(trainer\.workers=2\) cannot hand over a batch: unable to allocate shared memory\(shm\) for "
        r"file </torch_1>: No space left on device \(28\)\. /dev/shm has .* left of .*--shm-size=8g.*"
        r"trainer\.workers; 0 reads in the training process\. The last checkpoint is good",
    ):
        read()


def test_no_room_for_queues_is_told_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "_LEAST", 1 << 60)
    with pytest.raises(ReaderError, match=r"cannot be started: No space left on device\. /dev/shm has"):
        read()


@pytest.mark.parametrize("room", [3, 7, 9])
@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_readers_of_which_some_cannot_be_started(room: int) -> None:
    """Without room for the second one's pipes, the first is ended: it listens to no signal, for ever."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = [int(name) for name in os.listdir("/proc/self/fd")]
    free = [number for number in range(max(held) + room + 2) if number not in held]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[room], hard))
    try:
        with pytest.raises(ReaderError, match=r"cannot be started: Too many open files\..*ulimit -n 65536"):
            read()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    gc.collect()


def test_a_killed_reader_is_one_line() -> None:
    with pytest.raises(
        ReaderError,
        match=r"\(trainer\.workers\) has died: .*Out of memory\? .*The last checkpoint is good",
    ):
        read(lambda: os.kill(os.getpid(), signal.SIGKILL))


def test_an_error_of_the_data_is_not_taken_for_a_death() -> None:
    def fail() -> None:
        raise RuntimeError("of the data")

    with pytest.raises(RuntimeError, match="of the data"):
        read(fail)


def test_readers_that_stand_still_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "TOLD_AFTER", 1.5)
    monkeypatch.setattr(readers, "GIVEN_UP_AFTER", math.inf)  # it is because they stand still
    with pytest.raises(ReaderError, match=r"given no batch for .* s: they stand still\. /dev/shm has"):
        read(lambda: os.kill(os.getpid(), signal.SIGSTOP))


def test_the_last_resort(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "GIVEN_UP_AFTER", 1.5)
    looks: list[None] = []
    with pytest.raises(ReaderError, match="given no batch for 2 s: they stand still"):
        read(lambda: time.sleep(600), lambda: looks.append(None))
    assert len(looks) == 2  # these are counted: a clock runs on where a machine is busy, or a job suspended


def test_who_waits_may_be_stopped() -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read(lambda: time.sleep(600), stop)

"""The processes that read training data (`trainer.workers`): what they hand over, and when to give up."""

import errno
import math
import multiprocessing
import os
import pickle
import shutil
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

from torch.utils.data.dataloader import _BaseDataLoaderIter

from kikimimi.console.signals import signals_held
from kikimimi.console.terminal import say
from kikimimi.console.words import size
from kikimimi.errors import KikimimiError

SHARED_MEMORY = Path("/dev/shm")
"""Where processes on Linux hand tensors over."""
TOLD_AFTER = 10.0
"""How long a batch is waited for until that is told, and given up where the processes stand still [s]."""
GIVEN_UP_AFTER = 600.0
"""How long a batch is waited for at all [s]: the last resort. Slow servers are given up long before."""
LOOK_EVERY = 1
"""How often it is looked what became of a batch that does not come [s]. Looks are counted, not the clock: a
machine that is busy, or a job that was suspended, is not taken for processes that stand still."""
_LEAST = 1 << 18  # bytes of shared memory that queues take before any batch is in them
_MORE = (
    "Give it more (in Docker: --shm-size=8g), raise the limit of open files (ulimit -n 65536), or take fewer "
    "trainer.workers; 0 reads in the training process. The last checkpoint is good: the same command goes on "
    "from there"
)
_GOOD = "The last checkpoint is good: the same command goes on from there"


class ReaderError(KikimimiError):
    """The processes that read training data cannot go on."""


@dataclass(frozen=True)
class Refused:
    """In place of a batch: why the system lets it not be handed over."""

    message: str


def handed_over(batch: Any) -> bytes | Refused:
    """Move a batch to where the training process takes it; runs in a process that reads.

    Here, and not in the thread that sends it: there, errors are printed, and the batch never comes.
    """
    try:
        return bytes(ForkingPickler.dumps(batch))
    except (OSError, RuntimeError) as error:
        return Refused(str(error).strip().split("\n")[0])


class Readers:
    """Batches from processes of a loader.

    Args:
        start: Starts the processes and returns the loader's iterator, which has a time limit of its own.
        waiting: Called with each look while a batch is waited for; may raise.
    """

    def __init__(self, start: Callable[[], Iterator[Any]], waiting: Callable[[], None]) -> None:
        self._start, self._waiting = start, waiting

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches.

        Raises:
            ReaderError: The processes cannot hand over what they read, have died, or stand still.
        """
        before = multiprocessing.active_children()
        batches, readers = None, []
        try:
            with lost_readers_told():
                with signals_held():
                    try:
                        batches = _started(self._start)
                    finally:
                        readers = [one for one in multiprocessing.active_children() if one not in before]
                while (batch := self._next(batches, readers)) is not None:
                    yield batch
        except GeneratorExit:  # the stage is done with them
            raise
        except BaseException:
            _kill(readers)
            raise
        finally:
            del batches  # ends them
            _kill(readers)

    def _next(self, batches: Iterator[Any], readers: list[BaseProcess]) -> Any:
        looks, told = 0, False
        while True:
            try:
                with _watched(readers):
                    return self._taken(next(batches, None), readers)
            except ReaderError:
                self._waiting()  # what a signal asks for comes first
                raise
            except RuntimeError as error:
                if not str(error).startswith("DataLoader timed out"):
                    raise
            self._waiting()
            looks += 1
            waited = looks * LOOK_EVERY
            if waited > GIVEN_UP_AFTER or (waited > TOLD_AFTER and any(map(_is_stopped, readers))):
                raise _stand_still(readers, waited)
            if waited > TOLD_AFTER and not told:
                told = True
                say(
                    f"waiting for data: {_named(readers)} have given no batch for {waited:.0f} s; it all "
                    f"ends after {GIVEN_UP_AFTER:.0f} s of it. {_room()}",
                    error=True,
                )

    def _taken(self, content: bytes | Refused | None, readers: list[BaseProcess]) -> Any:
        if isinstance(content, Refused):
            raise ReaderError(
                f"{_named(readers)} cannot hand over a batch: {content.message}. {_room()}. {_MORE}"
            )
        return None if content is None else pickle.loads(content)


def _started(start: Callable[[], Iterator[Any]]) -> Iterator[Any]:
    try:
        if shutil.disk_usage(SHARED_MEMORY).free < _LEAST:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return start()
    except OSError as error:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if isinstance(half := frame.f_locals.get("self"), _BaseDataLoaderIter):
                half._shutdown = True  # type: ignore[attr-defined]  # torch stumbles over what it has not made
        raise ReaderError(
            f"the processes that read training data cannot be started: {error.strerror}. {_room()}. {_MORE}"
        ) from error


@contextmanager
def _watched(readers: list[BaseProcess]) -> Iterator[None]:
    """End processes that stand still while they hand something over: nothing else ends the waiting."""
    here, ended = threading.Event(), threading.Event()

    def watch() -> None:
        for _ in range(math.ceil(TOLD_AFTER / LOOK_EVERY)):
            if here.wait(LOOK_EVERY):
                return
        ended.set()
        for reader in readers:
            reader.kill()

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    except (OSError, EOFError, RuntimeError) as error:
        if ended.is_set():
            raise _stand_still(readers, TOLD_AFTER) from error
        if isinstance(error, RuntimeError):
            raise
        raise _lost(f"its batch is gone ({_last_line(error)})") from error
    finally:
        here.set()


def _stand_still(readers: list[BaseProcess], seconds: float) -> ReaderError:
    return ReaderError(
        f"{_named(readers)} have given no batch for {seconds:.0f} s: they stand still. {_room()}. Try "
        f"another trainer.workers; 0 reads in the training process. {_GOOD}"
    )


def _is_stopped(reader: BaseProcess) -> bool:
    """Tell whether a signal has stopped a process, which only another one lets go on."""
    try:
        fields = Path(f"/proc/{reader.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return False
    return fields[:1] in (["T"], ["t"])


@contextmanager
def lost_readers_told() -> Iterator[None]:
    """Turn what a loader raises where one of its processes has died into one line.

    Raises:
        ReaderError: It has.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):
            raise
        raise _lost(str(error).strip().split("\n")[0]) from error


def _last_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().split("\n")[-1]  # above it is the worker's traceback


def _lost(why: str) -> ReaderError:
    return ReaderError(
        f"a process that reads training data (trainer.workers) has died: {why.rstrip('. ')}. Out of memory? "
        f"{_room()}. Take fewer trainer.workers; 0 reads in the training process. {_GOOD}"
    )


def _named(readers: list[BaseProcess]) -> str:
    return f"the processes that read training data (trainer.workers={len(readers)})"


def _room() -> str:
    try:
        usage = shutil.disk_usage(SHARED_MEMORY)
    except OSError as error:
        return f"{SHARED_MEMORY}: {error.strerror}"
    return f"{SHARED_MEMORY} has {size(usage.free)} left of {size(usage.total)}"


def _kill(readers: list[BaseProcess]) -> None:
    """End processes that may not listen any more."""
    if not any(reader.is_alive() for reader in readers):
        return
    # torch raises in this process when one of them dies.
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        for reader in readers:
            reader.kill()
            reader.join()
    finally:
        signal.signal(signal.SIGCHLD, before)

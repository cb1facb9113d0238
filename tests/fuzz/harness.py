"""Runs mutations in a process of their own, which may crash, hang or take all memory; the tests go on."""

from __future__ import annotations

import multiprocessing
import resource
import shutil
import signal
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any

from kikimimi.errors import KikimimiError

SECONDS = 20
"""Longest time of the processor that one mutation may take [s]: what else the machine does is no hang."""
WAITING = 300
"""Longest time that one may take without it [s]: it waits for something that does not come."""
BYTES = 1 << 30
"""Most memory above the baseline that one may take [bytes]."""


class WrongError(AssertionError):
    """What was made of the input is silently wrong."""


@dataclass(frozen=True)
class Target:
    """Something that reads files from outside.

    Attributes:
        name: What failures, and the page, call it.
        share: Mutations of the whole suite that it gets.
        outcome: What happens to damaged ones, for the page.
        seeds: Makes the good inputs, by name, once: anything that `mutate` takes.
        mutate: Makes of an input a damaged one, in a folder; returns what `attempt` takes.
        attempt: Reads it. It returns what came of it in a word, raises a `KikimimiError`, or, where what came
            of it is wrong, a `WrongError`.
    """

    name: str
    share: int
    outcome: str
    seeds: Callable[[Path], dict[str, Any]]
    mutate: Callable[[Any, Random, Path], Any]
    attempt: Callable[[Any], str]


@dataclass
class Outcome:
    """What came of the mutations of a target."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


class _HangError(BaseException):
    pass


def run(target: Target, numbers: range, folder: Path) -> Outcome:
    """Try the mutations of these numbers. One number always gives the same mutation."""
    outcome = Outcome()
    seeds = target.seeds(folder)
    context = multiprocessing.get_context("fork")
    next_number = numbers.start
    while next_number < numbers.stop:
        receiver, sender = context.Pipe(duplex=False)
        left = range(next_number, numbers.stop)
        process = context.Process(target=_work, args=(target, seeds, left, sender), daemon=True)
        process.start()
        sender.close()
        begun = next_number
        try:
            while receiver.poll(WAITING):
                kind, begun, said = receiver.recv()
                if kind == "done":
                    next_number = begun + 1
                    outcome.counts[said] += 1
                elif kind == "failed":
                    next_number = begun + 1
                    outcome.counts["failed"] += 1
                    outcome.failures.append(f"{target.name} {begun}: {said}")
            process.kill()
            lost = f"waits, or hangs where no signal reaches it, for more than {WAITING} s"
        except EOFError:
            process.join()
            lost = f"the process ended with {process.exitcode}"
        if next_number < numbers.stop:
            outcome.failures.append(f"{target.name} {begun}: {lost}")
            next_number = begun + 1
    return outcome


def _bound_memory() -> None:
    """Let this process fail, and not the machine, where a mutation wants all memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[5])
    limit = pages * resource.getpagesize() + 4 * BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _work(target: Target, seeds: dict[str, Any], numbers: range, sender: Connection) -> None:
    signal.signal(signal.SIGPROF, _hang)
    _bound_memory()
    warnings.simplefilter("ignore")
    names = sorted(seeds)
    for number in numbers:
        sender.send(("begun", number, ""))
        rng = Random(f"{target.name} {number}")
        with tempfile.TemporaryDirectory(prefix="fuzz-") as place:
            name = names[number % len(names)]
            given = target.mutate(seeds[name], rng, Path(place))
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            try:
                said = ("done", number, target.attempt(given))
            except KikimimiError as error:
                said = ("done", number, "refused") if str(error).strip() else ("failed", number, "no words")
            except _HangError:
                said = (
                    "failed",
                    number,
                    f"{name}: takes more than {SECONDS} s\n{traceback.format_exc()[-1500:]}",
                )
            except BaseException:  # noqa: BLE001  (a traceback is what is looked for)
                said = ("failed", number, f"{name}:\n{traceback.format_exc()[-3000:]}")
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
            if grown > BYTES:
                said = ("failed", number, f"{name}: takes {grown >> 20} MiB more than before")
            sender.send(said)
            shutil.rmtree(place, ignore_errors=True)
            Path(place).mkdir(exist_ok=True)


def _hang(*_: Any) -> None:
    raise _HangError

"""Output of a frozen encoder, computed once per clip and kept on disk for every later epoch and run.

Entries are named by content (the record's hash and everything that decides the encoder's output), so they
cannot go stale, and a sweep over adapters shares them. A group of clips is encoded together, in an order that
depends on the shards and the encoder alone: an interrupted pass goes on to exactly the same values, whoever
encodes what, and runs that leave out other records, or ask something else of them, find the same groups.

Processes that share the folder, ranks of one run or runs of one sweep, encode nothing twice: who encodes a
group holds a lock on a byte of one file, which the system frees when the process ends, however it does.
"""

import fcntl
import hashlib
import os
import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from kikimimi.console.progress import Progress
from kikimimi.console.terminal import say
from kikimimi.console.words import counted
from kikimimi.contracts.component import Encoder, Padded
from kikimimi.data.corpus import Corpus
from kikimimi.errors import DataError
from kikimimi.files.cache import cache_folder
from kikimimi.files.hashes import check_seal
from kikimimi.files.reading import damaged, folder_there
from kikimimi.files.writing import whole_file, writing
from kikimimi.weights.tensors import write_tensors

RECORDS_PER_FILE = 64
SECONDS_PER_BATCH = 60.0
_THREADS = 4
_LOOK_EVERY = 0.1
"""How often it is looked whether another process has finished a group [s]."""
_ENCODER = "encoder"
"""What a file is told by: its text in the header names all that decided the encoder's output."""

_Group = tuple[Corpus, list[int], Path]


class FeatureCache:
    """Encoder output of every clip of some corpora.

    Args:
        corpora: Corpora whose clips are encoded.
        fingerprint: Names all that decides the encoder's output: weights, options, precision.
        folder: Where the files are.
        max_seconds: Longest clip that the encoder takes [s]; None means unbounded.
    """

    def __init__(
        self,
        corpora: Sequence[Corpus],
        fingerprint: str,
        folder: Path | None = None,
        *,
        max_seconds: float | None = None,
    ) -> None:
        self.folder = (folder or cache_folder("features")) / fingerprint[:16]
        self._made_by = {_ENCODER: fingerprint}
        groups: dict[Path, _Group] = {}  # a stage may hear the same clips from two of its datasets
        self._file_of: dict[str, Path] = {}
        self._faults: dict[str, str] = {}
        for corpus in corpora:
            for rows in _groups(corpus, max_seconds):
                hashes = [corpus.shards.sha256(row) for row in rows]
                path = self.folder / f"{hashlib.sha256(' '.join(hashes).encode()).hexdigest()}.safetensors"
                groups[path] = (corpus, rows, path)
                for row_hash in hashes:
                    self._file_of[row_hash] = path
        self._groups = list(groups.values())

    def discard_damaged(self) -> int:
        """Read every file that is there, and remove those that are not as they were written.

        `fill` makes them again. Every rank does so, as each reads all of them while it trains.

        Returns:
            How many this process removed.

        Raises:
            DamagedError: In the place of a file is a folder, a pipe or the like, which is not removed, or in
                that of a folder a file, or a link that leads nowhere.
        """
        for folder in (self.folder.parent.parent, self.folder.parent, self.folder):
            folder_there(folder, "Put back what it leads to, or delete it: it is made again")
        for _, _, whole in self._groups:
            for path in (whole, _partial(whole)):
                if path.exists() and not path.is_file():
                    raise damaged(path, "is not a file", "Delete it: it is made again")
        there = [group for group in self._groups if group[2].is_file()]
        with ThreadPoolExecutor(_THREADS) as pool:
            problems = [problem for problem in pool.map(self._discard_if_damaged, there) if problem]
        if problems:
            files = counted(len(problems), "file")
            say(f"feature cache: {files} will be computed anew; the first: {problems[0]}", error=True)
        return len(problems)

    def fill(
        self,
        encoder: Encoder,
        *,
        device: torch.device,
        precision: AbstractContextManager[object],
        rank: int,
        world_size: int,
    ) -> int:
        """Encode what is missing; return the number of records that were missing.

        Each of several ranks begins with a share of its own and then takes what nobody else, of this run or
        another, has finished or is at. It waits only for what others are at when nothing else is left, and
        takes it if they end without it. Folders that only the ranks of one node see are filled on each node.

        Args:
            encoder: The frozen encoder, in eval mode.
            device: Where to run it.
            precision: Autocast context of the training run.
            rank: Rank of this process.
            world_size: Number of processes; those that have not begun yet are not waited for.
        """
        missing = [group for group in self._groups if not group[2].is_file()]
        if not missing:
            return 0
        total = sum(len(rows) for _, rows, _ in self._groups)
        todo = sum(len(rows) for _, rows, _ in missing)
        left = {group[2].name: group for group in _in_turn(missing, rank, world_size)}
        with (
            Progress("Encoding clips once", total, "records", done=total - todo) as bar,
            precision,
            self._lock_file() as locks,
        ):
            while left:
                before = len(left)
                for name, group in list(left.items()):
                    if name not in left:
                        continue
                    with _lock_of(group[2], locks) as mine:
                        if mine and not group[2].is_file():
                            self._make(encoder, device, group, bar)
                            del left[name]
                    if mine:
                        self._count_finished(left, bar)
                if len(left) == before:
                    bar.advance(0, note="(waiting for another process)")
                    time.sleep(_LOOK_EVERY)
                    self._count_finished(left, bar)
        return todo

    def is_filled(self) -> bool:
        """Whether nothing is left for `fill` to encode."""
        return all(path.is_file() for _, _, path in self._groups)

    def get(self, row_hash: str, clip: str) -> Tensor:
        """Return the (F, E) features of a clip.

        Raises:
            DataError: The clip could not be encoded.
            DamagedError: The file was changed or removed while it was in use.
        """
        if row_hash in self._faults:
            raise DataError(self._faults[row_hash])
        path = self._file_of[row_hash]
        path = path if path.is_file() else _partial(path)
        try:
            with safe_open(path, framework="pt") as file:
                features: Tensor = file.get_tensor(f"{row_hash}/{clip}")
        except (OSError, SafetensorError) as error:
            remedy = "Run the same command again: it is computed anew"
            raise damaged(path, f"the feature cache is damaged: {error}", remedy) from error
        return features

    @contextmanager
    def _lock_file(self) -> Iterator[IO[bytes]]:
        path = self.folder.with_suffix(".lock")  # beside the folder, which holds entries alone
        with writing(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            opened = path.open("ab")
        with opened as file:
            yield file

    def _count_finished(self, left: dict[str, _Group], bar: Progress) -> None:
        """Take away what other processes have finished."""
        for name in left.keys() & set(os.listdir(self.folder)):
            bar.advance(len(left.pop(name)[1]), note="")

    def _make(self, encoder: Encoder, device: torch.device, group: _Group, bar: Progress) -> None:
        corpus, rows, path = group
        before = len(self._faults)
        entries = self._encode(encoder, device, corpus, rows, bar)
        # What could not be read is tried again by the next run: its shard may have been mended.
        with whole_file(path if len(self._faults) == before else _partial(path)) as unfinished:
            write_tensors(unfinished, entries, self._made_by, seal=True)

    def _discard_if_damaged(self, group: _Group) -> str:
        """Remove a file that is not as it was written, or not of its group; return what is wrong with it."""
        corpus, rows, path = group
        found = None
        try:
            found = path.stat().st_ino
            if not check_seal(path):
                problem = "it has no hash, as earlier versions wrote it"
            elif not (problem := self._problem(path, {corpus.shards.sha256(row) for row in rows})):
                return ""
        except FileNotFoundError:
            return ""  # another rank was faster
        except ValueError as error:
            problem = str(error)
        with suppress(FileNotFoundError):
            if path.stat().st_ino == found:  # else another rank has made it again
                path.unlink()
        return f"{path}: {problem}"

    def _problem(self, path: Path, hashes: set[str]) -> str:
        """Return why a file that is as it was written is not the one that is looked for."""
        try:
            with safe_open(path, framework="pt") as file:
                held = {name.partition("/")[0] for name in file.keys()}  # noqa: SIM118
                texts = {**self._made_by, **(file.metadata() or {})}
        except SafetensorError as error:
            return str(error)
        if not held <= hashes:
            return "it holds other clips"
        # Earlier versions did not write by which encoder it was made.
        return "" if texts[_ENCODER] == self._made_by[_ENCODER] else "it was made by another encoder"

    def _encode(
        self, encoder: Encoder, device: torch.device, corpus: Corpus, rows: list[int], bar: Progress
    ) -> dict[str, Tensor]:
        entries: dict[str, Tensor] = {}
        pending: list[tuple[str, Tensor]] = []
        limit = SECONDS_PER_BATCH * encoder.sample_rate

        def flush() -> None:
            if pending:
                with torch.inference_mode():
                    output = encoder(Padded.stack([samples for _, samples in pending]).to(device))
                for (name, _), frames in zip(pending, output.unstack(), strict=True):
                    entries[name] = frames.contiguous().cpu()
                pending.clear()

        # Shortest first, so that little of a batch is padding.
        for row in sorted(rows, key=lambda row: float(corpus.shards.seconds[row])):
            bar.advance(note="")
            try:
                record = corpus.shards.read(row)
                names = list(record.audio)  # those that another task asks about, too
                clips = corpus.waveforms(record, names, encoder.sample_rate)
            except DataError as error:
                self._faults[corpus.shards.sha256(row)] = str(error)  # judged when it is its turn
                continue
            for name, samples in zip(names, clips, strict=True):
                if pending and len(samples) * (len(pending) + 1) > limit:
                    flush()
                pending.append((f"{corpus.shards.sha256(row)}/{name}", samples))
        flush()
        return entries


def _in_turn(missing: list[_Group], rank: int, world_size: int) -> Iterator[_Group]:
    """Yield this rank's share, then the shares of the others, in an order that no other rank has."""
    yield from missing[rank::world_size]
    others = [group for at, group in enumerate(missing) if at % world_size != rank]
    random.Random(rank).shuffle(others)
    yield from others


def _partial(path: Path) -> Path:
    """Where a group is kept as long as some of its records cannot be read."""
    return path.with_suffix(".partial.safetensors")


@contextmanager
def _lock_of(path: Path, locks: IO[bytes]) -> Iterator[bool]:
    """Hold the lock of a group, or say that another process holds it.

    A byte of one file stands for each group, so that nothing is left behind; no process waits for a lock, so
    that there is no deadlock.
    """
    at = int(path.stem[:15], 16)  # the file itself stays empty
    try:
        fcntl.lockf(locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, at)
    except (BlockingIOError, PermissionError):
        yield False
        return
    except OSError:
        yield True  # a file system without locks: what others are at is encoded twice, to the same values
        return
    try:
        yield True
    finally:
        fcntl.lockf(locks, fcntl.LOCK_UN, 1, at)


def _groups(corpus: Corpus, max_seconds: float | None) -> Iterator[list[int]]:
    """Cut the rows of each shard that hold clips, none too long, into groups, one file each, in order.

    Yields:
        Groups of which a row is used. What a recipe leaves out beside is in them, so that recipes which
        leave out other rows share them.
    """
    shards = corpus.shards
    fits = shards.clips > 0
    if max_seconds is not None:
        fits &= shards.longest <= max_seconds
    used = np.zeros(len(shards), dtype=bool)
    used[corpus.used] = True
    for held in shards.rows_of_shards():
        rows = np.flatnonzero(fits[held.start : held.stop]) + held.start
        for begin in range(0, len(rows), RECORDS_PER_FILE):
            group = rows[begin : begin + RECORDS_PER_FILE]
            if used[group].any():
                yield group.tolist()

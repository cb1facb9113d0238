"""Ranks and runs share the encoding of clips: what one has finished or is at, no other does again."""

from __future__ import annotations

import multiprocessing
import os
import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from kikimimi.contracts.component import Encoder, Padded
from kikimimi.data import features as feature_cache
from kikimimi.data.corpus import Corpus
from kikimimi.data.features import FeatureCache
from kikimimi.errors import DamagedError, DataError
from kikimimi.model.assembly import assemble
from kikimimi.recipe import load_recipe
from kikimimi.training.encoding import _forecast_bytes

GROUP = 3


class StoppedError(Exception):
    """Raised where an encoder is asked more often than it may."""


class Counting:
    """An encoder that counts the clips it is given.

    Args:
        encoder: What encodes.
        begins: Called before the first clips.
        most: How often it may be called.
    """

    def __init__(self, encoder: Encoder, begins: Callable[[], object] = int, most: int = 99) -> None:
        self.encoder, self.begins, self.most = encoder, begins, most
        self.sample_rate = encoder.sample_rate
        self.calls = self.clips = 0

    def __call__(self, clips: Padded) -> Padded:
        if self.calls == 0:
            self.begins()
        if self.calls == self.most:
            raise StoppedError
        self.calls += 1
        self.clips += len(clips.lengths)
        output: Padded = self.encoder(clips)
        return output


@pytest.fixture
def corpus(recipe_file: Path, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    monkeypatch.setattr(feature_cache, "RECORDS_PER_FILE", GROUP)
    return Corpus.open("tones", load_recipe(recipe_file, []).stages["asr"].data["tones"])


@pytest.fixture
def encoder(recipe_file: Path) -> Encoder:
    torch.manual_seed(0)
    part = load_recipe(recipe_file, []).encoder
    built: Encoder = part.component(part.config)
    return built.eval()


def fill(cache: FeatureCache, encoder: Counting, rank: int, world_size: int) -> int:
    return cache.fill(
        cast(Encoder, encoder),
        device=torch.device("cpu"),
        precision=nullcontext(),
        rank=rank,
        world_size=world_size,
    )


def files(cache: FeatureCache) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in cache.folder.iterdir()}


def test_what_another_rank_has_finished_is_not_encoded_again(
    corpus: Corpus, encoder: Encoder, tmp_path: Path
) -> None:
    alone = FeatureCache([corpus], "0" * 64, tmp_path / "alone")
    assert fill(alone, Counting(encoder), 0, 1) == 12
    caches = [FeatureCache([corpus], "0" * 64, tmp_path / "shared") for _ in range(2)]
    quick = Counting(encoder)
    slow = Counting(encoder, begins=lambda: fill(caches[0], quick, 0, 2))
    # The quick rank does all there is while the slow one is at its first group.
    assert fill(caches[1], slow, 1, 2) == 12
    assert (quick.clips, slow.clips) == (12, GROUP)
    assert caches[0].is_filled()
    assert files(caches[0]) == files(alone)


def test_ranks_begin_with_shares_of_their_own(corpus: Corpus, encoder: Encoder, tmp_path: Path) -> None:
    """Each is stopped after two of four groups, in folders that only it sees."""
    done = []
    for rank in range(2):
        cache = FeatureCache([corpus], "0" * 64, tmp_path / str(rank))
        with pytest.raises(StoppedError):
            fill(cache, Counting(encoder, most=2), rank, 2)
        done.append(set(files(cache)))
    assert [len(names) for names in done] == [2, 2]
    assert not done[0] & done[1]


def test_every_rank_knows_the_records_that_cannot_be_read(
    corpus: Corpus, encoder: Encoder, tmp_path: Path, recipe_file: Path
) -> None:
    row = 5
    path = next(tmp_path.rglob("train*.tar"))
    content = bytearray(path.read_bytes())
    (audio,) = corpus.shards.read(row).audio.values()
    content[content.index(audio) + len(audio) // 2] ^= 1
    path.write_bytes(bytes(content))
    again = Corpus.open("tones", load_recipe(recipe_file, []).stages["asr"].data["tones"])
    for rank in range(2):
        cache = FeatureCache([again], "0" * 64, tmp_path / "features")
        encoding = Counting(encoder)
        fill(cache, encoding, rank, 2)
        assert encoding.clips == (11 if rank == 0 else GROUP - 1)
        with pytest.raises(DataError):
            cache.get(again.shards.sha256(row), "audio")
    assert len(list((tmp_path / "features").rglob("*.partial.safetensors"))) == 1


@pytest.mark.fault("Our files: empty, torn, of another type or encoding", "named, with what to do")
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
@pytest.mark.parametrize("suffix", [".safetensors", ".partial.safetensors"])
def test_what_is_no_file_in_the_place_of_an_entry_is_named_before_encoding(
    corpus: Corpus, encoder: Encoder, tmp_path: Path, make: Callable[[Path], None], suffix: str
) -> None:
    cache = FeatureCache([corpus], "0" * 64, tmp_path / "features")
    fill(cache, Counting(encoder), 0, 1)
    entry = next(cache.folder.iterdir())
    entry.unlink()
    place = entry.with_suffix(suffix)
    make(place)
    message = f"{place}: is not a file. Delete it: it is made again"
    with pytest.raises(DamagedError, match=f"^{re.escape(message)}$"):
        cache.discard_damaged()
    assert place.exists()


@pytest.mark.fault("Our files: empty, torn, of another type or encoding", "named, with what to do")
@pytest.mark.parametrize("make", [lambda path: path.symlink_to("nowhere"), Path.touch])
@pytest.mark.parametrize("at", ["cache", "cache/features", "cache/features/0000000000000000"])
def test_what_is_no_folder_in_the_place_of_the_cache_is_named_before_encoding(
    corpus: Corpus, tmp_path: Path, make: Callable[[Path], None], at: str
) -> None:
    cache = FeatureCache([corpus], "0" * 64, tmp_path / "cache" / "features")
    (tmp_path / at).parent.mkdir(parents=True, exist_ok=True)
    make(tmp_path / at)
    with pytest.raises(DamagedError, match=rf"^{tmp_path / at}: is .*Put back .* or delete it: it is made"):
        cache.discard_damaged()


PROCESSES = multiprocessing.get_context("fork")


@dataclass
class Noting:
    """An encoder that writes down how many clips it is given, in every process.

    Attributes:
        notes: Folder with a file for each process.
        begins: Called when the first clips are there.
    """

    notes: Path
    begins: Callable[[], object]
    sample_rate: int = 16000

    def __call__(self, clips: Padded) -> Padded:
        note = self.notes / str(os.getpid())
        if not note.exists():
            note.touch()
            self.begins()
        with note.open("a") as file:
            file.write("clip\n" * len(clips.lengths))
        return Padded(clips.values[:, ::160, None], -(-clips.lengths // 160))


def noted(notes: Path) -> dict[int, int]:
    """Return how many clips each process has encoded."""
    return {int(path.name): len(path.read_text().splitlines()) for path in notes.iterdir()}


def started(corpus: Corpus, folder: Path, notes: Path, begins: Callable[[], object]) -> BaseProcess:
    """Start a process that fills a cache, as the only rank of its run."""
    notes.mkdir(exist_ok=True)

    def work() -> None:
        cache = FeatureCache([corpus], "0" * 64, folder)
        fill(cache, cast(Any, Noting(notes, begins)), 0, 1)
        if not cache.is_filled():
            raise SystemExit("something is missing")

    process = PROCESSES.Process(target=work)
    process.start()
    return process


def test_runs_that_begin_together_encode_nothing_twice(corpus: Corpus, tmp_path: Path) -> None:
    """Each of three has a group of its own before any goes on; the fourth group is one's of them."""
    together = PROCESSES.Barrier(3)
    notes, folder = tmp_path / "notes", tmp_path / "features"
    runs = [started(corpus, folder, notes, lambda: together.wait(60)) for _ in range(3)]
    for run in runs:
        run.join(60)
    assert [run.exitcode for run in runs] == [0, 0, 0]
    assert sorted(noted(notes).values()) == [GROUP, GROUP, 2 * GROUP]
    cache = FeatureCache([corpus], "0" * 64, folder)
    assert cache.discard_damaged() == 0
    assert fill(cache, cast(Any, None), 0, 1) == 0
    (lock,) = (path for path in folder.iterdir() if path.is_file())
    assert lock.stat().st_size == 0


def test_what_a_killed_run_was_at_is_taken_by_one_that_waits(corpus: Corpus, tmp_path: Path) -> None:
    notes, folder = tmp_path / "notes", tmp_path / "features"
    at_it, never = PROCESSES.Event(), PROCESSES.Event()

    def hang() -> None:
        at_it.set()
        never.wait(60)

    killed = started(corpus, folder, notes, hang)
    assert at_it.wait(60)
    waiting = started(corpus, folder, notes, int)
    while len(list(folder.rglob("*.safetensors"))) < 3:
        waiting.join(0.01)
    waiting.join(0.3)
    assert waiting.is_alive()  # nothing is left but what the other is at
    killed.kill()
    waiting.join(60)
    assert waiting.exitcode == 0
    assert noted(notes) == {killed.pid: 0, waiting.pid: 12}


def test_what_a_recipe_leaves_out_changes_no_group(corpus: Corpus, encoder: Encoder, tmp_path: Path) -> None:
    some = replace(corpus, rows=np.array([0, 7, 8], dtype=np.int32))
    cache = FeatureCache([some], "0" * 64, tmp_path)
    first, rest = Counting(encoder), Counting(encoder)
    assert fill(cache, first, 0, 1) == 2 * GROUP  # not the groups of which it uses nothing
    assert fill(FeatureCache([corpus], "0" * 64, tmp_path), rest, 0, 1) == 2 * GROUP
    other = replace(corpus, rows=np.array([1, 3, 5, 9], dtype=np.int32))
    assert FeatureCache([other], "0" * 64, tmp_path).is_filled()
    assert (first.clips, rest.clips) == (2 * GROUP, 2 * GROUP)


def test_clips_that_are_too_long_for_the_encoder_are_in_no_group(
    corpus: Corpus, encoder: Encoder, tmp_path: Path
) -> None:
    longest = float(np.median(corpus.shards.longest))
    fits = corpus.shards.longest <= longest
    some = replace(corpus, rows=np.flatnonzero(fits).astype(np.int32))
    counting = Counting(encoder)
    fill(FeatureCache([some], "0" * 64, tmp_path, max_seconds=longest), counting, 0, 1)
    assert counting.clips == int(fits.sum()) < 12


def test_kept_frames_are_those_of_the_clip_alone(corpus: Corpus, encoder: Encoder, tmp_path: Path) -> None:
    """Valid frames only, within 1e-6, though clips of different lengths were encoded together."""
    cache = FeatureCache([corpus], "0" * 64, tmp_path)
    fill(cache, Counting(encoder), 0, 1)
    lengths = set()
    for row in range(12):
        (name, clip), *_ = corpus.shards.read(row).audio.items()
        (samples,) = corpus.waveforms(corpus.shards.read(row), [name], encoder.sample_rate)
        with torch.inference_mode():
            alone = encoder(Padded.stack([samples]))
        kept = cache.get(corpus.shards.sha256(row), name)
        assert clip
        assert len(kept) == int(alone.lengths[0]) == encoder.num_frames(len(samples))
        torch.testing.assert_close(kept, alone.values[0], atol=1e-6, rtol=0)
        lengths.add(len(kept))
    assert len(lengths) > 1


def test_the_forecast_is_what_the_files_hold(corpus: Corpus, encoder: Encoder, tmp_path: Path) -> None:
    cache = FeatureCache([corpus], "0" * 64, tmp_path)
    fill(cache, Counting(encoder), 0, 1)
    held = sum(tensor.nbytes for path in cache.folder.iterdir() for tensor in load_file(path).values())
    # Frames that a clip ends within are counted whole.
    assert _forecast_bytes([corpus], encoder, 4) == pytest.approx(held, rel=0.03)


def test_a_clip_that_a_record_does_not_have_is_named(
    corpus: Corpus, encoder: Encoder, recipe_file: Path, tmp_path: Path
) -> None:
    """Not taken for damage of the cache, which holds the clips that there are."""
    cache = FeatureCache([corpus], "0" * 64, tmp_path / "features")
    fill(cache, Counting(encoder), 0, 1)
    llm = assemble(load_recipe(recipe_file, []), texts=lambda: ["do re mi"]).llm

    class Elsewhere:
        def conversation(self, record: dict[str, Any], clips: list[str], rng: object) -> Any:
            return corpus.task.conversation(record, [f"{clip}.other" for clip in clips], None)

    with pytest.raises(DataError, match=r"the conversation names clip '.*\.other', which is not there$"):
        replace(corpus, task=cast(Any, Elsewhere())).sample(
            0, llm, encoder.sample_rate, phrasing_seed=None, features=cache
        )

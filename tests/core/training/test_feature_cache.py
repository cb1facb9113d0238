"""Ranks share the encoding of clips: what one has finished, no other does again."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import cast

import pytest
import torch

from kikimimi.contracts.component import Encoder, Padded
from kikimimi.data import features as feature_cache
from kikimimi.data.corpus import Corpus
from kikimimi.data.features import FeatureCache
from kikimimi.errors import DamagedError, DataError
from kikimimi.recipe import load_recipe

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

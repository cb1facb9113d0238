from __future__ import annotations

from itertools import groupby, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from kikimimi.contracts.component import FrameLabels, Padded
from kikimimi.contracts.vocabulary import BytesVocabulary, CharacterVocabulary, TokenizerVocabulary
from kikimimi.errors import RequestError
from kikimimi.inference import alignment
from kikimimi.inference.alignment import align
from kikimimi.inference.transcriber import Transcriber
from kikimimi.recipe import load_recipe
from kikimimi.run.folder import RunFolder
from kikimimi.testing import tiny_recipe, write_shard
from kikimimi.training.train import train

ROOT = Path(__file__).parents[3]


def labels(vocabulary: Any, *frames: int | None, sure: float = 5.0, longer: int = 0) -> FrameLabels:
    """Return scores of frames that each say one label, None for blank, and of frames past the clip."""
    logits = torch.zeros(1, len(frames) + longer, vocabulary.size + 1)
    for frame, label in enumerate(frames):
        logits[0, frame, vocabulary.size if label is None else label] = sure
    scores = Padded(logits.log_softmax(-1), torch.tensor([len(frames)]))
    return FrameLabels(scores, vocabulary.size, vocabulary)


def test_words_stand_where_the_frames_say_them() -> None:
    vocabulary = CharacterVocabulary("ab ")
    a, b, space = (vocabulary.encode(character)[0] for character in "ab ")
    frames = labels(vocabulary, None, a, a, None, b, space, None, b, b, None, longer=4)
    assert align(frames, "ab b") == [(1, 5, "ab"), (7, 9, "b")]


def test_scripts_without_spaces_have_times_of_characters() -> None:
    frames = labels(CharacterVocabulary("今日は"), 1, None, 2, 2, 3)
    spelled = CharacterVocabulary("今日は").decode([1, 2, 3])
    assert align(frames, spelled) == [(0, 1, spelled[0]), (2, 4, spelled[1]), (4, 5, spelled[2])]
    data = list("今x".encode())
    assert align(labels(BytesVocabulary(), None, *data, None), "今x") == [(1, 4, "今"), (4, 5, "x")]


class Pieces:
    """A tokenizer whose tokens go across the borders of words."""

    def __init__(self, *pieces: str) -> None:
        self.pieces = pieces

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        ids: list[int] = []
        while text:
            piece = max((piece for piece in self.pieces if text.startswith(piece)), key=len)
            ids.append(self.pieces.index(piece))
            text = text[len(piece) :]
        return ids

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        return "".join(self.pieces[label] for label in ids)


def test_tokens_of_a_tokenizer() -> None:
    vocabulary = TokenizerVocabulary(Pieces("good", " mor", "ning", "今日", "は", " ", "mor", "今", "日"), 9)
    frames = labels(vocabulary, 0, None, 1, 2, 2, 3, None, 4)
    assert align(frames, "good morning今日は") == [
        (0, 1, "good"),
        (2, 5, "morning"),
        (5, 6, "今日"),
        (7, 8, "は"),
    ]


def test_what_cannot_be_aligned() -> None:
    vocabulary = CharacterVocabulary("ab")
    assert align(labels(vocabulary, 1, 1, 1), "") == []
    assert align(labels(vocabulary, 1, 2), "aab") == []
    assert align(labels(vocabulary, 1, 1, 2), "aab") == []  # a blank goes between two of one kind
    assert align(labels(vocabulary, 1, None, 1, 2), "aab") == [(0, 4, "aab")]


@given(st.integers(0, 10**6), st.sampled_from(["ab", "aba", "aab", "a b"]))
def test_no_other_path_is_more_probable(seed: int, text: str) -> None:
    """By hand: every path through six frames that spells the text."""
    vocabulary = CharacterVocabulary("ab ")
    blank = vocabulary.size
    scores = torch.randn(1, 6, blank + 1, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)
    ids = vocabulary.encode(text)

    def probability(path: tuple[int, ...]) -> float:
        return float(sum(scores[0, frame, label] for frame, label in enumerate(path)))

    def spells(path: tuple[int, ...]) -> bool:
        return [label for label, _ in groupby(path) if label != blank] == ids

    best = max(filter(spells, product({*ids, blank}, repeat=6)), key=probability)
    runs, at = [], 0
    for label, run in groupby(best):
        length = len(list(run))
        if label != blank:
            runs.append((at, at + length))
        at += length
    found = align(FrameLabels(Padded(scores, torch.tensor([6])), blank, vocabulary), text)
    expected, at = [], 0
    for word in text.split(" "):
        expected.append((runs[at][0], runs[at + len(word) - 1][1], word))
        at += len(word) + 1
    assert found == expected


def opened(folder: Path, *overrides: str) -> Transcriber:
    shards = write_shard(folder / "data", 4)
    recipe = tiny_recipe(load_recipe(ROOT / "recipes" / "quickstart.yaml", list(overrides)), shards)
    run = RunFolder.create(folder / "run", recipe)
    train(run)
    return Transcriber(run, torch.device("cpu"))


def test_words_of_a_run_with_a_ctc_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import soundfile

    transcriber = opened(tmp_path, "adapter={name: ctc}")
    monkeypatch.setattr(transcriber, "transcribe", lambda clips, *_: ["one two"] * len(clips))
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000 * 2).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", noise, 16_000)
    (segment,) = transcriber.transcribe_file(tmp_path / "a.wav", words=True).segments
    assert [word.word for word in segment.words] == ["one", "two"]
    times = [time for word in segment.words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] <= 2
    assert transcriber.transcribe_file(tmp_path / "a.wav").segments[0].words == ()
    assert transcriber.engine.model.encoder.frame_rate == 50
    monkeypatch.setattr(alignment, "align", lambda found, _: [(99, int(found.scores.lengths[0]), "two")])
    (word,) = alignment.word_times(transcriber.engine, noise[:31_800], "two")
    assert (word.start, word.end) == (1.98, 1.9875)  # the 100th frame reaches to 2 s, the clip does not


def test_a_run_without_a_ctc_head(tmp_path: Path) -> None:
    import soundfile

    transcriber = opened(tmp_path)
    soundfile.write(tmp_path / "a.wav", np.full(16_000, 0.1, np.float32), 16_000)
    with pytest.raises(RequestError, match=r"times of words need an adapter with a CTC head"):
        transcriber.transcribe_file(tmp_path / "a.wav", words=True)

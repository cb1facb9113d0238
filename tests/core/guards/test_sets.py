"""The sets and sounds that ship with the package."""

from __future__ import annotations

import numpy as np
import pytest

from kikimimi.guards.sets import held_out_texts, sets_digest, short_questions
from kikimimi.guards.sounds import SECONDS, speechless_clips
from kikimimi.guards.wording import drifts, has_words, holds_answer, refuses
from kikimimi.recipe.schema import GuardLanguage


@pytest.mark.parametrize("language", ["ja", "en"])
def test_texts_and_questions(language: GuardLanguage) -> None:
    texts, questions = held_out_texts(language), short_questions(language)
    assert len(set(texts)) == len(texts) >= 60
    assert len({one.question for one in questions}) == len(questions) >= 40
    for text in [*texts, *(one.question for one in questions)]:
        assert not drifts(text, language)
        assert not refuses(text)
    for one in questions:
        assert all(has_words(answer) and not drifts(answer, language) for answer in one.answers)
        assert all(holds_answer(answer, one.answers) for answer in one.answers)
        # Who says the question again has not answered it.
        assert not holds_answer(one.question, one.answers), one.question


def test_sets_are_told_apart_by_a_hash() -> None:
    assert len(sets_digest()) == 12
    assert sets_digest() == sets_digest()


def test_clips_without_speech() -> None:
    clips = speechless_clips(16_000)
    assert len(clips) == len({clip.name for clip in clips}) == 20
    assert {len(clip.samples) / 16_000 for clip in clips} == set(SECONDS)
    for clip, again in zip(clips, speechless_clips(16_000), strict=True):
        assert clip.samples.dtype == np.float32
        assert np.array_equal(clip.samples, again.samples)
        assert np.abs(clip.samples).max() <= 1
        loud = float(np.sqrt(np.mean(clip.samples**2)))
        assert loud == 0 if clip.name.startswith("silence") else 0.003 < loud < 0.101
    assert max(len(clip.samples) for clip in speechless_clips(8_000, longest=3.0)) == 24_000


def test_pink_noise_falls_with_the_frequency() -> None:
    (pink,) = [clip.samples for clip in speechless_clips(16_000) if clip.name == "pink noise, 10 s"]
    power = np.abs(np.fft.rfft(pink)) ** 2
    low, high = power[1000:2000].mean(), power[10_000:20_000].mean()
    assert low / high == pytest.approx(10, rel=0.2)

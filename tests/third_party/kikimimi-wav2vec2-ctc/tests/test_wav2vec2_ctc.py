from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from kikimimi_wav2vec2_ctc import Wav2Vec2CTC

from kikimimi import AudioError, WeightsError
from kikimimi.testing import Check, parametrize_checks


@parametrize_checks(Wav2Vec2CTC)
def test_contract(check: Check) -> None:
    check()


@pytest.fixture
def recogniser(tmp_path: Path) -> Wav2Vec2CTC:
    return Wav2Vec2CTC(Wav2Vec2CTC.example(tmp_path))


def test_repeats_are_one_and_blanks_none(recogniser: Wav2Vec2CTC) -> None:
    ids = [recogniser.tokens.index(t if t != "_" else "<pad>") for t in "||he_l_ll_lo_||_yes|"]
    assert recogniser.spell(ids) == "helllo yes"
    assert recogniser.spell([0, 3, 1]) == ""


def test_loudness_changes_nothing(recogniser: Wav2Vec2CTC) -> None:
    clip = np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    quiet, loud = recogniser.transcribe([0.01 * clip, 0.5 * clip], "en")
    assert quiet == loud != ""


def test_a_clip_that_is_shorter_than_a_frame_has_a_text(recogniser: Wav2Vec2CTC) -> None:
    (text,) = recogniser.transcribe([np.ones(10, np.float32)], None)
    assert isinstance(text, str)


def test_what_is_too_long_or_does_not_fit(recogniser: Wav2Vec2CTC, tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"clip 1 lasts 3\.00 s, .* takes at most 2 s: set max_seconds"):
        recogniser.transcribe([np.zeros(16_000, np.float32), np.zeros(48_000, np.float32)], None)
    (tmp_path / "vocab.json").write_text('{"a": 0, "b": 1}')
    with pytest.raises(WeightsError, match=r"vocab\.json has 2 tokens, the model 32"):
        Wav2Vec2CTC(recogniser.config)

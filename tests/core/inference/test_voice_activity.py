from __future__ import annotations

import io
import sys
from contextlib import redirect_stdout

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from kikimimi.contracts import registry
from kikimimi.errors import WeightsError
from kikimimi.inference.recording import cut_recording
from kikimimi.inference.voice_activity import SpeechDetector, load_voice_activity
from kikimimi.weights.find import find_weights

Samples = NDArray[np.float32]
SENTENCES = ("今日はとても良い天気ですね。", "明日は雨が降るでしょう。", "駅まで歩いて十分ほどかかります。")


def noise(count: int, loudness: float = 0.001) -> Samples:
    return np.random.default_rng(0).normal(0, loudness, count).astype(np.float32)


@pytest.fixture(scope="module")
def spoken() -> list[Samples]:
    """Three sentences at 16 kHz."""
    pytest.importorskip("pyopenjtalk", reason="the voice comes with kikimimi[quickstart]")
    from torchaudio.functional import resample

    voice = registry.load("voice", "open_jtalk")
    with redirect_stdout(io.StringIO()):
        speaker = voice(voice.Config())
        said = [speaker.speak(sentence) for sentence in SENTENCES]
    return [np.asarray(resample(torch.from_numpy(samples), 48_000, 16_000)) for samples in said]


def by_hand(samples: Samples) -> list[float]:
    """The network of Silero VAD 6, chunk by chunk, in plain NumPy and float64."""
    files = find_weights("package:silero_vad/silero_vad_16k.safetensors")
    assert files is not None
    w = {name: t.double().numpy() for name, t in load_file(files.path("silero_vad_16k.safetensors")).items()}

    def conv(x: NDArray[np.float64], name: str, stride: int) -> NDArray[np.float64]:
        padded = np.pad(x, ((0, 0), (1, 1)))
        columns = [padded[:, i : i + 3] for i in range(0, x.shape[1], stride)]
        made = [np.einsum("oik,ik->o", w[f"{name}.weight"], c) + w[f"{name}.bias"] for c in columns]
        return np.asarray(np.stack(made, axis=1).clip(0), np.float64)

    def sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(1 / (1 + np.exp(-x)), np.float64)

    hidden, cell, found = np.zeros(128), np.zeros(128), []
    padded = np.pad(samples.astype(np.float64), (64, -len(samples) % 512))
    for start in range(0, len(padded) - 64, 512):
        chunk = padded[start : start + 576]
        chunk = np.concatenate([chunk, chunk[-65:-1][::-1]])  # mirrored at the end
        spectrum = np.stack(
            [w["stft_conv.weight"][:, 0] @ chunk[i * 128 : i * 128 + 256] for i in range(4)], 1
        )
        x = np.hypot(spectrum[:129], spectrum[129:])
        for name, stride in (("conv1", 1), ("conv2", 2), ("conv3", 2), ("conv4", 1)):
            x = conv(x, name, stride)
        gates = w["lstm_cell.weight_ih"] @ x[:, 0] + w["lstm_cell.bias_ih"]
        gates += w["lstm_cell.weight_hh"] @ hidden + w["lstm_cell.bias_hh"]
        enter, forget, new, leave = np.split(gates, 4)
        cell = sigmoid(forget) * cell + sigmoid(enter) * np.tanh(new)
        hidden = sigmoid(leave) * np.tanh(cell)
        logit = w["final_conv.weight"][0, :, 0] @ np.maximum(hidden, 0) + w["final_conv.bias"]
        found.append(float(sigmoid(logit)[0]))
    return found


@pytest.mark.parametrize("block", [100, 700, 50_000])
def test_it_is_sileros_network(spoken: list[Samples], block: int) -> None:
    clip = np.concatenate([noise(5000), spoken[0][:20_000], noise(3210)])
    detector = SpeechDetector(16_000)
    found = [detector.push(clip[start : start + block]) for start in range(0, len(clip), block)]
    heard = np.concatenate([*found, detector.finish()])
    expected = by_hand(clip)
    assert max(expected) > 0.9
    assert min(expected) < 0.1
    np.testing.assert_allclose(heard, expected, atol=2e-5)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_other_rates_are_heard_alike(spoken: list[Samples], rate: int) -> None:
    from torchaudio.functional import resample

    clip = np.concatenate([noise(8000), spoken[1], noise(8000)])
    other = resample(torch.from_numpy(clip), 16_000, rate).numpy()
    both = []
    for samples, sample_rate in ((clip, 16_000), (other, rate)):
        detector = SpeechDetector(sample_rate)
        found = [detector.push(samples[start : start + 999]) for start in range(0, len(samples), 999)]
        both.append(np.concatenate([*found, detector.finish()]) > 0.5)
    assert abs(len(both[0]) - len(both[1])) <= 1
    shorter = min(map(len, both))
    assert np.mean(both[0][:shorter] == both[1][:shorter]) > 0.95


def test_joined_sentences_are_cut_between_them(spoken: list[Samples]) -> None:
    """No word at a seam is lost, and none is heard twice: each sentence is in one piece, whole."""
    gap = noise(16_000)
    clip, places = gap, []
    for samples in spoken:
        places.append((len(clip), len(clip) + len(samples)))
        clip = np.concatenate([clip, samples, gap])
    longest = max(map(len, spoken)) / 16_000 + 1.0
    pieces = list(cut_recording([clip], sample_rate=16_000, max_seconds=longest))
    assert len(pieces) == 3
    for piece, (start, end) in zip(pieces, places, strict=True):
        loud = np.flatnonzero(np.abs(clip[start:end]) > 0.01) + start
        assert piece.start <= loud[0]
        assert loud[-1] < piece.end
        assert start - 8000 <= piece.start
        assert piece.end <= end + 8000


def test_noise_is_no_speech() -> None:
    detector = SpeechDetector(16_000)
    tone = (0.3 * np.sin(np.arange(48_000) * 0.2)).astype(np.float32)
    assert detector.push(noise(48_000, 0.1)).max() < 0.5
    assert detector.push(tone).max() < 0.5


def test_nothing_of_silero_is_imported() -> None:
    load_voice_activity()
    assert "silero_vad" not in sys.modules


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "silero_vad", None)
    load_voice_activity.cache_clear()
    with pytest.raises(WeightsError, match="pip install silero-vad"):
        SpeechDetector(16_000)

"""`kikimimi transcribe` with whatever a user may hand it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kikimimi.inference.transcriber import Transcriber

Cli = Callable[..., Any]
Write = Callable[..., Path]
Tone = Callable[..., Any]


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lengths of the clips [samples] that reach the model, which says how many it has heard so far."""
    lengths: list[int] = []

    def transcribe(self: Transcriber, clips: list[Any], language: str | None = None) -> list[str]:
        lengths.extend(len(clip) for clip in clips)
        return [f"文{len(lengths)}" for _ in clips]

    monkeypatch.setattr(Transcriber, "transcribe", transcribe)
    return lengths


def test_one_file_gives_one_line(cli: Cli, trained: Path, write: Write, tone: Tone) -> None:
    done = cli("transcribe", trained, write("a.flac", tone(0.5)))
    assert done.code == 0
    assert done.out.count("\n") == 1
    assert "\t" not in done.out
    assert done.err == ""


@pytest.mark.parametrize(
    ("name", "rate", "channels", "subtype"),
    [
        ("stereo.wav", 44100, 2, "PCM_16"),
        ("deep.wav", 48000, 1, "PCM_24"),
        ("float.wav", 22050, 1, "FLOAT"),
        ("telephone.wav", 8000, 1, "PCM_16"),
        ("vorbis.ogg", 44100, 2, "VORBIS"),
        ("layers.mp3", 44100, 1, "MPEG_LAYER_III"),
    ],
)
def test_every_kind_of_file_is_heard_whole(
    cli: Cli,
    trained: Path,
    write: Write,
    tone: Tone,
    heard: list[int],
    name: str,
    rate: int,
    channels: int,
    subtype: str,
) -> None:
    samples = np.stack([tone(1.0, rate)] * channels, axis=1)
    done = cli("transcribe", trained, write(name, samples, rate, subtype))
    assert (done.code, done.out, done.err) == (0, "文1\n", "")
    assert heard == [pytest.approx(16000, abs=1)]


def no_audio(path: Path) -> None:
    path.write_text("this is text\n" * 100)


def no_bytes(path: Path) -> None:
    path.touch()


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("text.wav", no_audio, "text.wav: cannot be decoded"),
        ("empty.wav", no_bytes, "empty.wav: the file is empty (0 bytes)"),
    ],
)
def test_not_audio(
    cli: Cli, trained: Path, tmp_path: Path, name: str, make: Callable[[Path], None], message: str
) -> None:
    make(tmp_path / name)
    done = cli("transcribe", trained, tmp_path / name)
    assert done.code == 1
    assert done.out == ""
    assert done.err.startswith(f"error: {tmp_path}/")
    assert message in done.err
    assert done.err.endswith("error: 1 of 1 files could not be transcribed\n")


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros(0, np.float32), "clip.wav: holds no samples"),
        (np.full(160, 0.5, np.float32), "clip.wav: 10.0 ms long; the shortest is 25 ms"),
        (
            np.array([0.1, np.nan, np.inf, *[0.1] * 16000], np.float32),
            "clip.wav: 2 samples are not numbers (NaN or infinite)",
        ),
        (np.full(16000, 20000, np.float32), "integers stored as floats"),
    ],
)
def test_audio_that_cannot_be_used(cli: Cli, trained: Path, write: Write, samples: Any, message: str) -> None:
    done = cli("transcribe", trained, write("clip.wav", samples, subtype="FLOAT"))
    assert (done.code, done.out) == (1, "")
    assert message in done.err


def test_silence_is_said_and_the_model_not_asked(
    cli: Cli, trained: Path, write: Write, heard: list[int]
) -> None:
    file = write("quiet.wav", np.zeros(16000 * 5, np.float32))
    done = cli("transcribe", trained, file)
    assert (done.code, done.out, done.err) == (0, "\n", f"{file}: silence, nothing to transcribe\n")
    assert heard == []


def test_a_long_clip_is_transcribed_in_pieces_and_nothing_is_cut(
    cli: Cli, trained: Path, write: Write, tone: Tone, heard: list[int]
) -> None:
    file = write("long.wav", tone(7.0))
    done = cli("transcribe", trained, file)
    assert done.code == 0
    assert len(heard) >= 4
    assert sum(heard) == 7 * 16000
    assert max(heard) <= 2 * 16000
    assert done.err == (
        f"{file}: 7.0 s is longer than the encoder's 2 s, so it is transcribed in {len(heard)} pieces\n"
    )
    # Two at a time on a CPU; each says how many had been heard then.
    said = [min(len(heard), piece + 2 - piece % 2) for piece in range(len(heard))]
    assert done.out == "".join(f"文{number}" for number in said) + "\n"


def test_a_long_clip_with_the_real_model(cli: Cli, trained: Path, write: Write, tone: Tone) -> None:
    done = cli("transcribe", trained, write("long.wav", tone(5.0)))
    assert done.code == 0
    assert "transcribed in 3 pieces" in done.err
    assert done.out.count("\n") == 1


def test_silent_pieces_of_a_long_clip_are_counted(
    cli: Cli, trained: Path, write: Write, tone: Tone, heard: list[int]
) -> None:
    samples = np.concatenate([tone(1.0), np.zeros(16000 * 5, np.float32), tone(1.0)])
    done = cli("transcribe", trained, write("pause.wav", samples))
    assert done.code == 0
    silent = float(re.search(r"in \d+ pieces; ([\d.]+) s are silent\n$", done.err)[1])  # type: ignore[index]
    assert f"in {len(heard)} pieces" in done.err
    assert silent == pytest.approx(7 - sum(heard) / 16000, abs=0.06)
    assert silent >= 1
    assert sum(heard) >= 2 * 16000  # what is heard holds all of the tones


def test_the_others_are_printed_when_one_is_bad(
    cli: Cli, trained: Path, write: Write, tone: Tone, tmp_path: Path, heard: list[int]
) -> None:
    first, last = write("a.wav", tone(0.5)), write("c.wav", tone(0.5))
    (tmp_path / "b.wav").write_text("not audio")
    done = cli("transcribe", trained, first, tmp_path / "b.wav", last)
    assert done.code == 1
    assert done.out == f"{first}\t文1\n{last}\t文2\n"
    assert f"error: {tmp_path / 'b.wav'}: cannot be decoded" in done.err
    assert done.err.endswith("error: 1 of 3 files could not be transcribed\n")


def test_a_missing_file_is_found_before_anything_is_done(
    cli: Cli, trained: Path, write: Write, tone: Tone, tmp_path: Path, heard: list[int]
) -> None:
    done = cli("transcribe", trained, write("a.wav", tone(0.5)), tmp_path / "b.wav")
    assert (done.code, done.out) == (2, "")
    assert done.err == f"error: no such audio file: {tmp_path / 'b.wav'}\n"
    assert heard == []


def test_a_folder_is_not_an_audio_file(cli: Cli, trained: Path, tmp_path: Path) -> None:
    done = cli("transcribe", trained, tmp_path)
    assert (done.code, done.err) == (2, f"error: a folder, not an audio file: {tmp_path}\n")


def test_run_folders_that_cannot_be_used(
    cli: Cli, trained: Path, recipe_file: Path, write: Write, tone: Tone, tmp_path: Path
) -> None:
    file = write("a.wav", tone(0.5))
    done = cli("transcribe", trained.with_name("smal"), file)
    assert done.code == 2
    assert f"{trained.with_name('smal')}: no such run folder. Did you mean 'small'?" in done.err
    done = cli("transcribe", tmp_path, file)
    assert (done.code, done.err) == (
        2,
        f"error: {tmp_path} is not a run folder (it has no recipe.yaml)\n",
    )
    done = cli("transcribe", recipe_file, file)
    assert done.code == 2
    assert f"{recipe_file} is a file. A run folder is what 'kikimimi train RECIPE.yaml' makes" in done.err
    untrained = tmp_path / "untrained"
    untrained.mkdir()
    shutil.copy(trained / "recipe.yaml", untrained)
    done = cli("transcribe", untrained, file)
    assert (done.code, done.err) == (
        2,
        f"error: {untrained}: nothing was trained yet. Go on with: kikimimi train {untrained}\n",
    )


def test_damaged_weights(cli: Cli, trained: Path, write: Write, tone: Tone, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(trained, copy)
    weights = copy / "weights" / "asr.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    done = cli("transcribe", copy, write("a.wav", tone(0.5)))
    assert done.code == 1
    assert f"{weights}: cannot be read" in done.err


def test_language(cli: Cli, trained: Path, write: Write, tone: Tone) -> None:
    file = write("a.wav", tone(0.5))
    assert cli("transcribe", trained, file, "--language", "en").code == 0
    done = cli("transcribe", trained, file, "--language", "xx")
    assert done.code == 2
    assert "language: task 'asr' has no prompts in 'xx', only in en, ja" in done.err


def test_a_clip_that_the_context_cannot_hold(
    cli: Cli, trained: Path, write: Write, tone: Tone, tmp_path: Path
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(trained, copy)
    recipe = copy / "recipe.yaml"
    text = recipe.read_text(encoding="utf-8")
    assert "context_length: 2048" in text
    recipe.write_text(text.replace("context_length: 2048", "context_length: 20"), encoding="utf-8")
    file = write("a.wav", tone(1.9))
    done = cli("transcribe", copy, file)
    assert done.code == 1
    assert f"error: {file}: too long for this run's LLM: a prompt of " in done.err
    assert "leaves no room in the context of 20" in done.err


def test_whatever_the_model_writes_is_one_line(
    cli: Cli, trained: Path, write: Write, tone: Tone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Transcriber, "transcribe", lambda *_, **__: ["a\nb\x1b[31m\t[red]\u200c"])
    files = [write(name, tone(0.5)) for name in ("a.flac", "b\x1b.flac")]
    done = cli("transcribe", trained, *files)
    text = "a\\nb\\x1b[31m\\t[red]\u200c"
    assert done.out == f"{files[0]}\t{text}\n{str(files[1])[:-6]}\\x1b.flac\t{text}\n"

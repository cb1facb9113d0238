"""`kikimimi transcribe` with whatever a user may hand it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kikimimi.inference.engine import Engine, Prompt
from kikimimi.inference.transcriber import Transcriber

Cli = Callable[..., Any]
Write = Callable[..., Path]
Tone = Callable[..., Any]


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lengths of the clips [samples] that reach the model, which says how many it has heard so far."""
    lengths: list[int] = []

    def transcribe(self: Transcriber, clips: list[Any], *_: Any) -> list[str]:
        lengths.extend(len(clip) for clip in clips)
        return [f"文{len(lengths)}" for _ in clips]

    monkeypatch.setattr(Transcriber, "transcribe", transcribe)
    return lengths


class Loudness:
    """Takes for speech what is loud."""

    def __init__(self, sample_rate: int) -> None:
        assert sample_rate == 16_000
        self._left = np.zeros(0, np.float32)

    def push(self, block: Any) -> Any:
        held = np.concatenate([self._left, block])
        whole = len(held) // 512 * 512
        self._left = held[whole:]
        return (np.abs(held[:whole].reshape(-1, 512)).max(axis=1) > 0.01).astype(np.float32)

    def finish(self) -> Any:
        return self.push(np.zeros(-len(self._left) % 512, np.float32))


@pytest.fixture
def loud_is_speech(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kikimimi.inference.speech_cutter.SpeechDetector", Loudness)


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
    done = cli("transcribe", trained, file, "--cut", "quietest")
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
    done = cli("transcribe", trained, write("long.wav", tone(5.0)), "--cut", "quietest")
    assert done.code == 0
    assert "transcribed in 3 pieces" in done.err
    assert done.out.count("\n") == 1


def test_silent_pieces_of_a_long_clip_are_counted(
    cli: Cli, trained: Path, write: Write, tone: Tone, heard: list[int]
) -> None:
    samples = np.concatenate([tone(1.0), np.zeros(16000 * 5, np.float32), tone(1.0)])
    done = cli("transcribe", trained, write("pause.wav", samples), "--cut", "quietest")
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


def test_where_nothing_can_be_written_is_found_before_anything_is_done(
    cli: Cli, trained: Path, write: Write, tone: Tone, heard: list[int]
) -> None:
    file = write("a.wav", tone(0.5))
    done = cli("transcribe", trained, file, "--out", file / "here")
    assert (done.code, done.out, heard) == (1, "", [])
    assert done.err.startswith(f"error: {file / 'here' / 'a.txt'}: could not be written: ")


def test_a_missing_file_is_found_before_anything_is_done(
    cli: Cli, trained: Path, write: Write, tone: Tone, tmp_path: Path, heard: list[int]
) -> None:
    done = cli("transcribe", trained, write("a.wav", tone(0.5)), tmp_path / "b.wav")
    assert (done.code, done.out) == (2, "")
    assert done.err == f"error: no such audio file: {tmp_path / 'b.wav'}\n"
    assert heard == []


def test_a_pipe_is_found_before_anything_is_done(
    cli: Cli, trained: Path, write: Write, tone: Tone, tmp_path: Path, heard: list[int]
) -> None:
    os.mkfifo(tmp_path / "live.wav")
    done = cli("transcribe", trained, write("a.wav", tone(0.5)), tmp_path / "live.wav", tmp_path / "b.wav")
    assert (done.code, done.out, heard) == (2, "", [])
    pipe, missing = tmp_path / "live.wav", tmp_path / "b.wav"
    said = f"error: a pipe or a device, not an audio file: {pipe}; no such audio file: {missing}\n"
    assert done.err == said


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


@pytest.fixture
def with_task(trained: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Copy the trained run, and let its task be another."""

    def with_task(task: str) -> Path:
        copy = tmp_path / "run"
        shutil.copytree(trained, copy)
        recipe = copy / "recipe.yaml"
        asr = re.compile(r"^( +)task:\n(?:\1 +.*\n)+", re.MULTILINE)
        changed, count = asr.subn(rf"\1task: {task}\n", recipe.read_text(encoding="utf-8"))
        assert count >= 2
        recipe.write_text(changed, encoding="utf-8")
        (copy / "lock.json").unlink()  # which would say that it was changed
        return copy

    return with_task


@pytest.mark.parametrize("live", [[], ["--follow"]])
def test_a_run_that_is_asked_nothing_cannot_be_told_the_language(
    cli: Cli, with_task: Callable[[str], Path], write: Write, tone: Tone, heard: list[int], live: list[str]
) -> None:
    """Not even where live sound asks nothing before its first segment ends."""
    run, file = with_task("transcribe"), write("a.wav", tone(0.5))
    done = cli("transcribe", run, file, "--language", "ja", *live)
    message = "language: this model hears the language by itself, and cannot be told: leave it out"
    assert (done.code, done.out, done.err) == (2, "", f"error: {message}\n")
    assert heard == []
    assert cli("transcribe", run, file).code == 0


def test_words_that_help_to_hear(
    cli: Cli,
    trained: Path,
    with_task: Callable[[str], Path],
    write: Write,
    tone: Tone,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each piece is asked with them; a run whose task takes none refuses them."""
    asked: list[str] = []
    answer = Engine.answer

    def noted(self: Engine, prompts: Sequence[Prompt], *given: Any) -> Any:
        asked.extend(str(prompt.conversation) for prompt in prompts)
        return answer(self, prompts, *given)

    monkeypatch.setattr(Engine, "answer", noted)
    file = write("a.wav", tone(2.5))
    done = cli("transcribe", trained, file, "--prompt", "岩木山")
    message = "prompt: this model was not trained on words that help to hear (option 'context' of a task)"
    assert (done.code, done.out, done.err) == (2, "", f"error: {message}: leave it out\n")
    assert asked == []
    run = with_task("{name: asr, context: names}")
    for words in ([], ["--prompt", " "], ["--prompt", "岩木山"]):
        assert cli("transcribe", run, file, "--cut", "quietest", *words).code == 0
    assert len(asked) == 6
    assert ["岩木山" in question for question in asked] == [False] * 4 + [True] * 2


def test_the_standard_input_is_heard_with_follow(cli: Cli, trained: Path) -> None:
    done = cli("transcribe", trained, "-")
    message = "-: the standard input is heard with --follow"
    assert (done.code, done.out, done.err) == (2, "", f"error: {message}\n")


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


@pytest.fixture
def phrases(write: Write, tone: Tone, loud_is_speech: None) -> Path:
    """Tones from 1 s to 1.9 s, 3 s to 3.4 s, 3.7 s to 4.3 s, and 6 s to 7 s of 8 s."""
    samples = np.zeros(8 * 16_000, np.float32)
    for start, seconds in ((1.0, 0.9), (3.0, 0.4), (3.7, 0.6), (6.0, 1.0)):
        samples[int(start * 16_000) :][: int(seconds * 16_000)] = tone(seconds)
    return write("phrases.wav", samples)


def test_a_long_file_is_cut_at_silence(cli: Cli, trained: Path, phrases: Path, heard: list[int]) -> None:
    done = cli("transcribe", trained, phrases)
    assert (done.code, done.out) == (0, "文2文2文3\n")
    assert [length / 16_000 for length in heard] == pytest.approx([1.4, 1.8, 1.5], abs=0.05)
    assert done.err == (
        f"{phrases}: 8.0 s is longer than the encoder's 2 s, so it is transcribed in 3 pieces; "
        f"{8 - sum(heard) / 16_000:.1f} s are silent\n"
    )


def test_subtitles(cli: Cli, trained: Path, phrases: Path, heard: list[int]) -> None:
    done = cli("transcribe", trained, phrases, "--format", "srt")
    assert done.code == 0
    times = re.findall(r"(\d+)\n00:00:(\d\d,\d{3}) --> 00:00:(\d\d,\d{3})\n文\d\n(?:\n|$)", done.out)
    assert [number for number, _, _ in times] == ["1", "2", "3"]
    found = [tuple(float(second.replace(",", ".")) for second in (start, end)) for _, start, end in times]
    assert np.array(found) == pytest.approx(np.array([(0.75, 2.15), (2.75, 4.55), (5.75, 7.25)]), abs=0.05)
    assert cli("transcribe", trained, phrases, "--format", "vtt").out.startswith("WEBVTT\n\n00:00:00.7")


def test_a_pause_ends_a_segment(cli: Cli, trained: Path, phrases: Path, heard: list[int]) -> None:
    assert cli("transcribe", trained, phrases, "--pause", "0.2").code == 0
    assert len(heard) == 4
    heard.clear()
    assert cli("transcribe", trained, phrases, "--pause", "9").code == 0
    assert len(heard) == 3  # the window is 2 s


def test_pauses_of_a_run_that_does_not_transcribe(
    cli: Cli, with_task: Callable[[str], Path], phrases: Path, heard: list[int]
) -> None:
    """Where they are asked for they end segments; else nothing is left out, not even for subtitles."""
    run = with_task("caption")
    assert cli("transcribe", run, phrases, "--pause", "0.2").code == 0
    assert sum(heard) < 5 * 16_000
    for form in ("text", "srt"):
        heard.clear()
        assert cli("transcribe", run, phrases, "--format", form).code == 0
        assert sum(heard) == 7 * 16_000  # one piece is silent from end to end


def test_json_is_one_line_for_each_file(
    cli: Cli, trained: Path, write: Write, tone: Tone, phrases: Path, heard: list[int]
) -> None:
    short = write("a.wav", tone(0.5))
    assert json.loads(cli("transcribe", trained, short, "--format", "json").out) == {"text": "文1"}
    done = cli("transcribe", trained, short, phrases, "--format", "verbose_json", "--language", "ja")
    first, second = map(json.loads, done.out.splitlines())
    assert first == {
        "file": str(short),
        "task": "transcribe",
        "language": "ja",
        "duration": 0.5,
        "text": "文2",
        "segments": [{"id": 0, "start": 0.0, "end": 0.5, "text": "文2"}],
    }
    assert (second["file"], second["duration"], len(second["segments"])) == (str(phrases), 8.0, 3)


@pytest.mark.parametrize(
    ("form", "name", "content"),
    [
        ("text", "a.txt", "文1\n"),
        ("json", "a.json", '{"text": "文1"}\n'),
        ("srt", "a.srt", "1\n00:00:00,000 --> 00:00:00,500\n文1\n\n"),
        ("vtt", "a.vtt", "WEBVTT\n\n00:00:00.000 --> 00:00:00.500\n文1\n\n"),
    ],
)
def test_transcripts_in_a_folder(
    cli: Cli,
    trained: Path,
    write: Write,
    tone: Tone,
    tmp_path: Path,
    heard: list[int],
    loud_is_speech: None,
    form: str,
    name: str,
    content: str,
) -> None:
    files = write("a.flac", tone(0.5)), write("b.wav", tone(0.5))
    done = cli("transcribe", trained, *files, "--format", form, "--out", tmp_path / "made" / "here")
    assert (done.code, done.out, done.err) == (0, "", "")
    assert (tmp_path / "made" / "here" / name).read_text(encoding="utf-8") == content
    assert len(list((tmp_path / "made" / "here").iterdir())) == 2


def test_what_cannot_be_asked_for(
    cli: Cli, trained: Path, write: Write, tone: Tone, tmp_path: Path, heard: list[int]
) -> None:
    first, second = write("a.wav", tone(0.5)), write("a.flac", tone(0.5))
    asked: list[tuple[list[object], str]] = [
        (["--format", "srt"], "--format srt: subtitles of several files need a folder: --out FOLDER"),
        (["--out", tmp_path], f"--out: {first} and {second} would both be written to {tmp_path / 'a.txt'}"),
        (["--cut", "quietest", "--pause", "1"], "--pause: pauses end segments with --cut silence only"),
        (["--idle", "1"], "--idle: says when a file that is followed has ended; it goes with --follow"),
        (["--words"], "--words: times of words stand in --format verbose_json, not in text"),
        (["--follow"], "--follow: one file, or - for the standard input"),
        (["--microphone"], "--microphone: goes without files"),
        (["--microphone", "--follow"], "--follow and --microphone: one of them"),
    ]
    for arguments, message in asked:
        done = cli("transcribe", trained, first, second, *arguments)
        assert (done.code, done.out, done.err) == (2, "", f"error: {message}\n")
    assert heard == []


def test_live_sound_has_no_end_to_write(
    cli: Cli, trained: Path, write: Write, tone: Tone, tmp_path: Path, heard: list[int]
) -> None:
    file = write("a.wav", tone(0.5))
    done = cli("transcribe", trained, file, "--follow", "--format", "srt")
    message = "--follow: --format srt needs the whole recording; allowed: text, json"
    assert (done.code, done.err) == (2, f"error: {message}\n")
    done = cli("transcribe", trained, "--microphone", "--out", tmp_path)
    message = "--microphone: --out and --cut are for files that are recorded already"
    assert (done.code, done.err) == (2, f"error: {message}\n")
    done = cli("transcribe", trained)
    assert (done.code, done.err) == (2, "error: name an audio file, or --microphone\n")
    assert heard == []


def test_a_file_that_is_still_written(
    cli: Cli, trained: Path, phrases: Path, heard: list[int], tmp_path: Path
) -> None:
    """It is heard as it grows: a line for each segment, and no sample is lost."""
    content = phrases.read_bytes()
    growing = tmp_path / "growing.wav"
    growing.write_bytes(content[:30])
    grown = threading.Event()

    def write_on() -> None:
        with growing.open("ab", buffering=0) as file:
            for start in range(30, len(content), 40_001):
                file.write(content[start : start + 40_001])
                grown.wait(0.01)

    writer = threading.Thread(target=write_on)
    writer.start()
    done = cli("transcribe", trained, growing, "--follow", "--idle", "1", "--pause", "0.6")
    writer.join()
    assert (done.code, done.err) == (0, "")
    assert done.out == "文1\n文2\n文3\n"
    assert [length / 16_000 for length in heard] == pytest.approx([1.4, 1.8, 1.5], abs=0.05)


def test_what_was_heard_before_a_file_was_deleted_is_printed(
    cli: Cli, trained: Path, phrases: Path, heard: list[int]
) -> None:
    def delete() -> None:
        while not heard:
            time.sleep(0.01)
        phrases.unlink()

    deleter = threading.Thread(target=delete)
    deleter.start()
    done = cli("transcribe", trained, phrases, "--follow", "--pause", "0.6")
    deleter.join()
    assert (done.code, done.out) == (1, "文1\n文2\n文3\n")
    assert done.err == f"error: {phrases}: was deleted while it was heard\n"


def test_live_json_tells_what_is_unfinished(
    cli: Cli, trained: Path, phrases: Path, heard: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through a pipe, which ends."""
    reading, writing = os.pipe()
    content = phrases.read_bytes()
    header, samples = content[:44], content[44:]

    def write_on() -> None:
        with open(writing, "wb", buffering=0) as pipe:
            pipe.write(header)
            pipe.write(samples)

    with open(reading, "rb") as standard_input:
        monkeypatch.setattr(sys, "stdin", standard_input)
        writer = threading.Thread(target=write_on)
        writer.start()
        done = cli("transcribe", trained, "-", "--follow", "--format", "json")
        writer.join()
    assert (done.code, done.err) == (0, "")
    said = [json.loads(line) for line in done.out.splitlines()]
    starts = [text["start"] for text in said if text["final"]]
    assert starts == pytest.approx([0.75, 2.75, 5.75], abs=0.05)
    assert [text["text"] for text in said] == [f"文{number + 1}" for number in range(len(said))]
    unfinished = [text for text in said if not text["final"]]
    assert unfinished
    assert all(text["end"] - text["start"] <= 2 for text in unfinished)


def test_what_cannot_be_followed(cli: Cli, trained: Path, write: Write, tone: Tone) -> None:
    flac = write("a.flac", tone(0.5))
    done = cli("transcribe", trained, flac, "--follow")
    assert done.code == 1
    assert f"{flac}: is not WAV, the only format that can be heard while it is written" in done.err


def test_ctrl_c_ends_what_is_followed(
    cli: Cli, trained: Path, write: Write, tone: Tone, heard: list[int], loud_is_speech: None
) -> None:
    """What was said before is transcribed, and the exit code is 0."""
    file = write("a.wav", tone(1.5))
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))

    def started(self: Transcriber, *_: Any) -> None:
        timer.start()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Transcriber, "__init__", with_call(Transcriber.__init__, started))
        done = cli("transcribe", trained, file, "--follow")
    assert (done.code, done.out) == (0, "文1\n")


def with_call(method: Callable[..., None], after: Callable[..., None]) -> Callable[..., None]:
    def both(*given: Any) -> None:
        method(*given)
        after(*given)

    return both

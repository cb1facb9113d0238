"""What `kikimimi data synth` makes of a grammar: spoken clips, and manifests that are packed into shards.

clips/                       sentences and requests, spoken by a voice in several processes
train.csv, held_out.csv      spoken sentences
instructions.jsonl           spoken requests and their answers
held_out_instructions.jsonl  the same, of requests that are nowhere else; with the rejected answers
preferences.jsonl            other spoken requests, with the answer that is chosen and one that is rejected
texts.jsonl                  without audio: requests and answers, and sentences to write down
"""

import csv
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from math import ceil
from pathlib import Path
from typing import Any

from kikimimi.console.progress import Progress
from kikimimi.console.terminal import json_text
from kikimimi.console.words import counted, duration
from kikimimi.contracts import registry
from kikimimi.contracts.options import NonNegativeInt, Options, PositiveInt, checked
from kikimimi.contracts.voice import Voice
from kikimimi.data.audio import encode_flac, is_silent, probe, resample
from kikimimi.data.stream import MIN_SECONDS
from kikimimi.data.workers import in_order
from kikimimi.errors import AudioError, DataError, RequestError
from kikimimi.files.writing import whole_file
from kikimimi.synth.grammar import Exchange, Grammar

SPEEDS = (0.85, 1.2)
"""Slowest and fastest relative rate of speech."""

SEMITONES = (-3.0, 3.0)
"""Lowest and highest shift of pitch."""

_SAMPLE_RATE = 16_000
"""The clips' sampling rate [Hz]."""
_ABOUT = ("language", "voice", "speed", "semitones")
_COLUMNS = ("path", "text", *_ABOUT)


@dataclass(frozen=True)
class Utterance:
    """A sentence and how it is spoken.

    Attributes:
        text: What is said.
        language: ISO 639-1 code.
        voice: Registered name of the voice.
        speed: Relative rate of speech.
        semitones: Shift of pitch.
    """

    text: str
    language: str
    voice: str
    speed: float
    semitones: float

    @property
    def path(self) -> str:
        """Where the clip lies below the output folder; a function of all that it is made from."""
        recipe = f"{self.voice}\n{self.speed}\n{self.semitones}\n{_SAMPLE_RATE}\n{self.text}"
        return f"clips/{hashlib.sha256(recipe.encode()).hexdigest()[:20]}.flac"


def utterances(sentences: Sequence[str], *, voice: str, language: str, seed: int) -> list[Utterance]:
    """Decide how each sentence is spoken: speed and pitch are a function of the seed and the sentence.

    Raises:
        RequestError: The voice is unknown, or speaks another language.
    """
    spoken = registry.load("voice", voice).language
    if spoken != language:
        raise RequestError(f"voice '{voice}' speaks '{spoken}', but the sentences are in '{language}'")
    return [
        Utterance(text, language, voice, *_manner(hashlib.sha256(f"{seed}\n{text}".encode()).digest()))
        for text in sentences
    ]


def _manner(digest: bytes) -> tuple[float, float]:
    fractions = (int.from_bytes(digest[:4], "big") / 2**32, int.from_bytes(digest[4:8], "big") / 2**32)
    speed, semitones = (
        low + (high - low) * fraction
        for (low, high), fraction in zip((SPEEDS, SEMITONES), fractions, strict=True)
    )
    return round(speed, 2), round(semitones, 1)


@checked
def speak(utterances: Sequence[Utterance], out: Path, *, workers: PositiveInt = 2) -> int:
    """Speak every utterance whose clip is not there yet, and show how far it is.

    A clip gets its name when it is whole, so after an interruption the same call goes on.

    Args:
        utterances: What to speak; clips are written to ``out / utterance.path``.
        out: Folder of the clips.
        workers: Processes that speak, each with a voice of its own, at most: this one alone speaks few clips.

    Returns:
        How many clips were there before.

    Raises:
        RequestError: A voice is unknown or cannot be built, or the number of workers is wrong.
        DataError: A voice failed on a sentence, or a process died.
    """
    missing = [utterance for utterance in utterances if not _is_whole(out / utterance.path)]
    kept = len(utterances) - len(missing)
    if not missing:
        return kept
    for voice in {utterance.voice for utterance in missing}:
        _voice(voice)  # fails here, with its own message, rather than in another process
    tasks = [(utterance, out) for utterance in missing]
    workers = min(workers, ceil(len(missing) / _CLIPS_OF_A_WORKER))
    with Progress("Speaking", len(utterances), "clips", done=kept) as progress:
        for _ in in_order(_speak_one, tasks, workers):
            progress.advance()
    return kept


_CLIPS_OF_A_WORKER = 64
"""Another process is worth its start from so many clips on."""


@cache
def _voice(name: str) -> Voice:
    loaded = registry.load("voice", name)
    voice: Voice = loaded(loaded.Config())
    return voice


def _speak_one(task: tuple[Utterance, Path]) -> None:
    utterance, out = task
    voice = _voice(utterance.voice)
    where = f"voice '{utterance.voice}', sentence {utterance.text!r}"
    try:
        samples = voice.speak(utterance.text, speed=utterance.speed, semitones=utterance.semitones)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error
    if len(samples) < MIN_SECONDS * voice.sample_rate or is_silent(samples):
        raise DataError(f"{where}: {len(samples) / voice.sample_rate:.2f} s of silence came out")
    path = out / utterance.path
    with whole_file(path) as unfinished:
        unfinished.write_bytes(encode_flac(resample(samples, voice.sample_rate, _SAMPLE_RATE), _SAMPLE_RATE))


def _is_whole(path: Path) -> bool:
    try:
        probe(path, path.name)
    except (RequestError, AudioError):
        return False
    return True


@dataclass(frozen=True, kw_only=True)
class DialogueSizes(Options):
    """How many conversations to make.

    Attributes:
        instructions: Spoken instructions for training.
        preferences: Preference pairs; their requests are spoken, and others than the instructions.
        texts: Conversations without audio; where the grammar has `copy`, half of them write down a sentence.
    """

    instructions: PositiveInt
    preferences: NonNegativeInt = 0
    texts: NonNegativeInt = 0


@dataclass(frozen=True)
class SynthReport:
    """What was made.

    Attributes:
        train: Manifest of the training clips.
        held_out: Manifest of the held-out clips.
        clips: How many clips the manifests name.
        seconds: Length of all of them [s].
        kept: How many of them were there before.
        unseen: Characters of what is held out that training lacks.
        dialogue: Manifests of conversations, where they were asked for.
    """

    train: Path
    held_out: Path
    clips: int
    seconds: float
    kept: int
    unseen: str
    dialogue: tuple[Path, ...] = ()

    def summary(self) -> str:
        """Return one line: what was made."""
        line = (
            f"{counted(self.clips, 'clip')}, {duration(self.seconds)} of speech ({self.kept} were there "
            f"before): {', '.join(map(str, (self.train, self.held_out, *self.dialogue)))}"
        )
        return f"{line}; held-out characters that training lacks: {self.unseen}" if self.unseen else line


def synth(
    grammar: str,
    out: Path,
    *,
    count: int,
    held_out: int,
    dialogue: DialogueSizes | None = None,
    voice: str = "open_jtalk",
    seed: int = 0,
    workers: int = 2,
) -> SynthReport:
    """Make sentences from a grammar and speak them: ``train.csv``, ``held_out.csv`` and ``clips/``.

    With `dialogue`, also spoken instructions, conversations in text and preference pairs.

    Args:
        grammar: Path of a grammar, or the name of a shipped one.
        out: Folder to write; what is already there is kept, so an interrupted run goes on.
        count: Training sentences.
        held_out: Held-out sentences.
        dialogue: How many conversations of the grammar's instructions to make beside; None makes none.
        voice: Registered name of a voice.
        seed: Decides the sentences and how each is spoken.
        workers: Processes that speak; 1 means this one.

    Raises:
        RequestError: The grammar or the voice is unknown, do not fit together, or cannot make so much.
        DataError: The voice failed on a sentence.
    """
    loaded = Grammar.load(grammar)
    speaking = partial(utterances, voice=voice, language=loaded.language, seed=seed)
    copies = 0 if dialogue is None or loaded.copy is None else dialogue.texts // 2
    split = loaded.split(max(count, copies), held_out, seed)
    train, evaluation = (
        speaking([e.request for e in part]) for part in (split.train[:count], split.held_out)
    )
    spoken: dict[str, Utterance] = {}
    manifests: dict[str, list[dict[str, Any]]] = {}
    unseen = split.unseen
    if dialogue is not None:
        to_speak, to_write = dialogue.instructions + dialogue.preferences, dialogue.texts - copies
        asked = loaded.split(max(to_write, to_speak), held_out, seed, "request")
        requests = [e.request for e in (*asked.train[:to_speak], *asked.held_out)]
        spoken = {utterance.text: utterance for utterance in speaking(requests)}
        preferences = asked.train[dialogue.instructions : to_speak]
        manifests = {
            "instructions": [_heard(e, spoken) for e in asked.train[: dialogue.instructions]],
            "held_out_instructions": [_heard(e, spoken) | {"rejected": e.rejected} for e in asked.held_out],
            "preferences": [_heard(e, spoken) | {"rejected": e.rejected} for e in preferences],
            "texts": [
                *(_conversation(e.request, e.answer) for e in asked.train[:to_write]),
                # As the task asr asks of a clip: what to write down, then the request to do it.
                *(
                    _conversation([_text(e.request), _text(loaded.copy)], e.request)
                    for e in split.train[:copies]
                ),
            ],
        }
        manifests["texts"] = [line | {"language": loaded.language} for line in manifests["texts"]]
        unseen = "".join(sorted({*unseen, *asked.unseen}))
    everything = [*train, *evaluation, *spoken.values()]
    kept = speak(everything, out, workers=workers)
    train_table, held_out_table = out / "train.csv", out / "held_out.csv"
    _write_table(train_table, train)
    _write_table(held_out_table, evaluation)
    written = tuple(_write_lines(out / f"{name}.jsonl", lines) for name, lines in manifests.items() if lines)
    seconds = sum(probe(out / utterance.path, utterance.path)[0] for utterance in everything)
    return SynthReport(train_table, held_out_table, len(everything), seconds, kept, unseen, written)


def _heard(exchange: Exchange, spoken: Mapping[str, Utterance]) -> dict[str, Any]:
    utterance = spoken[exchange.request]
    audio = {"type": "audio", "audio": utterance.path, "text": exchange.request}
    about = {name: getattr(utterance, name) for name in _ABOUT}
    return _conversation([audio], exchange.answer) | about


def _conversation(asked: str | list[dict[str, Any]], answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}


def _text(text: str | None) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _write_table(path: Path, part: Sequence[Utterance]) -> None:
    with whole_file(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows([getattr(utterance, column) for column in _COLUMNS] for utterance in part)


def _write_lines(path: Path, lines: Sequence[dict[str, Any]]) -> Path:
    with whole_file(path) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        file.writelines(json_text(line) + "\n" for line in lines)
    return path

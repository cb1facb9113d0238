"""Texts spoken by a voice, as clips: how each is spoken, and the processes that do it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from kikimimi.console.progress import Progress
from kikimimi.contracts import registry
from kikimimi.contracts.voice import Voice
from kikimimi.data.audio import MIN_SECONDS, encode_flac, is_silent, probe, resample
from kikimimi.data.whole_file import whole_file
from kikimimi.data.workers import in_order
from kikimimi.errors import AudioError, DataError, RequestError

SPEEDS = (0.85, 1.2)
"""Slowest and fastest relative rate of speech."""

SEMITONES = (-3.0, 3.0)
"""Lowest and highest shift of pitch."""

SAMPLE_RATE = 16_000
"""Of the clips [Hz]."""


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
        recipe = f"{self.voice}\n{self.speed}\n{self.semitones}\n{SAMPLE_RATE}\n{self.text}"
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


def speak(utterances: Sequence[Utterance], out: Path, *, workers: int = 2) -> int:
    """Speak every utterance whose clip is not there yet, and show how far it is.

    A clip gets its name when it is whole, so after an interruption the same call goes on.

    Args:
        utterances: What to speak; clips are written to ``out / utterance.path``.
        out: Folder of the clips.
        workers: Processes that speak, each with a voice of its own; 1 means this one.

    Returns:
        How many clips were there before.

    Raises:
        RequestError: A voice is unknown or cannot be built.
        DataError: A voice failed on a sentence, or a process died.
    """
    if workers < 1:
        raise RequestError(f"workers must be at least 1, not {workers}")
    missing = [utterance for utterance in utterances if not _is_whole(out / utterance.path)]
    kept = len(utterances) - len(missing)
    if not missing:
        return kept
    for voice in {utterance.voice for utterance in missing}:
        _voice(voice)  # fails here, with its own message, rather than in another process
    (out / "clips").mkdir(parents=True, exist_ok=True)
    tasks = [(utterance, out) for utterance in missing]
    with Progress("Speaking", len(utterances), "clips", done=kept) as progress:
        for _ in in_order(_speak_one, tasks, workers):
            progress.advance()
    return kept


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
        unfinished.write_bytes(encode_flac(resample(samples, voice.sample_rate, SAMPLE_RATE), SAMPLE_RATE))


def _is_whole(path: Path) -> bool:
    try:
        probe(path, path.name)
    except (RequestError, AudioError):
        return False
    return True

"""What recognisers, finished systems from elsewhere, say of the clips of an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kikimimi.console.terminal import say
from kikimimi.contracts.conversation import AudioPart, Conversation, Part
from kikimimi.data.audio import MAX_CLIP_SECONDS, decode
from kikimimi.data.shards.record import Record, named
from kikimimi.errors import DataError, KikimimiError, RequestError
from kikimimi.evaluation.asked import AskedEvaluation
from kikimimi.evaluation.long_clips import LongClips, joined

if TYPE_CHECKING:
    from kikimimi.contracts.recogniser import Recogniser
    from kikimimi.recipe import Chosen


def with_baseline(where: str, chosen: Chosen, asked: AskedEvaluation) -> Callable[[list[int]], Sequence[str]]:
    """Return what answers rows of an evaluation with a recogniser.

    Args:
        where: Its place in the recipe, for messages.
        chosen: The recogniser.
        asked: The evaluation.
    """
    corpus = asked.corpus
    recogniser = _open(where, chosen)
    long_clips = LongClips(corpus, asked.evaluation, recogniser.max_seconds, where)

    def answer(rows: list[int]) -> list[str]:
        texts: dict[int, str] = {}
        by_language: dict[str | None, list[int]] = {}
        clips, prompts = {}, {}
        for row in rows:
            record = corpus.shards.read(row)
            prompts[row] = _unspoken(corpus.conversation(record).prompt())
            names = prompts[row].clips()
            if len(names) != 1:
                raise DataError(f"{record.where}: a recogniser takes one clip, and there are {len(names)}")
            clips[row] = _decoded(record, names[0], recogniser)
            by_language.setdefault(named(record.json, "language"), []).append(row)
        for language, group in by_language.items():
            pieces = [
                (number, piece)
                for number, row in enumerate(group)
                for piece in long_clips.pieces(clips[row], recogniser.sample_rate)
            ]
            owners = [number for number, _ in pieces]
            with _blamed_on(where):
                said = recogniser.respond(
                    [prompts[group[number]] for number in owners], [piece for _, piece in pieces], language
                )
            texts.update(zip(group, joined(said, owners, len(group)), strict=True))
        return [texts[row] for row in rows]

    return answer


def with_transcripts(
    where: str, chosen: Chosen, asked: AskedEvaluation
) -> Callable[[list[int]], Sequence[Conversation]]:
    """Return what writes rows of an evaluation down: a recogniser's transcripts stand where the clips stood.

    Args:
        where: Its place in the recipe, for messages.
        chosen: The recogniser.
        asked: The evaluation.
    """
    corpus = asked.corpus
    recogniser = _open(where, chosen)
    long_clips = LongClips(corpus, asked.evaluation, recogniser.max_seconds, where)

    def transcripts(record: Record, names: Sequence[str]) -> list[str]:
        pieces = [
            (number, piece)
            for number, name in enumerate(names)
            for piece in long_clips.pieces(_decoded(record, name, recogniser), recogniser.sample_rate)
        ]
        owners = [number for number, _ in pieces]
        with _blamed_on(where):
            said = recogniser.transcribe([piece for _, piece in pieces], named(record.json, "language"))
        return [str(text).strip() for text in joined(said, owners, len(names))]

    def write(rows: list[int]) -> list[Conversation]:
        prompts = []
        for row in rows:
            record = corpus.shards.read(row)
            prompt = corpus.conversation(record).prompt()
            prompts.append(spoken_as(prompt, transcripts(record, prompt.clips())))
        return prompts

    return write


def spoken_as(prompt: Conversation, transcripts: Sequence[str]) -> Conversation:
    """Return a prompt in writing, with these words in place of its clips, in order."""
    words = iter(transcripts)

    def heard(part: Part) -> Part:
        return replace(part, text=next(words)) if isinstance(part, AudioPart) else part

    turns = tuple(replace(turn, parts=tuple(map(heard, turn.parts))) for turn in prompt.messages)
    return replace(prompt, messages=turns).written()


def _open(where: str, chosen: Chosen) -> Recogniser:
    source = getattr(chosen.config, "weights", None)
    say(f"loading {chosen.name}{f' ({source})' if source else ''}", error=True)
    with _blamed_on(where):
        recogniser: Recogniser = chosen.component(chosen.config)
    return recogniser


def _decoded(record: Record, name: str, recogniser: Recogniser) -> NDArray[np.float32]:
    return decode(
        record.audio[name],
        sample_rate=recogniser.sample_rate,
        name=f"{record.where} {name}",
        max_seconds=MAX_CLIP_SECONDS,
    )


def _unspoken(prompt: Conversation) -> Conversation:
    """Return a prompt as a system may see it: without what is said in its clips, and what else is known."""
    turns = (
        replace(turn, parts=tuple(AudioPart(p.audio) if isinstance(p, AudioPart) else p for p in turn.parts))
        for turn in prompt.messages
    )
    return Conversation(tuple(turns))


@contextmanager
def _blamed_on(where: str) -> Iterator[None]:
    """Turn the ValueErrors of a recogniser, for settings and languages that do not fit, into the user's."""
    try:
        yield
    except ValueError as error:
        if isinstance(error, KikimimiError):
            raise
        raise RequestError(f"{where}: {error}") from error

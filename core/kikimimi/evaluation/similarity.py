"""How similar the audio tokens of a clip are to the LLM's embeddings of its words, for a look at both."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import torch
from torch.nn import functional as F
from typing_extensions import TypedDict

from kikimimi.console.terminal import json_text
from kikimimi.data.corpus import Corpus
from kikimimi.data.shards.record import Record
from kikimimi.files.reading import MEBIBYTE, damaged, file_there, read_json
from kikimimi.files.writing import whole_file
from kikimimi.inference.engine import Engine, Prompt

FILE = "similarity.json"
CLIPS = 3
"""How many clips of an evaluation are looked at."""
LONGEST = 12.0
"""Longest clip whose picture can be read [s]."""
_TRIED = 30  # records; where so many say nothing of their words, the others are not read either
_PRECISION = 1000
_LARGEST = 64 * MEBIBYTE
_AGAIN = "Delete the folder that it lies in: 'kikimimi evaluate' makes it again"


@dataclass(frozen=True)
class Similarity:
    """One clip.

    Attributes:
        key: Its record's key.
        tokens: (L) the tokens of what is said, as they are written.
        values: (L, T) cosine of the angle between the embedding of each and each audio token.
    """

    key: str
    tokens: list[str]
    values: list[list[float]]


class _File(TypedDict):
    identity: str
    system: str
    thousandths: list[Similarity]


def similarities(engine: Engine, corpus: Corpus, seed: int) -> list[Similarity]:
    """Return the similarities in a few clips, drawn at random from those of which the words are known.

    Fathullah et al. 2023 show such matrices of theirs; audio tokens that stand for words in order make a
    diagonal.
    """
    found = []
    for record, clip, said in _clips(corpus, seed):
        vocabulary = engine.model.llm.vocabulary
        ids = torch.tensor(vocabulary.encode(said), dtype=torch.int64)
        waveforms = corpus.waveforms(record, [clip], engine.sample_rate)
        _, _, output = engine.pack([Prompt(record.where, corpus.conversation(record).prompt(), waveforms)])
        embeddings = engine.embed(ids).float()  # (L, D)
        assert output is not None
        tokens = output.tokens.unstack()[0].float()  # (T, D)
        cosines = F.normalize(embeddings, dim=1) @ F.normalize(tokens, dim=1).T
        written = [vocabulary.control.get(number) or vocabulary.decode([number]) for number in ids.tolist()]
        found.append(Similarity(record.key, written, cosines.cpu().tolist()))
        if len(found) == CLIPS:
            break
    return found


def _clips(corpus: Corpus, seed: int) -> Iterator[tuple[Record, str, str]]:
    """Yield records of one short clip of which it is known what is said, with the clip and the words."""
    shards = corpus.shards
    rows = [row for row in range(len(shards)) if shards.clips[row] == 1 and shards.longest[row] <= LONGEST]
    for row in Random(seed).sample(rows, min(_TRIED, len(rows))):
        record = shards.read(row)
        prompt = corpus.conversation(record).prompt()
        if len(prompt.clips()) == 1 and (prompt.transcripts()[0] or "").strip():
            yield record, prompt.clips()[0], str(prompt.transcripts()[0])


def write_similarities(folder: Path, identity: str, system: str, found: list[Similarity]) -> None:
    """Write what was measured, whole or not at all."""
    clips = [
        {**asdict(one), "values": [[round(value * _PRECISION) for value in row] for row in one.values]}
        for one in found
    ]
    said = {"identity": identity, "system": system, "thousandths": clips}
    with whole_file(folder / FILE) as unfinished:
        unfinished.write_text(json_text(said) + "\n", encoding="utf-8")


def read_similarities(folder: Path) -> tuple[str, str, list[Similarity]]:
    """Return identity, system and clips of an evaluation; empty where nothing was measured.

    Raises:
        DamagedError: The file is damaged.
    """
    path = folder / FILE
    if not file_there(path, _AGAIN):
        return "", "", []
    said = read_json(path, _File, limit=_LARGEST, remedy=_AGAIN)
    clips = []
    for clip in said["thousandths"]:
        if len(clip.values) != len(clip.tokens) or len({*map(len, clip.values)}) > 1:
            raise damaged(path, f"{clip.key}: tokens and values do not fit together", _AGAIN)
        if not all(abs(value) <= _PRECISION for row in clip.values for value in row):
            raise damaged(path, f"{clip.key}: a value is no cosine", _AGAIN)
        values = [[value / _PRECISION for value in row] for row in clip.values]
        clips.append(Similarity(clip.key, clip.tokens, values))
    return said["identity"], said["system"], clips

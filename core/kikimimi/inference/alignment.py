"""When each word of a text was said: forced alignment with an adapter's CTC head.

The most probable path through the frames that spells the text (Graves et al. 2006; torchaudio's
`forced_align`). Words are what stands between spaces; in scripts without spaces, each character.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import accumulate, pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from kikimimi.contracts.component import FrameLabels, Padded
from kikimimi.contracts.precision import autocast
from kikimimi.contracts.vocabulary import Vocabulary
from kikimimi.inference.engine import Engine
from kikimimi.inference.transcript import TimedWord

_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u30ff\u3400-\u9fff\uf900-\ufaff\uff66-\uff9f"
"""Thai, Lao, Burmese, Khmer, kana, Chinese characters: scripts without spaces between words."""
_ALONE = re.compile(rf"[\s{_UNSPACED}]")
_UNIT = re.compile(rf"\s+|[{_UNSPACED}]|[^\s{_UNSPACED}]+")


NO_HEAD = "times of words need an adapter with a CTC head (ctc, alignformer), and this run has none"
"""What is said where words cannot be found in time."""
_TRIED_SECONDS = 1.0


def times_words(engine: Engine) -> bool:
    """Return whether an engine can tell when words were said: whether its adapter has a CTC head."""
    return _labels(engine, np.zeros(int(_TRIED_SECONDS * engine.sample_rate), np.float32)) is not None


def word_times(engine: Engine, clip: NDArray[np.float32], text: str) -> tuple[TimedWord, ...]:
    """Return when each word of a text was said in (S,) samples, from the clip's beginning.

    Args:
        engine: One that `times_words`.
        clip: The samples.
        text: What is said in them.

    Returns:
        The words in order, none after the clip's end; none where the clip is too short for the text.
    """
    labels, rate = _labels(engine, clip), engine.model.encoder.frame_rate
    assert labels is not None
    seconds = len(clip) / engine.sample_rate  # the last frame reaches beyond it
    return tuple(
        TimedWord(min(start / rate, seconds), min(end / rate, seconds), word)
        for start, end, word in align(labels, text)
    )


def _labels(engine: Engine, clip: NDArray[np.float32]) -> FrameLabels | None:
    model = engine.model
    audio = torch.from_numpy(clip)[None].to(engine.device)
    with torch.inference_mode(), autocast(engine.precision, engine.device):
        features: Padded = model.encoder(Padded(audio, torch.tensor([len(clip)], device=engine.device)))
        labels: FrameLabels | None = model.adapter.label_frames(features)
    return labels


def align(labels: FrameLabels, text: str) -> list[tuple[int, int, str]]:
    """Return the first frame of each word of a text, the one after its last, and the word.

    Args:
        labels: What the head says of one clip.
        text: What is said in it.
    """
    from torchaudio.functional import forced_align, merge_tokens

    spelled = list(_spelled(labels.vocabulary, text))
    ids = [label for part, _ in spelled for label in part]
    frames = int(labels.scores.lengths[0])
    if not ids or labels.blank_id in ids or len(ids) + sum(a == b for a, b in pairwise(ids)) > frames:
        return []
    scores = labels.scores.values[:1, :frames].float().cpu()
    path, paths_scores = forced_align(scores, torch.tensor([ids]), blank=labels.blank_id)
    spans = merge_tokens(path[0], paths_scores[0], blank=labels.blank_id)
    ends = list(accumulate(len(part) for part, _ in spelled))
    return [
        (spans[end - len(part)].start, spans[end - 1].end, word)
        for (part, word), end in zip(spelled, ends, strict=True)
        if part and word
    ]


def _spelled(vocabulary: Vocabulary, text: str) -> Iterator[tuple[list[int], str]]:
    """Yield labels, and the word that they spell; the word is empty where they spell space."""
    whole = vocabulary.encode(text)
    units = _UNIT.findall(text)
    apart = [(vocabulary.encode(unit), unit.strip()) for unit in units]
    if [label for part, _ in apart for label in part] == whole:
        yield from apart
        return
    # A tokenizer's tokens go across the borders of words, and a character may have several: what stands in a
    # text by then says whether a token completes something, and whether that belongs to the word before.
    words: list[tuple[list[int], str]] = []
    done = first = 0
    for end in range(1, len(whole) + 1):
        prefix = vocabulary.decode(whole[:end])
        if len(prefix) > done and text.startswith(prefix):
            part, piece = whole[first:end], prefix[done:]
            if words and not _ALONE.match(piece) and not _ALONE.match(words[-1][1][-1:]):
                words[-1] = (words[-1][0] + part, words[-1][1] + piece)
            else:
                words.append((part, piece))
            done, first = len(prefix), end
    if first < len(whole):
        words.append((whole[first:], text[done:]))
    yield from ((part, word.strip()) for part, word in words)

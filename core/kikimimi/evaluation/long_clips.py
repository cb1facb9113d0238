"""Clips that are longer than a system takes: refused, or cut as `kikimimi transcribe` cuts files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kikimimi.contracts.answer import Answer
from kikimimi.data.audio import is_silent
from kikimimi.data.corpus import Corpus
from kikimimi.errors import DataError
from kikimimi.inference.recording import Cut, cut_recording
from kikimimi.inference.transcript import join_texts

if TYPE_CHECKING:
    from kikimimi.recipe import Evaluation


class LongClips:
    """What is done with the clips of an evaluation that are longer than a system takes.

    Args:
        corpus: The data of the evaluation.
        evaluation: Its settings.
        limit: Longest clip that the system takes [s]; None means unbounded.
        who: What messages call the system.

    Raises:
        DataError: There are such clips, and they are not to be cut or stand beside others.
    """

    def __init__(self, corpus: Corpus, evaluation: Evaluation, limit: float | None, who: str) -> None:
        self._limit = limit
        task = evaluation.task
        self._cut: Cut = "silence" if task.component.transcribes else "quietest"
        longest = corpus.shards.longest
        too_long = [] if limit is None else [row for row in range(len(longest)) if longest[row] > limit]
        if too_long and evaluation.long_clips == "refuse":
            raise DataError(
                f"{corpus.name}: {len(too_long)} of {len(longest)} records hold a clip longer than {who} "
                f"takes ({limit:g} s), the first is {corpus.shards.where(too_long[0])} "
                f"({longest[too_long[0]]:.1f} s). Nothing is cut; pack the data without them, or set "
                f"evaluate.{corpus.name}.long_clips=cut"
            )
        for row in too_long:
            if corpus.shards.clips[row] > 1:
                raise DataError(
                    f"{corpus.shards.where(row)}: holds several clips, and one is longer than {who} takes "
                    f"({limit:g} s); long_clips: cut is for records of one clip"
                )

    def pieces(self, clip: NDArray[np.float32], sample_rate: int) -> list[NDArray[np.float32]]:
        """Return (S,) samples whole, or in pieces where they are longer than the system takes; of these, none
        is silent.
        """
        if self._limit is None or len(clip) <= self._limit * sample_rate:
            return [clip]
        cut = cut_recording([clip], sample_rate=sample_rate, max_seconds=self._limit, cut=self._cut)
        return [piece.samples for piece in cut if not is_silent(piece.samples)]


def joined(texts: Sequence[str], owners: Sequence[int], count: int) -> list[Answer]:
    """Join what was answered to the pieces of clips.

    Args:
        texts: The answers.
        owners: Number of the clip that each is of.
        count: Number of clips.

    Returns:
        One answer for each clip: as it is, where it was whole.
    """
    found = []
    for clip in range(count):
        parts = [text for text, owner in zip(texts, owners, strict=True) if owner == clip]
        answers = [part if isinstance(part, Answer) else Answer(part) for part in parts]
        if len(answers) == 1:
            found.append(answers[0])
            continue
        known = [answer.cut for answer in answers if answer.cut is not None]
        text = join_texts([answer.spoken for answer in answers])
        found.append(Answer(text, cut=any(known) if known or not answers else None))
    return found

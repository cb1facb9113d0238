"""A named dataset as the model sees it: records of shards, turned by a task into conversations."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kikimimi.contracts.batch import Sample, View, render_view
from kikimimi.contracts.component import LLM, Rendered
from kikimimi.contracts.conversation import Conversation
from kikimimi.contracts.task import Task
from kikimimi.data.audio import MAX_CLIP_SECONDS, decode
from kikimimi.data.fault import HOW_TO_SKIP
from kikimimi.data.shards.record import Record
from kikimimi.data.shards.shards import Shards
from kikimimi.errors import DataError

if TYPE_CHECKING:
    from kikimimi.recipe import Dataset, Evaluation, Recipe


class Features(Protocol):
    """Output of a frozen encoder that was kept."""

    def get(self, row_hash: str, clip: str) -> Tensor:
        """Return the (F, E) features of a clip.

        Raises:
            DataError: The clip could not be encoded.
        """
        ...


@dataclass(frozen=True)
class Corpus:
    """Records and the task that is made of them.

    Attributes:
        name: Name in the recipe.
        shards: Where the records are.
        task: What turns a record into a conversation.
        skip: Pass over records that cannot be used where all are gone through; otherwise they are errors.
        rows: The rows of the shards that are used, or None for all.
        max_characters: Records with a longer text are not to be used, if any limit is given.
    """

    name: str
    shards: Shards
    task: Task
    skip: bool = False
    rows: NDArray[np.int32] | None = None
    max_characters: int | None = None

    @classmethod
    def open(cls, name: str, source: Dataset | Evaluation, *, skip: bool = False) -> Corpus:
        """Open the shards that a recipe names.

        Raises:
            RequestError: A shard or its index is missing.
        """
        return cls(
            name,
            Shards(name, source.shards),
            source.task.component(source.task.config),
            skip,
            max_characters=getattr(source, "max_characters", None),
        )

    @property
    def used(self) -> NDArray[np.int32] | slice:
        """What picks the used rows out of a column of the shards."""
        return slice(None) if self.rows is None else self.rows

    def __len__(self) -> int:
        """Return the number of used records."""
        return len(self.shards) if self.rows is None else len(self.rows)

    def used_rows(self) -> Iterator[int]:
        """Yield the used rows in order."""
        yield from range(len(self.shards)) if self.rows is None else self.rows.tolist()

    def conversation(self, record: Record, rng: Random | None = None) -> Conversation:
        """Turn a record into a conversation.

        Raises:
            DataError: The record lacks what the task needs.
        """
        try:
            return self.task.conversation(record.json, list(record.audio), rng)
        except ValueError as error:
            raise DataError(f"{record.where}: {error}") from error

    def waveforms(self, record: Record, clips: list[str], sample_rate: int) -> list[Tensor]:
        """Decode the clips of a record to (S,) tensors.

        Raises:
            DataError: A clip is missing or cannot be decoded.
        """
        _check_clips(record, clips)
        return [
            torch.from_numpy(
                decode(
                    record.audio[clip],
                    sample_rate=sample_rate,
                    name=f"{record.where} {clip}",
                    max_seconds=MAX_CLIP_SECONDS,
                )
            )
            for clip in clips
        ]

    def sample(
        self,
        row: int,
        llm: LLM,
        sample_rate: int,
        *,
        phrasing_seed: str | None,
        features: Features | None = None,
        views: Collection[View] = (),
    ) -> Sample:
        """Read, render and decode one record for training.

        Args:
            row: Position in the shards.
            llm: Renders the conversation.
            sample_rate: The waveforms' rate [Hz].
            phrasing_seed: Seeds the choice among phrasings; None takes the first.
            features: Where the encoder's output is kept; with it no audio is decoded.
            views: What else is rendered.

        Raises:
            DataError: The record cannot be used, has no answer to learn, or lacks what a view needs.
        """
        record = self.shards.read(row)
        conversation = self.conversation(record, Random(phrasing_seed) if phrasing_seed is not None else None)
        try:
            rendered = llm.render(conversation)
            others: dict[View, Rendered] = {view: render_view(llm, conversation, view) for view in views}
        except ValueError as error:
            raise DataError(f"{record.where}: {error}") from error
        if not any(rendered.loss) and "prompt" not in others:  # of which an objective writes the answer
            raise DataError(
                f"{record.where}: nothing to learn: no turn is the assistant's; give chosen, or leave it out"
            )
        names = conversation.clips()
        clips: list[Tensor]
        if features is not None:
            _check_clips(record, names)
            clips = [features.get(self.shards.sha256(row), clip) for clip in names]
        else:
            clips = self.waveforms(record, names, sample_rate)
        name = f"{self.name}/{record.key}"
        return Sample(name, rendered, clips, conversation.transcripts(), others)

    def texts(self) -> Iterator[str]:
        """Yield every text of the data: the task's phrasings, what stands in turns, what is said in clips."""
        yield from self.task.phrasings()
        for row in self.used_rows():
            try:
                record = self.shards.read(row)
                conversation = self.conversation(record)
            except DataError as error:
                if not self.skip:
                    raise DataError(f"{error}. {HOW_TO_SKIP}") from error
                continue
            for message in conversation.messages:
                for part in message.parts:
                    if part.text is not None:
                        yield part.text
            if conversation.rejected is not None:
                yield conversation.rejected
            yield from _choices(record.json)


def _check_clips(record: Record, names: Sequence[str]) -> None:
    for name in names:
        if name not in record.audio:
            raise DataError(f"{record.where}: the conversation names clip {name!r}, which is not there")


def _choices(record: dict[str, Any]) -> Iterator[str]:
    """Yield the texts of a record among which a task may choose, such as several captions."""
    for value in [*record.values(), *(record.get("meta") or {}).values()]:
        if isinstance(value, list):
            yield from (item for item in value if isinstance(item, str))


def training_corpora(recipe: Recipe) -> Iterator[Corpus]:
    """Open what the stages train on, one dataset after the other as they are asked for."""
    for stage in recipe.stages.values():
        for name, dataset in stage.data.items():
            yield Corpus.open(name, dataset, skip=stage.faults.policy == "skip")


def all_texts(corpora: Iterable[Corpus]) -> Iterator[str]:
    """Yield the texts of every corpus: what a tokenizer that is built from them has to spell."""
    for corpus in corpora:
        yield from corpus.texts()

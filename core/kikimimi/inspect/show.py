"""What the model is shown: the records of a stage in training order, rendered as training renders them.

No weights are read: the parts stand on the meta device, and say how they write a conversation and how many
tokens a clip becomes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import numpy as np
import torch

from kikimimi.console.words import listing, nearest
from kikimimi.contracts.batch import Fault
from kikimimi.data.corpus import Corpus, all_texts, training_corpora
from kikimimi.data.order.loader import Reader
from kikimimi.data.order.plan import START, Plan, Planned
from kikimimi.data.order.sources import make_plan, usable, with_steps
from kikimimi.errors import RequestError
from kikimimi.inspect.show_tokens import Piece, Token, pieces_of, tokens_of
from kikimimi.model.assembly import assemble
from kikimimi.model.speech_lm import SpeechLM
from kikimimi.recipe import Recipe, Stage


@dataclass(frozen=True)
class Shown:
    """A record as the model is shown it.

    Attributes:
        dataset: Its dataset.
        where: Shard, byte and key.
        step: The optimiser step that it is part of, from 1 on.
        micro_batch: Of the step, from 1 on.
        place: In the micro-batch, from 1 on.
        company: How many records the micro-batch holds.
        number_of_pass: Through its dataset, from 1 on.
        cost: What it takes of the micro-batch [s, or positions].
        seconds: Of its audio [s].
        tokens: What the LLM reads, in order.
        pieces: The same as text.
        audio_tokens: At most so many positions are audio.
        rejected: The answer that preference objectives push down, or None.
        problem: Why it cannot be used, or None.
    """

    dataset: str
    where: str
    step: int
    micro_batch: int
    place: int
    company: int
    number_of_pass: int
    cost: float
    seconds: float
    tokens: tuple[Token, ...]
    pieces: tuple[Piece, ...]
    audio_tokens: int
    rejected: str | None
    problem: str | None

    @property
    def text_tokens(self) -> int:
        """Positions that are text."""
        return sum(token.kind != "audio" for token in self.tokens)

    @property
    def positions(self) -> int:
        """Positions of the LLM, at most."""
        return self.text_tokens + self.audio_tokens

    @property
    def targets(self) -> int:
        """Tokens that the LLM learns to write."""
        return sum(token.target for token in self.tokens)


@dataclass(frozen=True)
class ShownStage:
    """The beginning of a stage, or of a step in its middle.

    Attributes:
        name: Of the stage.
        stage: Its options.
        context: The LLM's context [positions], or None.
        records: Number of records of each dataset that training uses, by name.
        micro_batches: Number of micro-batches of an epoch, roughly.
        left_out: Records that training leaves out as they do not fit.
        shown: The records, in training order; read as they are asked for.
    """

    name: str
    stage: Stage
    context: int | None
    records: dict[str, int]
    micro_batches: float
    left_out: Sequence[Fault]
    shown: Iterator[Shown]


def show(
    recipe: Recipe,
    *,
    assets: Path | None = None,
    stage: str | None = None,
    dataset: str | None = None,
    count: int = 5,
    step: int = 1,
) -> Iterator[ShownStage]:
    """Yield the stages with the first records that each trains on.

    Args:
        recipe: Resolved. Its seed decides about the order and the phrasings.
        assets: Of a run, where there is one; else a tokenizer of the training data is built from these.
        stage: Only this one.
        dataset: Only records of this one, and only stages that read it.
        count: How many records of each stage.
        step: Begin with this optimiser step.

    Raises:
        RequestError: There is no such stage, dataset or step, or the data is missing.
        DataError: Records do not fit the model, and the stage does not leave them out.
    """
    stages = _choose(recipe, stage, dataset, step)
    with torch.device("meta"):
        model = assemble(
            recipe, texts=lambda: all_texts(training_corpora(recipe)), assets=assets, load_weights=False
        )
    for name in stages:
        yield _show_stage(recipe, name, model, dataset, count, step)


def _choose(recipe: Recipe, stage: str | None, dataset: str | None, step: int) -> list[str]:
    stages = recipe.stages
    if stage is not None and stage not in stages:
        raise RequestError(f"no stage is called '{stage}'.{nearest(stage, stages)} Stages: {listing(stages)}")
    names = list(stages) if stage is None else [stage]
    if dataset is not None:
        known = {found for name in names for found in stages[name].data}
        if dataset not in known:
            where = "the recipe" if stage is None else f"stage '{stage}'"
            raise RequestError(
                f"{where} trains on no dataset '{dataset}'.{nearest(dataset, known)} "
                f"Datasets: {listing(known)}"
            )
        names = [name for name in names if dataset in stages[name].data]
    for name in names:
        steps = stages[name].steps
        if steps is not None and step > steps:
            raise RequestError(f"stage '{name}' has {steps} steps; there is no step {step}")
    return names


def _show_stage(
    recipe: Recipe, name: str, model: SpeechLM, dataset: str | None, count: int, step: int
) -> ShownStage:
    stage = recipe.stages[name]
    skip = stage.faults.policy == "skip"
    corpora: list[Corpus] = []
    left_out: list[Fault] = []
    for source, options in stage.data.items():
        corpus, faults = usable(Corpus.open(source, options, skip=skip), model, stage.batch, skip=skip)
        corpora.append(corpus)
        left_out += faults
    weights = [options.weight for options in stage.data.values()]
    plan = make_plan(corpora, weights, model, stage.batch, stage.mixture, recipe.seed)
    stage = with_steps(stage, plan)
    shown = _Stage(stage, recipe.seed, model, corpora, plan)
    return ShownStage(
        name=name,
        stage=stage,
        context=model.llm.context_length,
        records={source.name: len(source.costs) for source in plan.sources},
        micro_batches=plan.micro_batches_per_epoch,
        left_out=left_out,
        shown=shown.records(dataset, count, step),
    )


def seconds_of(samples: int, rate: float) -> float:
    """Return the length of a clip as the index has it, in single precision: both are the same in print."""
    return float(np.float32(samples / rate))


class _Stage:
    def __init__(self, stage: Stage, seed: int, model: SpeechLM, corpora: list[Corpus], plan: Plan) -> None:
        self.stage, self.seed, self.model, self.corpora, self.plan = stage, seed, model, corpora, plan
        self.reader = Reader(corpora, model, seed, None)

    def records(self, dataset: str | None, count: int, step: int) -> Iterator[Shown]:
        per_step = self.stage.batch.global_
        first, last = (step - 1) * per_step, self.stage.num_steps * per_step
        left = count
        start = self.plan.advance(START, first)
        for number, planned in zip(range(first, last), self.plan.micro_batches(start), strict=False):
            for place, item in enumerate(planned, start=1):
                if dataset is not None and self.corpora[item.source].name != dataset:
                    continue
                if left == 0:
                    return
                left -= 1
                yield self._show(item, number // per_step + 1, number % per_step + 1, place, len(planned))

    def _show(self, item: Planned, step: int, micro_batch: int, place: int, company: int) -> Shown:
        corpus, row = self.corpora[item.source], item.row
        shown = Shown(
            dataset=corpus.name,
            where=corpus.shards.where(row),
            step=step,
            micro_batch=micro_batch,
            place=place,
            company=company,
            number_of_pass=item.epoch + 1,
            cost=self._cost(item),
            seconds=float(corpus.shards.seconds[row]),
            tokens=(),
            pieces=(),
            audio_tokens=0,
            rejected=None,
            problem=None,
        )
        batch = self.reader[[item]]
        if batch.outcomes and batch.outcomes[0] is not None:
            return replace(shown, problem=batch.outcomes[0].reason)
        draw = Random(item.draw(self.seed, corpus.name))
        conversation = corpus.conversation(corpus.shards.read(row), draw)
        lengths = [] if batch.audio is None else batch.audio.lengths.tolist()
        audio_tokens = [self.model.adapter.max_tokens(self.model.encoder.num_frames(n)) for n in lengths]
        rate = self.model.encoder.sample_rate
        clips = [
            f"{name} {seconds_of(samples, rate):.2f} s -> {tokens} tokens"
            for name, samples, tokens in zip(conversation.clips(), lengths, audio_tokens, strict=True)
        ]
        vocabulary = self.model.llm.vocabulary
        tokens = tokens_of(batch, clips, vocabulary)
        return replace(
            shown,
            tokens=tokens,
            pieces=tuple(pieces_of(tokens, conversation, vocabulary)),
            audio_tokens=sum(audio_tokens),
            rejected=conversation.rejected,
        )

    def _cost(self, item: Planned) -> float:
        source = self.plan.sources[item.source]
        place = item.row if source.rows is None else int(np.searchsorted(source.rows, item.row))
        return float(source.costs[place])

"""What the model is shown: the records of a stage in training order, rendered as training renders them.

No weights are read: the parts stand on the meta device, and say how they write a conversation and how many
tokens a clip becomes.

On the terminal, in colour, what the LLM learns to write is bold and underlined, user and system have colours
of their own, and what the chat template adds is dim. Without colour, what is learnt stands between ``[[`` and
``]]``.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from random import Random
from typing import Literal

import numpy as np
import torch
from rich.console import Console
from rich.text import Text

from kikimimi.console.terminal import visible
from kikimimi.console.words import counted, listing, nearest
from kikimimi.contracts.batch import Fault
from kikimimi.contracts.component import Rendered
from kikimimi.contracts.conversation import Role
from kikimimi.contracts.objective import Objective
from kikimimi.contracts.vocabulary import Vocabulary
from kikimimi.data.corpus import Corpus, all_texts, training_corpora
from kikimimi.data.order.loader import BatchDataset
from kikimimi.data.order.plan import START, Plan, Planned
from kikimimi.data.order.sources import make_plan, usable, with_steps
from kikimimi.errors import RequestError
from kikimimi.model.assembly import assemble
from kikimimi.model.speech_lm import SpeechLM
from kikimimi.recipe import Recipe, Stage

_LEFT_OUT = 5  # records that are named one by one
_OPEN, _CLOSE = "[[", "]]"
_LEFT, _RIGHT = "\u25d6", "\u25d7"  # half circles around a clip
_RETURN = "\u21b5"  # before each line feed, which otherwise could not be told from a wrapped line
_ROLES = {"system": "magenta", "user": "cyan", "assistant": "green", None: "bright_black"}


@dataclass(frozen=True)
class ShownTokens:
    """A token that the LLM reads, the slot of a clip, or neighbouring tokens that are alike.

    Attributes:
        kind: ``text``, ``control`` (it stands for no text), or ``audio``.
        role: Who says it; None for what the chat template adds.
        target: Whether the LLM learns to write it.
        ids: Ids in the vocabulary; none for a slot.
        text: How it is written; of a slot, the clip, its length and its audio tokens.
    """

    kind: Literal["text", "control", "audio"]
    role: Role | None
    target: bool
    ids: tuple[int, ...]
    text: str


@dataclass(frozen=True)
class Shown:
    """A record as the model is shown it.

    Attributes:
        dataset: Its dataset.
        where: Shard, byte and key.
        step: The optimiser step that it is part of, from 1 on.
        micro_batch: Its number in the step, from 1 on.
        place: Its number in the micro-batch, from 1 on.
        num_records: How many records the micro-batch holds.
        number_of_pass: The pass through its dataset, from 1 on.
        cost: What it takes of the micro-batch [s, or positions].
        seconds: Length of its audio [s].
        tokens: What the LLM reads, in order.
        pieces: The same, neighbours of one kind put together.
        audio_tokens: Largest number of positions that are audio.
        rejected: The answer that preference objectives push down, or None.
        problem: Why it cannot be used, or None.
    """

    dataset: str
    where: str
    step: int
    micro_batch: int
    place: int
    num_records: int
    number_of_pass: int
    cost: float
    seconds: float
    tokens: tuple[ShownTokens, ...] = ()
    pieces: tuple[ShownTokens, ...] = ()
    audio_tokens: int = 0
    rejected: str | None = None
    problem: str | None = None

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
        name: The stage's name.
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
        assets: A run's assets, where there is one; else a tokenizer of the training data is built from these.
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
        self.batches = BatchDataset(corpora, model, seed, None)
        self.objective: Objective = stage.objective.component(stage.objective.config)

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

    def _show(self, item: Planned, step: int, micro_batch: int, place: int, num_records: int) -> Shown:
        corpus, row = self.corpora[item.source], item.row
        shown = Shown(
            dataset=corpus.name,
            where=corpus.shards.where(row),
            step=step,
            micro_batch=micro_batch,
            place=place,
            num_records=num_records,
            number_of_pass=item.epoch + 1,
            cost=self._cost(item),
            seconds=float(corpus.shards.seconds[row]),
        )
        sample = self.batches.sample(item)
        if isinstance(sample, Fault):
            return replace(shown, problem=sample.reason)
        rng = Random(item.phrasing_seed(self.seed, corpus.name))
        conversation = corpus.conversation(corpus.shards.read(row), rng)
        lengths = [len(clip) for clip in sample.clips]
        encoder, vocabulary = self.model.encoder, self.model.llm.vocabulary
        audio_tokens = [self.model.adapter.max_tokens(encoder.num_frames(n)) for n in lengths]
        clips = [
            f"{name} {seconds_of(samples, encoder.sample_rate):.2f} s -> {tokens} tokens"
            for name, samples, tokens in zip(conversation.clips(), lengths, audio_tokens, strict=True)
        ]
        last = self.objective.turns == "last"
        tokens = _tokens(sample.rendered.last_turn() if last else sample.rendered, clips, vocabulary)
        return replace(
            shown,
            tokens=tokens,
            pieces=tuple(_pieces(tokens, vocabulary)),
            audio_tokens=sum(audio_tokens),
            rejected=conversation.rejected,
        )

    def _cost(self, item: Planned) -> float:
        source = self.plan.sources[item.source]
        place = item.row if source.rows is None else int(np.searchsorted(source.rows, item.row))
        return float(source.costs[place])


def _tokens(rendered: Rendered, clips: Sequence[str], vocabulary: Vocabulary) -> tuple[ShownTokens, ...]:
    """Return the tokens of a conversation, with its clips as they are written."""
    control, slots = vocabulary.control, dict(zip(rendered.slots, clips, strict=True))
    roles: dict[int, Role | None] = {
        place: span.role for span in rendered.spans for place in range(span.start, span.end)
    }
    tokens = []
    for place, (number, loss) in enumerate(zip(rendered.ids, rendered.loss, strict=True)):
        role = roles.get(place)
        # Nothing predicts the first token, and a slot is not a token.
        target = loss and place > 0
        if place in slots:
            tokens.append(ShownTokens("audio", role, False, (), slots[place]))
        elif number in control:
            tokens.append(ShownTokens("control", role, target, (number,), control[number]))
        else:
            text = spell(vocabulary, [number])
            kind: Literal["text", "control"] = "text" if text else "control"
            tokens.append(ShownTokens(kind, role, target, (number,), text or f"<{number}>"))
    return tuple(tokens)


def spell(vocabulary: Vocabulary, ids: Sequence[int]) -> str:
    """Return the text of ids in the middle of a text: many tokenizers drop the blank before a first word."""
    once, twice = vocabulary.decode(ids[:1]), vocabulary.decode([ids[0], *ids])
    return twice[len(once) :] if twice.startswith(once) else vocabulary.decode(ids)


def _pieces(tokens: Sequence[ShownTokens], vocabulary: Vocabulary) -> Iterator[ShownTokens]:
    """Put neighbouring text of one speaker together: a character may take several tokens."""
    alike = groupby(tokens, key=lambda token: (token.kind, token.role, token.target))
    for (kind, role, target), run in alike:
        if kind == "text":
            ids = tuple(number for token in run for number in token.ids)
            yield ShownTokens(kind, role, target, ids, spell(vocabulary, ids))
        else:
            yield from run


def print_stage(console: Console, stage: ShownStage, *, tokens: bool = False) -> None:
    """Print a stage with its records."""

    def say(text: str | Text, style: str = "") -> None:
        console.print(text if isinstance(text, Text) else Text(text, style), soft_wrap=True)

    options = stage.stage
    say(f"stage {stage.name}", "bold")
    say(", ".join(f"{name}: {counted(count, 'record')}" for name, count in stage.records.items()))
    say(
        f"an epoch has about {math.ceil(stage.micro_batches):,} micro-batches of up to "
        f"{options.batch.budget:g} {options.batch.unit}; "
        f"{options.num_steps:,} steps take {options.num_steps * options.batch.global_:,}"
    )
    if stage.left_out:
        say(f"left out: {counted(len(stage.left_out), 'record')}", "yellow")
        for fault in stage.left_out[:_LEFT_OUT]:
            say(f"  {fault.dataset}: {visible(fault.where)}: {visible(fault.reason)}")
        if len(stage.left_out) > _LEFT_OUT:
            say(f"  and {len(stage.left_out) - _LEFT_OUT:,} more")
    marks = not console.is_terminal or console.no_color
    number = 0
    for number, shown in enumerate(stage.shown, start=1):
        say("")
        say(Text.assemble((f"{number}. {shown.dataset}", "bold"), f"  {visible(shown.where)}"))
        for line in _figures(shown, stage):
            say(f"   {line}", "bright_black")
        if shown.problem is not None:
            say(f"   cannot be used: {visible(shown.problem)}", "red")
            continue
        say(rendered(shown.pieces, marks=marks))
        if shown.rejected is not None:
            say(Text.assemble(("   rejected: ", "red"), visible(shown.rejected)))
        for token_line in token_lines(shown.tokens if tokens else (), marks=marks):
            say(token_line)
    if number == 0:
        say("no record: the stage is over before one comes")
    say("")


def _figures(shown: Shown, stage: ShownStage) -> Iterable[str]:
    batch = stage.stage.batch
    yield (
        f"step {shown.step}, micro-batch {shown.micro_batch} of {batch.global_}, "
        f"record {shown.place} of {shown.num_records}, pass {shown.number_of_pass} through the dataset"
    )
    if shown.problem is not None:
        return
    audio = f"{shown.seconds:.2f} s of audio" if shown.audio_tokens else "no audio"
    share = f"{100 * shown.cost / batch.budget:.1f} % of the micro-batch's {batch.budget:g} {batch.unit}"
    if stage.context is not None:
        share = f"{100 * shown.positions / stage.context:.1f} % of the context of {stage.context:,}, {share}"
    yield (
        f"{audio}; {shown.text_tokens:,} text tokens + {shown.audio_tokens:,} audio "
        f"tokens = {shown.positions:,} positions ({share}); {shown.targets:,} targets"
    )


def rendered(pieces: Iterable[ShownTokens], *, marks: bool) -> Text:
    """Return the pieces as one text; `marks` puts what is learnt into brackets, where there is no colour."""
    text = Text("   ")
    for target, group in groupby(pieces, key=lambda piece: piece.target):
        if marks and target:
            text.append(_OPEN)
        for piece in group:
            text.append(_seen(piece).replace("\n", f"{_RETURN}\n   "), _style(piece))
        if marks and target:
            text.append(_CLOSE)
    return text


def token_lines(tokens: Iterable[ShownTokens], *, marks: bool) -> Iterable[Text]:
    """Yield one line for each token: its position, its id, whether it is learnt, and how it is written."""
    for place, token in enumerate(tokens):
        number = "-" if token.kind == "audio" else str(token.ids[0])
        shown = repr(token.text) if token.kind == "text" else _seen(token)
        target, style = "target" if token.target else "", "" if marks else _style(token)
        yield Text.assemble(f"   {place:>5} {number:>7}  {target:<6}  ", (shown, style))


def _seen(piece: ShownTokens) -> str:
    text = visible(piece.text, lines=True)
    return f"{_LEFT}{text}{_RIGHT}" if piece.kind == "audio" else text


def _style(piece: ShownTokens) -> str:
    colour = "yellow" if piece.kind == "audio" else "green" if piece.target else _ROLES[piece.role]
    return f"bold underline {colour}" if piece.target else colour

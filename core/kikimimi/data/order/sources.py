"""What a stage's datasets look like to the plan: what each record costs, and which records fit at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kikimimi.console.words import counted, duration
from kikimimi.contracts.batch import Fault
from kikimimi.data.corpus import Corpus
from kikimimi.data.fault import HOW_TO_SKIP
from kikimimi.data.order.plan import Plan, Source, record_shares
from kikimimi.errors import DataError, RequestError
from kikimimi.model.speech_lm import SpeechLM

if TYPE_CHECKING:
    from kikimimi.recipe import Batching, Mixture, Stage

SECONDS_PER_CHARACTER = 0.08
"""What a character of a record without audio costs of a micro-batch [s]: one audio token at 12.5 Hz."""
RENDERED = 64
"""Records of a dataset that are rendered to learn how many positions a character takes."""
_HUNDREDTHS = 100  # of a second: clips are rounded up to it when their audio tokens are counted


def usable(corpus: Corpus, model: SpeechLM, batch: Batching, *, skip: bool) -> tuple[Corpus, list[Fault]]:
    """Return a dataset with the records that fit the encoder, the LLM's context and a micro-batch.

    Returns:
        The dataset and what is left out.

    Raises:
        DataError: A record does not fit and `skip` is false.
        RequestError: None fits.
    """
    shards, costs = corpus.shards, record_costs(corpus, model, batch)
    limit, context = model.encoder.max_seconds, model.llm.context_length
    budget, unit = batch.budget, batch.unit
    fits = np.ones(len(shards), dtype=bool)
    faults = [Fault(corpus.name, where, reason) for where, reason in shards.rejected]

    def leave_out(
        unfit: NDArray[np.bool_], reason: str, measure: Callable[[int], str], *, asked: bool = False
    ) -> None:
        rows: list[int] = np.flatnonzero(unfit & fits).tolist()
        fits[unfit] = False
        if rows and not skip and not asked:
            raise DataError(
                f"{corpus.name}: {len(rows)} of {len(shards)} records have {reason}, the first is "
                f"{shards.where(rows[0])}: {measure(rows[0])}. Nothing is cut. {HOW_TO_SKIP}"
            )
        faults.extend(Fault(corpus.name, shards.where(row), f"{measure(row)}: {reason}") for row in rows)

    if corpus.max_characters is not None:
        leave_out(
            shards.characters > corpus.max_characters,
            f"more text than data.{corpus.name}.max_characters ({corpus.max_characters})",
            lambda row: counted(int(shards.characters[row]), "character"),
            asked=True,  # what the recipe asks to leave out is no fault
        )
    if limit is not None:
        leave_out(
            shards.longest > limit,
            f"clips longer than the encoder takes ({limit:g} s)",
            lambda row: f"a clip of {shards.longest[row]:.1f} s",
        )
    if batch.tokens is not None and context is not None:
        leave_out(
            audio_tokens(corpus, model) >= context,
            f"more audio tokens than the LLM's context ({context})",
            lambda row: f"up to {costs[row]:.0f} positions",
        )
    leave_out(
        # As the plan sees it: rounded to millionths.
        np.rint(costs.astype(np.float64) * 1e6) > round(budget * 1e6),
        f"more than a micro-batch holds ({budget:g} {unit})",
        lambda row: f"{costs[row]:.1f} {unit}",
    )
    if not fits.any():
        raise RequestError(
            f"{corpus.name}: none of its {len(shards)} records can be used; {faults[-1].reason}"
        )
    if fits.all():
        return corpus, faults
    return replace(corpus, rows=np.flatnonzero(fits).astype(np.int32)), faults


def describe_left_out(corpus: Corpus, faults: list[Fault]) -> str:
    """Return one line about what a dataset loses."""
    shards = corpus.shards
    used = float(shards.seconds[corpus.used].sum(dtype=np.float64))
    lost = float(shards.seconds.sum(dtype=np.float64)) - used
    return (
        f"{corpus.name}: {len(faults)} of {len(shards) + len(shards.rejected)} records left out "
        f"({duration(lost)} of audio that the index knows), {duration(used)} used"
    )


def make_plan(
    corpora: list[Corpus],
    weights: list[float | None],
    model: SpeechLM,
    batch: Batching,
    mixture: Mixture,
    seed: int,
) -> Plan:
    """Plan the order of a stage."""
    sources = []
    for corpus in corpora:
        costs, lengths = record_costs(corpus, model, batch), corpus.shards.longest
        sources.append(Source(corpus.name, costs[corpus.used], lengths[corpus.used], corpus.rows))
    shares = record_shares(
        weights,
        [len(source.costs) for source in sources],
        [float(record_seconds(corpus)[corpus.used].sum(dtype=np.float64)) for corpus in corpora],
        by=mixture.by,
        temperature=mixture.temperature,
    )
    return Plan(sources, budget=batch.budget, seed=seed, shares=shares, bucket=batch.bucket)


def with_steps(stage: Stage, plan: Plan) -> Stage:
    """Return a stage with its length in steps; epochs become the steps that take all their micro-batches."""
    if stage.epochs is None:
        return stage
    micro_batches = sum(plan.num_micro_batches(epoch) for epoch in range(stage.epochs))
    return replace(stage, steps=-(-micro_batches // stage.batch.global_), epochs=None)


def record_costs(corpus: Corpus, model: SpeechLM, batch: Batching) -> NDArray[np.float32]:
    """Return what each record of a dataset takes of a micro-batch [s, or positions of the LLM]."""
    if batch.tokens is None:
        return record_seconds(corpus)
    overhead, slope = _text_positions(corpus, model)
    # In whole thousandths: the same on every machine.
    text = round(overhead * 1000) + round(slope * 1000) * corpus.shards.characters.astype(np.int64)
    return np.maximum(text / 1000 + audio_tokens(corpus, model), 1).astype(np.float32)


def record_seconds(corpus: Corpus) -> NDArray[np.float32]:
    """Return the audio of each record [s]; of one without audio, what its text counts."""
    shards = corpus.shards
    written = np.maximum(shards.characters, 1) * SECONDS_PER_CHARACTER
    return np.where(shards.clips > 0, shards.seconds, written).astype(np.float32)


def audio_tokens(corpus: Corpus, model: SpeechLM) -> NDArray[np.int64]:
    """Return the most audio tokens that each record's clips may become."""
    shards = corpus.shards
    lengths, which = np.unique(np.ceil(shards.clip_seconds * _HUNDREDTHS), return_inverse=True)
    tokens = np.array([_most_tokens(model, length / _HUNDREDTHS) for length in lengths.tolist()], np.int64)
    sums = np.concatenate([[0], np.cumsum(tokens[which])]) if len(lengths) else np.zeros(1, np.int64)
    ends = np.cumsum(shards.clips, dtype=np.int64)
    totals: NDArray[np.int64] = sums[ends] - sums[ends - shards.clips]
    return totals


def _most_tokens(model: SpeechLM, seconds: float) -> int:
    limit = model.encoder.max_seconds
    seconds = seconds if limit is None else min(seconds, limit)
    samples = int(seconds * model.encoder.sample_rate)
    return model.adapter.max_tokens(model.encoder.num_frames(samples))


def _text_positions(corpus: Corpus, model: SpeechLM) -> tuple[Fraction, Fraction]:
    """Return how many positions a record's text takes: at least, and more for each character.

    A line through two halves of a sample: the shorter and the longer texts.
    """
    shards = corpus.shards
    rows = np.unique(np.linspace(0, len(shards) - 1, RENDERED).astype(np.int64)).tolist()
    seen: list[tuple[int, int]] = []
    for row in rows:
        try:
            conversation = corpus.conversation(shards.read(row))
            rendered = model.llm.render(conversation)
        except (DataError, ValueError):
            continue  # found again, and judged, when it is its turn
        seen.append((int(shards.characters[row]), len(rendered.ids) - len(rendered.slots)))
    if not seen:
        raise DataError(f"{corpus.name}: none of {len(rows)} records that were tried can be rendered")
    seen.sort()
    short, long = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    characters, positions = (Fraction(sum(column), len(seen)) for column in zip(*seen, strict=True))
    slope = Fraction(0)
    if short:
        low, high = (
            [Fraction(sum(column), len(half)) for column in zip(*half, strict=True)] for half in (short, long)
        )
        if high[0] > low[0]:
            slope = max((high[1] - low[1]) / (high[0] - low[0]), Fraction(0))
    return max(positions - slope * characters, Fraction(0)), slope

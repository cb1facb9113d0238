"""Evaluating a run: its model and the baselines on the same clips, scored with the same normaliser."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from kikimimi.console.progress import Progress
from kikimimi.console.terminal import say
from kikimimi.console.words import listing, nearest
from kikimimi.contracts.answer import Answer
from kikimimi.contracts.conversation import Conversation
from kikimimi.contracts.metric import Score, open_metric
from kikimimi.data.order.sources import record_seconds
from kikimimi.errors import DamagedError, DataError, RequestError, RunError
from kikimimi.evaluation.asked import AskedEvaluation
from kikimimi.evaluation.long_clips import LongClips, joined
from kikimimi.evaluation.other_runs import answered_elsewhere
from kikimimi.evaluation.predictions import Predictions, held_identity
from kikimimi.evaluation.recognising import with_baseline, with_transcripts
from kikimimi.evaluation.record import (
    RECORD,
    RECORD_REMEDY,
)
from kikimimi.evaluation.score import SCORES_REMEDY
from kikimimi.evaluation.scoring import scored_before, write_scores
from kikimimi.evaluation.similarity import read_similarities, similarities, write_similarities
from kikimimi.files.reading import file_there
from kikimimi.files.writing import check_target
from kikimimi.inference.engine import Engine, Prompt
from kikimimi.inference.load import load_model
from kikimimi.inference.ranks import LeadingEngine, Ranks
from kikimimi.recipe.cross import own_name_taken
from kikimimi.run.folder import RunFolder
from kikimimi.run.loggers import log_evaluation

if TYPE_CHECKING:
    from kikimimi.model.speech_lm import SpeechLM


def evaluate(
    run: RunFolder, names: Sequence[str] = (), ranks: Ranks | None = None
) -> dict[str, dict[str, Score]]:
    """Run evaluations of a trained run; what an interrupted call finished is not done again.

    Predictions depend on the weights, the data, the task, and on how is generated; where only metric or
    normaliser differ from an earlier call, what was predicted then is scored.

    Args:
        run: The run.
        names: Evaluations of its recipe; none means all.
        ranks: Ranks that hold the model in pieces; None is this process, which holds it whole.

    Returns:
        The score of each evaluation and system: of the stages that were scored when they ended, of the
        run under its recipe's name, then of the baselines.

    Raises:
        RequestError: No such evaluation, its data or weights are missing, or its metric does not take its
            references.
        DataError: A record cannot be used.
    """
    names = _wanted(run, names)
    model = _Model(run, None, ranks)
    if run.is_locked():
        say(f"{run.path} is being trained: scored is what it has reached, {model.weights}", error=True)
    scores: dict[str, dict[str, Score]] = {}
    for name in names:
        run.require_folder(run.evaluation(name))
        for file, remedy in (("scores.json", SCORES_REMEDY), (RECORD, RECORD_REMEDY)):
            file_there(run.evaluation(name) / file, remedy)
            check_target(run.evaluation(name) / file)
    with run.evaluating():
        for asked in _open_all(run, names):
            scores[asked.name] = _evaluate(run, asked, model)
    trained = RunFolder.read_recipe(run.path).evaluate
    own = {name: scores[name][run.recipe.name] for name in names}
    # Gates and curves go by the recipe's own settings.
    own = {name: score for name, score in own.items() if trained.get(name) == run.recipe.evaluate[name]}
    log_evaluation(run, {f"{score.metric}/{name}": score.value for name, score in own.items()})
    return scores


def _open_all(run: RunFolder, names: Sequence[str]) -> list[AskedEvaluation]:
    """Open evaluations: what is missing or damaged is told before the work."""
    opened = [AskedEvaluation.open(run, name) for name in names]
    for asked in opened:
        scored_before(asked)
    return opened


def _evaluate(run: RunFolder, asked: AskedEvaluation, model: _Model) -> dict[str, Score]:
    name = run.recipe.name
    identity = asked.identity(model.weights)
    own = asked.predictions(name, identity)
    own.copy(asked.predictions(stage_system(run, model.stage), identity, begin=False))
    _own(asked, own, f"{asked.name}: {name}", model)
    systems = {name: own}
    for baseline, chosen in asked.evaluation.baselines.items():
        unchanging = asked.baseline_identity(chosen)
        systems[baseline] = asked.predictions(baseline, unchanging)
        if not systems[baseline].texts and (other := answered_elsewhere(run, asked, baseline, unchanging)):
            say(f"{asked.name}: {baseline}: taken from {other.path}, with the same weights and data")
            systems[baseline].copy(other)
        if asked.missing(systems[baseline]):
            answer = with_baseline(f"evaluate.{asked.name}.baselines.{baseline}", chosen, asked)
            _predict(asked, systems[baseline], f"{asked.name}: {baseline}", answer)
    for cascade, chosen in asked.evaluation.cascades.items():
        where = f"evaluate.{asked.name}.cascades.{cascade}"
        heard = asked.identity(model.weights, heard_by=asked.baseline_identity(chosen)["weights"])
        systems[cascade] = asked.predictions(cascade, heard)
        if asked.missing(systems[cascade]):
            engine = model.open(asked.precision)
            answer = _in_writing(engine, asked, with_transcripts(where, chosen, asked))
            _predict(asked, systems[cascade], f"{asked.name}: {cascade}", answer, engine.shares)
    if asked.evaluation.written:
        system = written_system(run)
        systems[system] = asked.predictions(system, asked.identity(model.weights, heard_by="nobody"))
        if asked.missing(systems[system]):
            engine = model.open(asked.precision)
            answer = _in_writing(engine, asked, _as_written(asked))
            _predict(asked, systems[system], f"{asked.name}: {system}", answer, engine.shares)
    scores = write_scores(run, asked, {**_of_stages(run, asked), **systems}, _order(run, asked))
    _look(asked, model, name)
    return scores


def _of_stages(run: RunFolder, asked: AskedEvaluation) -> dict[str, Predictions]:
    """Return what stages said when they ended, where that was generated as it is now asked for."""
    found = {}
    for stage in run.recipe.stages:
        path = asked.folder / f"{stage_system(run, stage)}.jsonl"
        held = held_identity(path)
        if isinstance(held, dict) and held == asked.identity(held["weights"]):
            predictions = asked.predictions(stage_system(run, stage), held, begin=False)
            if not asked.missing(predictions):
                found[stage_system(run, stage)] = predictions
    return found


def evaluate_stage(
    run: RunFolder, stage: str, names: Sequence[str], ranks: Ranks | None = None
) -> dict[str, Score]:
    """Run evaluations with what a stage left; what an interrupted call finished is not done again.

    Args:
        run: The run.
        stage: The stage.
        names: Evaluations of the run's recipe.
        ranks: Ranks that hold the model in pieces; None is this process, which holds it whole.

    Returns:
        The stage's score in each evaluation; it stands beside the others as ``RECIPE@STAGE``.

    Raises:
        RequestError: No such evaluation, its data or weights are missing, or its metric does not take its
            references.
        DataError: A record cannot be used.
    """
    system, model = stage_system(run, stage), _Model(run, stage, ranks)
    scores = {}
    with run.evaluating(wait=True):
        for asked in _open_all(run, _wanted(run, names)):
            own = asked.predictions(system, asked.identity(model.weights))
            _own(asked, own, f"{asked.name}: {system}", model)
            scores[asked.name] = write_scores(run, asked, {system: own}, _order(run, asked))[system]
            _look(asked, model, system)
    return scores


def stage_system(run: RunFolder, stage: str) -> str:
    """Return what scores call the run as a stage left it."""
    return f"{run.recipe.name}@{stage}"


def written_system(run: RunFolder) -> str:
    """Return what scores call the run's LLM where it is asked in writing."""
    return f"{run.recipe.name}+written"


def _order(run: RunFolder, asked: AskedEvaluation) -> list[str]:
    """Return the names of all systems of an evaluation, in the order of tables."""
    stages = [stage_system(run, stage) for stage in run.recipe.stages]
    others = [*asked.evaluation.cascades, *asked.evaluation.baselines]
    return [*stages, run.recipe.name, written_system(run), *others]


def _wanted(run: RunFolder, names: Sequence[str]) -> list[str]:
    wanted = run.recipe.evaluate
    if not wanted:
        raise RequestError(f"{run.path}: its recipe has no evaluation (section 'evaluate')")
    names = list(dict.fromkeys(names or wanted))
    for name in names:
        if name not in wanted:
            raise RequestError(
                f"the recipe has no evaluation '{name}'.{nearest(name, wanted)} "
                f"Evaluations: {listing(wanted)}"
            )
        if problem := own_name_taken(run.recipe.name, wanted[name]):
            raise RequestError(f"evaluate.{name}.{problem}")
        metric = wanted[name].metric
        open_metric(metric.name, wanted[name].normaliser, metric.config)  # an error comes before the work
    return names


class _Model:
    """A run's model, loaded when a prediction is missing.

    Attributes:
        stage: The stage whose weights it has.
        weights: What tells them from others.
        loaded: The model, once it is.
    """

    def __init__(self, run: RunFolder, stage: str | None, ranks: Ranks | None) -> None:
        self._run, self._ranks = run, ranks
        self.stage, self._file = run.newest_weights(stage)
        self.weights = run.identity_of(self._file)
        self.loaded: SpeechLM | None = None

    def open(self, precision: str) -> Engine:
        """Return what answers with it."""
        if self.loaded is None:
            if not self._file.exists():
                raise RunError(
                    f"{self._file} is gone: the run is being trained, and has newer checkpoints. Run the "
                    "same command again"
                )
            load = partial(load_model, self._run) if self._ranks is None else self._ranks.load
            self.loaded = load(self.stage, self._file)
        seed = self._run.recipe.seed
        if self._ranks is not None:
            return LeadingEngine(self._ranks, self.loaded, precision=precision, seed=seed)
        cpu = torch.device("cpu") if self._run.recipe.trainer.accelerator == "cpu" else None
        return Engine(self.loaded, cpu, precision=precision, seed=seed)


def _own(asked: AskedEvaluation, own: Predictions, title: str, model: _Model) -> None:
    if asked.missing(own):
        engine = model.open(asked.precision)
        _predict(asked, own, title, _with_engine(engine, asked), engine.shares)


def _look(asked: AskedEvaluation, model: _Model, system: str) -> None:
    """Keep how similar audio tokens and words are, where the model is at hand and that is not known yet."""
    identity = f"{model.weights} {asked.corpus.shards.digest}"
    try:
        held, _, _ = read_similarities(asked.folder)
    except DamagedError as error:
        held = ""
        say(error, error=True)
    if model.loaded is not None and held != identity:
        found = similarities(model.open(asked.precision), asked.corpus, asked.recipe.seed)
        write_similarities(asked.folder, identity, system, found)


def _batches(costs: NDArray[np.float32], limit: float, rows: list[int]) -> Iterator[list[int]]:
    """Cut rows into batches of similar cost, the dearest first."""
    batch: list[int] = []
    for row in sorted(rows, key=lambda row: -float(costs[row])):
        if batch and float(costs[batch[0]]) * (len(batch) + 1) > limit:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _predict(
    asked: AskedEvaluation,
    predictions: Predictions,
    title: str,
    answer: Callable[[list[int]], Sequence[str]],
    shares: int = 1,
) -> None:
    """Answer the rows that are missing, in batches of which each rank that shares them gets its part."""
    missing = asked.missing(predictions)
    costs, limit = record_seconds(asked.corpus), asked.evaluation.batch_seconds * shares
    with Progress(title, len(asked.keys), "clips", done=len(asked.keys) - len(missing)) as bar:
        for rows in _batches(costs, limit, missing):
            start = time.monotonic()
            texts = answer(rows)
            seconds = time.monotonic() - start
            keys = [asked.keys[row] for row in rows]
            predictions.add(keys, texts, [asked.references[row] for row in rows], seconds)
            bar.advance(len(rows))


def _with_engine(engine: Engine, asked: AskedEvaluation) -> Callable[[list[int]], Sequence[str]]:
    corpus, generation = asked.corpus, asked.evaluation.generate
    long_clips = LongClips(corpus, asked.evaluation, engine.max_seconds, "the encoder")

    def prompts(row: int) -> list[Prompt]:
        record = corpus.shards.read(row)
        conversation = corpus.conversation(record).prompt()
        clips = corpus.waveforms(record, conversation.clips(), engine.sample_rate)
        if len(clips) != 1:
            return [Prompt(record.where, conversation, clips)]
        pieces = long_clips.pieces(clips[0].numpy(), engine.sample_rate)
        return [Prompt(record.where, conversation, [torch.from_numpy(piece)]) for piece in pieces]

    def answer(rows: list[int]) -> list[Answer]:
        asking = [(number, prompt) for number, row in enumerate(rows) for prompt in prompts(row)]
        said = engine.answer([prompt for _, prompt in asking], generation, len(rows))
        return joined(said, [number for number, _ in asking], len(rows))

    return answer


def _in_writing(
    engine: Engine, asked: AskedEvaluation, write: Callable[[list[int]], Sequence[Conversation]]
) -> Callable[[list[int]], Sequence[str]]:
    """Return what asks the model in writing."""

    def answer(rows: list[int]) -> list[Answer]:
        names = [asked.corpus.shards.read(row).where for row in rows]
        prompts = [Prompt(*of, clips=[]) for of in zip(names, write(rows), strict=True)]
        return engine.answer(prompts, asked.evaluation.generate, len(rows))

    return answer


def _as_written(asked: AskedEvaluation) -> Callable[[list[int]], Sequence[Conversation]]:
    """Return what writes rows down in the words that the data has of the clips."""

    def write(rows: list[int]) -> list[Conversation]:
        prompts = []
        for row in rows:
            record = asked.corpus.shards.read(row)
            try:
                prompts.append(asked.corpus.conversation(record).prompt().written())
            except ValueError as error:
                raise DataError(f"{record.where}: it cannot be asked in writing: {error}") from error
        return prompts

    return write

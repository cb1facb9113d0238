"""Evaluating a run: its model and the baselines on the same clips, scored with the same normaliser."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from kikimimi.console.progress import Progress
from kikimimi.console.terminal import say
from kikimimi.console.words import listing, nearest
from kikimimi.contracts.answer import Answer
from kikimimi.contracts.conversation import AudioPart, Conversation
from kikimimi.contracts.metric import Score, open_metric
from kikimimi.data.audio import MAX_CLIP_SECONDS, decode
from kikimimi.data.corpus import Corpus
from kikimimi.data.order.sources import record_seconds
from kikimimi.data.shards.record import named
from kikimimi.errors import DamagedError, DataError, KikimimiError, RequestError, RunError
from kikimimi.evaluation.long_clips import LongClips, joined
from kikimimi.evaluation.predictions import Identity, Predictions, held_identity, row_keys
from kikimimi.evaluation.record import (
    RECORD,
    ScoredSystem,
    find_scoring,
    keep_scoring,
    read_scorings,
    values_of,
)
from kikimimi.evaluation.score import read_scores, score
from kikimimi.evaluation.similarity import read_similarities, similarities, write_similarities
from kikimimi.files.writing import check_target
from kikimimi.inference.engine import Engine, Prompt
from kikimimi.inference.load import load_model
from kikimimi.inference.ranks import LeadingEngine, Ranks
from kikimimi.recipe.cross import own_name_taken
from kikimimi.recipe.show import plain
from kikimimi.run.folder import RunFolder
from kikimimi.run.loggers import log_evaluation

if TYPE_CHECKING:
    from kikimimi.contracts.recogniser import Recogniser
    from kikimimi.model.speech_lm import SpeechLM
    from kikimimi.recipe import Chosen, Evaluation, Recipe


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
        for file in ("scores.json", RECORD):
            check_target(run.evaluation(name) / file)
    with run.evaluating():
        for asked in [_Asked.open(run, name) for name in names]:  # what is missing is told before the work
            scores[asked.name] = _evaluate(run, asked, model)
    trained = RunFolder.read_recipe(run.path).evaluate
    own = {name: scores[name][run.recipe.name] for name in names}
    # Gates and curves go by the recipe's own settings.
    own = {name: score for name, score in own.items() if trained.get(name) == run.recipe.evaluate[name]}
    log_evaluation(run, {f"{score.metric}/{name}": score.value for name, score in own.items()})
    return scores


def _evaluate(run: RunFolder, asked: _Asked, model: _Model) -> dict[str, Score]:
    name = run.recipe.name
    identity = asked.identity(model.weights)
    own = asked.predictions(name, identity)
    own.copy(asked.predictions(stage_system(run, model.stage), identity, begin=False))
    _own(asked, own, f"{asked.name}: {name}", model)
    systems = {name: own}
    for baseline, chosen in asked.evaluation.baselines.items():
        systems[baseline] = asked.predictions(baseline, asked.baseline_identity(chosen))
        if asked.missing(systems[baseline]):
            answer = _with_baseline(f"evaluate.{asked.name}.baselines.{baseline}", chosen, asked)
            _predict(asked, systems[baseline], f"{asked.name}: {baseline}", answer)
    scores = _write_scores(run, asked, {**_of_stages(run, asked), **systems})
    _look(asked, model, name)
    return scores


def _of_stages(run: RunFolder, asked: _Asked) -> dict[str, Predictions]:
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
        for asked in [_Asked.open(run, name) for name in _wanted(run, names)]:
            own = asked.predictions(system, asked.identity(model.weights))
            _own(asked, own, f"{asked.name}: {system}", model)
            scores[asked.name] = _write_scores(run, asked, {system: own})[system]
            _look(asked, model, system)
    return scores


def stage_system(run: RunFolder, stage: str) -> str:
    """Return what scores call the run as a stage left it."""
    return f"{run.recipe.name}@{stage}"


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


@dataclass(frozen=True)
class _Asked:
    """An evaluation that is to be run.

    Attributes:
        name: Its name.
        evaluation: Its settings.
        recipe: The recipe that it is of.
        folder: Where its predictions go.
        corpus: The data.
        keys: What predictions call each row.
        references: What is right in each row.
    """

    name: str
    evaluation: Evaluation
    recipe: Recipe
    folder: Path
    corpus: Corpus
    keys: list[str]
    references: list[str]

    @classmethod
    def open(cls, run: RunFolder, name: str) -> _Asked:
        evaluation = run.recipe.evaluate[name]
        corpus = Corpus.open(name, evaluation)
        references = [_reference(corpus, row) for row in range(len(corpus.shards))]
        asked = cls(name, evaluation, run.recipe, run.evaluation(name), corpus, row_keys(corpus), references)
        with _told_of(f"evaluate.{name}"):
            asked.score(references)  # what the metric cannot take is told before the work
        _scored_before(asked)  # and so is a record that is damaged
        return asked

    @property
    def precision(self) -> str:
        return self.recipe.precision_of(self.evaluation)

    def identity(self, weights: str) -> dict[str, Any]:
        """Return what the predictions of a model depend on."""
        generate = self.evaluation.generate
        drawn = {"seed": self.recipe.seed} if generate.temperature > 0 else {}
        said = {"generate": plain(generate), "precision": self.precision, **drawn}
        return {"weights": weights, **self._of_data(), **said}

    def baseline_identity(self, chosen: Chosen) -> dict[str, Any]:
        """Return what the predictions of a baseline depend on."""
        return {"weights": f"{chosen.name} {chosen.component.identity(chosen.config)}", **self._of_data()}

    def _of_data(self) -> dict[str, Any]:
        return {"data": self.corpus.shards.digest, "task": plain(self.evaluation.task)}

    def predictions(self, system: str, identity: Identity, *, begin: bool = True) -> Predictions:
        """Return what a system said of these rows, and no others."""
        return Predictions(self.folder / f"{system}.jsonl", identity, self.keys, begin=begin)

    def missing(self, predictions: Predictions) -> list[int]:
        """Return the rows that a system has not answered yet."""
        return [row for row, key in enumerate(self.keys) if key not in predictions.texts]

    def score(self, texts: Sequence[str]) -> Score:
        """Score answers, one for each row.

        White space at the ends is nobody's word: it goes from both sides, whichever system wrote it.
        """
        metric = self.evaluation.metric
        return score(
            [reference.strip() for reference in self.references],
            [text.stripped if isinstance(text, Answer) else text.strip() for text in texts],
            metric=metric.name,
            normaliser=self.evaluation.normaliser,
            config=metric.config,
        )


def _reference(corpus: Corpus, row: int) -> str:
    return corpus.conversation(corpus.shards.read(row)).reference()


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


def _own(asked: _Asked, own: Predictions, title: str, model: _Model) -> None:
    if asked.missing(own):
        _predict(asked, own, title, _with_engine(model.open(asked.precision), asked))


def _look(asked: _Asked, model: _Model, system: str) -> None:
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


def _write_scores(run: RunFolder, asked: _Asked, systems: dict[str, Predictions]) -> dict[str, Score]:
    """Score systems, and write them beside those that were scored before; return all that still stand."""
    found = {name: asked.score([one.texts[key] for key in asked.keys]) for name, one in systems.items()}
    written: dict[str, ScoredSystem] = {
        name: {
            "predictions": systems[name].identity,
            "score": {**one.to_json(), "seconds": round(systems[name].seconds, 3)},
        }
        for name, one in found.items()
    }
    written = _scored_before(asked) | written
    stages = [stage_system(run, stage) for stage in run.recipe.stages]
    order = [*stages, run.recipe.name, *asked.evaluation.baselines]
    written = {system: written[system] for system in order if system in written}
    _tell_of_scores(asked.folder)
    keep_scoring(asked.folder, asked.evaluation, asked.corpus.shards.digest, written)
    values = {system: one["score"] for system, one in written.items()}
    run.write_json(f"evaluations/{asked.name}/scores.json", values)
    return {system: found.get(system) or Score.from_json(of) for system, of in values.items()}


def _tell_of_scores(folder: Path) -> None:
    """Say what is wrong with scores that are about to be written again from their record."""
    path = folder / "scores.json"
    try:
        held, record = read_scores(path), read_scorings(folder)
    except DamagedError as error:
        say(f"{error}, now", error=True)
        return
    if held and record and held not in [values_of(scoring) for scoring in record]:
        say(f"{path} is not what {RECORD} says: it is written again", error=True)


def _scored_before(asked: _Asked) -> dict[str, ScoredSystem]:
    """Return what the same settings gave before, also in a version that kept no record."""
    record = read_scorings(asked.folder)
    scoring = find_scoring(record, asked.evaluation, asked.corpus.shards.digest)
    if scoring is not None:
        return scoring["systems"]
    scores = {} if record else read_scores(asked.folder / "scores.json")
    wanted = (asked.evaluation.metric.name, asked.evaluation.normaliser)
    return {
        system: {"predictions": "", "score": values}
        for system, values in scores.items()
        if (values["metric"], values["normaliser"]) == wanted
    }


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
    asked: _Asked, predictions: Predictions, title: str, answer: Callable[[list[int]], Sequence[str]]
) -> None:
    missing = asked.missing(predictions)
    costs, limit = record_seconds(asked.corpus), asked.evaluation.batch_seconds
    with Progress(title, len(asked.keys), "clips", done=len(asked.keys) - len(missing)) as bar:
        for rows in _batches(costs, limit, missing):
            start = time.monotonic()
            texts = answer(rows)
            seconds = time.monotonic() - start
            keys = [asked.keys[row] for row in rows]
            predictions.add(keys, texts, [asked.references[row] for row in rows], seconds)
            bar.advance(len(rows))


def _with_engine(engine: Engine, asked: _Asked) -> Callable[[list[int]], Sequence[str]]:
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


def _with_baseline(where: str, chosen: Chosen, asked: _Asked) -> Callable[[list[int]], Sequence[str]]:
    corpus = asked.corpus
    source = getattr(chosen.config, "weights", None)
    say(f"loading {chosen.name}{f' ({source})' if source else ''}", error=True)
    with _blamed_on(where):
        recogniser: Recogniser = chosen.component(chosen.config)
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
            clips[row] = decode(
                record.audio[names[0]],
                sample_rate=recogniser.sample_rate,
                name=f"{record.where} {names[0]}",
                max_seconds=MAX_CLIP_SECONDS,
            )
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


def _unspoken(prompt: Conversation) -> Conversation:
    """Return a prompt as a system may see it: without what is said in its clips, and what else is known."""
    turns = (
        replace(turn, parts=tuple(AudioPart(p.audio) if isinstance(p, AudioPart) else p for p in turn.parts))
        for turn in prompt.messages
    )
    return Conversation(tuple(turns))


@contextmanager
def _told_of(where: str) -> Iterator[None]:
    """Say before what is wrong with an evaluation which one it is."""
    try:
        yield
    except RequestError as error:
        raise RequestError(f"{where}: {error}") from error


@contextmanager
def _blamed_on(where: str) -> Iterator[None]:
    """Turn the ValueErrors of a recogniser, for settings and languages that do not fit, into the user's."""
    try:
        yield
    except ValueError as error:
        if isinstance(error, KikimimiError):
            raise
        raise RequestError(f"{where}: {error}") from error

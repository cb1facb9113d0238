"""Evaluating a run: its model and the baselines on the same clips, scored with the same normaliser."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kikimimi.console.progress import Progress
from kikimimi.console.terminal import say
from kikimimi.console.words import listing, nearest
from kikimimi.contracts.metric import Score, open_metric
from kikimimi.data.audio import MAX_CLIP_SECONDS, decode
from kikimimi.data.corpus import Corpus
from kikimimi.data.shards.record import named
from kikimimi.errors import DamagedError, DataError, KikimimiError, RequestError
from kikimimi.evaluation.predictions import Predictions, row_keys
from kikimimi.evaluation.score import read_scores, score
from kikimimi.evaluation.similarity import read_similarities, similarities, write_similarities
from kikimimi.files.writing import check_target
from kikimimi.inference.engine import Engine, Prompt
from kikimimi.inference.load import load_model
from kikimimi.run.folder import RunFolder
from kikimimi.run.loggers import log_evaluation

if TYPE_CHECKING:
    from kikimimi.contracts.recogniser import Recogniser
    from kikimimi.recipe import Chosen, Evaluation


def evaluate(run: RunFolder, names: Sequence[str] = ()) -> dict[str, dict[str, Score]]:
    """Run evaluations of a trained run; what an interrupted call finished is not done again.

    Returns:
        The score of each evaluation and system: of the stages that were scored when they ended, of the
        run under its recipe's name, then of the baselines.

    Raises:
        RequestError: No such evaluation, or its data or weights are missing.
        DataError: A record cannot be used.
    """
    names = _wanted(run, names)
    last, _ = run.newest_weights()
    model = _Model(run, None)
    scores: dict[str, dict[str, Score]] = {}
    for name in names:
        check_target(run.evaluation(name) / "scores.json")
    for name in names:
        evaluation, folder = run.recipe.evaluate[name], run.evaluation(name)
        corpus = Corpus.open(name, evaluation)
        identity = f"{run.weights_identity()} {corpus.shards.digest}"
        own = Predictions(folder / f"{run.recipe.name}.jsonl", identity)
        own.copy(Predictions(folder / f"{stage_system(run, last)}.jsonl", identity, begin=False))
        _own(corpus, evaluation, own, f"{name}: {run.recipe.name}", model)
        systems = {run.recipe.name: own}
        for baseline, chosen in evaluation.baselines.items():
            identity = f"{chosen.name} {chosen.component.identity(chosen.config)} {corpus.shards.digest}"
            systems[baseline] = Predictions(folder / f"{baseline}.jsonl", identity)
            if len(systems[baseline].texts) < len(corpus.shards):
                answer = _with_baseline(f"evaluate.{name}.baselines.{baseline}", chosen, corpus)
                _predict(corpus, evaluation, systems[baseline], f"{name}: {baseline}", answer)
        scores[name] = _write_scores(run, name, corpus, systems)
        _look(run, name, corpus, model, run.recipe.name)
    own_scores = {name: systems[run.recipe.name] for name, systems in scores.items()}
    log_evaluation(run, {f"{score.metric}/{name}": score.value for name, score in own_scores.items()})
    return scores


def evaluate_stage(run: RunFolder, stage: str, names: Sequence[str]) -> dict[str, Score]:
    """Run evaluations with what a stage left; what an interrupted call finished is not done again.

    Returns:
        The stage's score in each evaluation; it stands beside the others as ``RECIPE@STAGE``.

    Raises:
        RequestError: No such evaluation, or its data or weights are missing.
        DataError: A record cannot be used.
    """
    system, model = stage_system(run, stage), _Model(run, stage)
    scores = {}
    for name in _wanted(run, names):
        evaluation = run.recipe.evaluate[name]
        corpus = Corpus.open(name, evaluation)
        identity = f"{run.weights_identity(stage)} {corpus.shards.digest}"
        own = Predictions(run.evaluation(name) / f"{system}.jsonl", identity)
        _own(corpus, evaluation, own, f"{name}: {system}", model)
        scores[name] = _write_scores(run, name, corpus, {system: own})[system]
        _look(run, name, corpus, model, system)
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
        if run.recipe.name in wanted[name].baselines:
            raise RequestError(
                f"evaluate.{name}.baselines.{run.recipe.name}: has the name of the recipe itself, under "
                "which the run's own score stands. Call it something else"
            )
        metric = wanted[name].metric
        open_metric(metric.name, wanted[name].normaliser, metric.config)  # an error comes before the work
    return names


class _Model:
    """A run's model, loaded when a prediction is missing."""

    def __init__(self, run: RunFolder, stage: str | None) -> None:
        self._run, self._stage = run, stage
        self.weights = run.weights_identity(stage)
        self.engine: Engine | None = None

    def open(self) -> Engine:
        if self.engine is None:
            self.engine = Engine(load_model(self._run, self._stage))
        return self.engine


def _own(corpus: Corpus, evaluation: Evaluation, own: Predictions, title: str, model: _Model) -> None:
    if len(own.texts) < len(corpus.shards):
        _predict(corpus, evaluation, own, title, _with_engine(model.open(), corpus, evaluation))


def _look(run: RunFolder, name: str, corpus: Corpus, model: _Model, system: str) -> None:
    """Keep how similar audio tokens and words are, where the model is at hand and that is not known yet."""
    folder, identity = run.evaluation(name), f"{model.weights} {corpus.shards.digest}"
    try:
        held, _, _ = read_similarities(folder)
    except DamagedError as error:
        held = ""
        say(error, error=True)
    if model.engine is not None and held != identity:
        found = similarities(model.engine, corpus, run.recipe.seed)
        write_similarities(folder, identity, system, found)


def _write_scores(
    run: RunFolder, name: str, corpus: Corpus, systems: dict[str, Predictions]
) -> dict[str, Score]:
    """Score systems, and write them beside those that were scored before; return all that still stand."""
    evaluation, keys = run.recipe.evaluate[name], row_keys(corpus)
    # White space at the ends is nobody's word: it goes from both sides, whichever system wrote it.
    references = [_reference(corpus, row).strip() for row in range(len(corpus.shards))]
    found = {
        system: score(
            references,
            [predictions.texts[key].stripped for key in keys],
            metric=evaluation.metric.name,
            normaliser=evaluation.normaliser,
            config=evaluation.metric.config,
        )
        for system, predictions in systems.items()
    }
    file = f"evaluations/{name}/scores.json"
    written = read_scores(run.path / file)
    written |= {
        system: {**found[system].to_json(), "seconds": round(predictions.seconds, 3)}
        for system, predictions in systems.items()
    }
    stages = [stage_system(run, stage) for stage in run.recipe.stages]
    order = [*stages, run.recipe.name, *evaluation.baselines]
    written = {system: written[system] for system in order if system in written}
    run.write_json(file, written)
    return {system: found.get(system) or Score.from_json(values) for system, values in written.items()}


def _reference(corpus: Corpus, row: int) -> str:
    return corpus.conversation(corpus.shards.read(row)).reference()


def _batches(corpus: Corpus, evaluation: Evaluation, rows: list[int]) -> Iterator[list[int]]:
    """Cut rows into batches of similar length, the longest first."""
    rows.sort(key=lambda row: -float(corpus.shards.seconds[row]))
    batch: list[int] = []
    for row in rows:
        longest = float(corpus.shards.seconds[batch[0]]) if batch else 0.0
        if batch and longest * (len(batch) + 1) > evaluation.batch_seconds:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _predict(
    corpus: Corpus,
    evaluation: Evaluation,
    predictions: Predictions,
    title: str,
    answer: Callable[[list[int]], Sequence[str]],
) -> None:
    names = row_keys(corpus)
    missing = [row for row, key in enumerate(names) if key not in predictions.texts]
    with Progress(title, len(names), "clips", done=len(names) - len(missing)) as bar:
        for rows in _batches(corpus, evaluation, missing):
            start = time.monotonic()
            texts = answer(rows)
            seconds = time.monotonic() - start
            keys = [names[row] for row in rows]
            predictions.add(keys, texts, [_reference(corpus, row) for row in rows], seconds)
            bar.advance(len(rows))


def _with_engine(
    engine: Engine, corpus: Corpus, evaluation: Evaluation
) -> Callable[[list[int]], Sequence[str]]:
    _check_lengths(corpus, engine.max_seconds, "the encoder")

    def prompt(row: int) -> Prompt:
        record = corpus.shards.read(row)
        conversation = corpus.conversation(record).prompt()
        clips = corpus.waveforms(record, conversation.clips(), engine.sample_rate)
        return Prompt(record.where, conversation, clips)

    return lambda rows: engine.answer([prompt(row) for row in rows], evaluation.generate, len(rows))


def _check_lengths(corpus: Corpus, limit: float | None, who: str) -> None:
    longest = corpus.shards.longest
    too_long = [] if limit is None else [row for row in range(len(longest)) if longest[row] > limit]
    if too_long:
        raise DataError(
            f"{corpus.name}: {len(too_long)} of {len(longest)} records hold a clip longer than {who} takes "
            f"({limit:g} s), the first is {corpus.shards.where(too_long[0])} ({longest[too_long[0]]:.1f} s). "
            "Nothing is cut; pack the data without them"
        )


def _with_baseline(where: str, chosen: Chosen, corpus: Corpus) -> Callable[[list[int]], Sequence[str]]:
    source = getattr(chosen.config, "weights", None)
    say(f"loading {chosen.name}{f' ({source})' if source else ''}", error=True)
    with _blamed_on(where):
        recogniser: Recogniser = chosen.component(chosen.config)
    _check_lengths(corpus, recogniser.max_seconds, where)

    def answer(rows: list[int]) -> list[str]:
        texts: dict[int, str] = {}
        by_language: dict[str | None, list[int]] = {}
        clips = {}
        for row in rows:
            record = corpus.shards.read(row)
            names = corpus.conversation(record).clips()
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
            with _blamed_on(where):
                heard = recogniser.transcribe([clips[row] for row in group], language)
            texts.update(zip(group, heard, strict=True))
        return [texts[row] for row in rows]

    return answer


@contextmanager
def _blamed_on(where: str) -> Iterator[None]:
    """Turn the ValueErrors of a recogniser, for settings and languages that do not fit, into the user's."""
    try:
        yield
    except ValueError as error:
        if isinstance(error, KikimimiError):
            raise
        raise RequestError(f"{where}: {error}") from error

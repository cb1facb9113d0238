"""Training a run: every stage of its recipe that is not done yet."""

from pathlib import Path

import pytorch_lightning as pl

from kikimimi.console.words import listing, nearest
from kikimimi.data.corpus import Corpus, all_texts, training_corpora
from kikimimi.data.order.readers import lost_readers_told
from kikimimi.errors import RecipeError, RunError
from kikimimi.files.hashes import UNVERIFIED
from kikimimi.model.assembly import assemble
from kikimimi.model.speech_lm import SpeechLM
from kikimimi.model.trainable import check_sources, require_stored
from kikimimi.run.folder import RunFolder
from kikimimi.run.lock import keep_lock, told_options
from kikimimi.run.lock_file import LOCK
from kikimimi.run.loggers import check_loggers
from kikimimi.run.made_with import MadeWith, tell_difference
from kikimimi.run.rank import global_rank, say_once
from kikimimi.training.fit import run_stage
from kikimimi.training.launcher import check_launcher
from kikimimi.training.parallel.lost_rank import lost_ranks_told
from kikimimi.training.stage import load_start
from kikimimi.training.stage_guards import pass_guards
from kikimimi.training.stage_scores import score_stage
from kikimimi.training.stop import stopping


def train(
    run: RunFolder, stage: str | None = None, *, recipe_file: Path | None = None, locked: bool = False
) -> None:
    """Train what is missing of a run; a finished stage is not run again.

    Args:
        run: The run folder; the same call goes on after an interruption.
        stage: Only this stage, whatever gates before it say.
        recipe_file: Where its recipe was read from; the lock tells that file's commit.
        locked: Refuse to go on where anything has changed since it began.

    Raises:
        RequestError: Data, plugins or weights that the recipe names are missing or do not fit, the launcher
            started other ranks than it asks for, there is no such stage or the one that it starts from is not
            finished, or another process is training this run.
        DriftError: It is locked, and something has changed.
        DataError: A record cannot be used.
        DamagedError: What stages have left, or a checkpoint, is damaged.
        GateError: A stage did not reach what its gate asks for.
        LostRankError: Another rank ended.
        ReaderError: The processes that read data cannot go on.
        WriteError: A folder of the run takes no files.
        KeyboardInterrupt: The user stopped it; what was done is saved.
        SystemExit: SIGTERM or SIGUSR1 stopped it (143); what was done is saved.
    """
    names = list(run.recipe.stages) if stage is None else [stage]
    if stage is not None:
        _check_stage(run, stage)
    check_launcher(run.recipe.trainer)
    check_loggers(run.recipe)
    with stopping(), run.locked(), lost_ranks_told(), lost_readers_told():
        unfinished = [name for name in names if not run.finished(name)]
        if global_rank() == 0:
            for name in unfinished:
                run.check_targets(name)
            if locked or unfinished:
                _keep_lock(run, unfinished, recipe_file, hold=locked)
            elif damage := MadeWith.read(run.path / LOCK).damage:
                tell_difference(run.path, damage)
        _train(run, names)


def _keep_lock(run: RunFolder, unfinished: list[str], recipe_file: Path | None, *, hold: bool) -> None:
    """Keep the lock, and say once what a run that began earlier keeps as it was."""
    kept, told = run.kept_options(unfinished), told_options(run)
    keep_lock(run, recipe_file, hold=hold, kept=kept)
    for name, value in kept.items():
        if name not in told:
            shown = str(value).lower() if isinstance(value, bool) else value
            say_once(f"{run.path} began before there was {name}: it goes on with {name}: {shown}")


def _check_stage(run: RunFolder, stage: str) -> None:
    stages = run.recipe.stages
    if stage not in stages:
        raise RunError(f"no stage is called '{stage}'.{nearest(stage, stages)} Stages: {listing(stages)}")
    before = run.recipe.start_of(stage)
    if before is not None and not run.finished(before):
        raise RunError(
            f"stage '{stage}' starts from what stage '{before}' leaves, and that is not finished. "
            f"Train it first: kikimimi train {run.path} --stage {before}"
        )


def _train(run: RunFolder, names: list[str]) -> None:
    recipe = run.recipe
    corpora = list(training_corpora(recipe))
    if all(run.finished(name) for name in names):
        for name in names:  # which nothing else reads
            if not require_stored(run.weights(name), name):
                say_once(f"{run.weights(name)}: {UNVERIFIED}")
        say_once(f"{run.path}: already trained")
    for name in names:
        if run.finished(name):
            say_once(f"stage {name}: already done")
        else:
            # Seeded per stage: it draws the same numbers whether or not the ones before it ran just now.
            number = list(recipe.stages).index(name)
            pl.seed_everything(recipe.seed + number, workers=True, verbose=False)
            run_stage(run, name, _model(run, name, corpora))
        score_stage(run, name)
        pass_guards(run, name)


def _model(run: RunFolder, name: str, corpora: list[Corpus]) -> SpeechLM:
    """Assemble the model of a stage with what the stage left that it starts from.

    Anew for each: a stage may have number formats of its own, and may leave its model in pieces.
    """
    recipe = run.recipe
    started = run.has_assets
    model = assemble(
        recipe.at(name),
        texts=lambda: all_texts(corpora),
        assets=run.assets if started else None,
        deferred=recipe.trainer.strategy == "fsdp",
    )
    try:
        check_sources(model, recipe)
    except RecipeError as error:
        if not run.begun:
            raise
        say_once(f"{run.path} began before this was an error, and goes on: {error}")
    if not started:
        run.save_assets(model)
    if not model.deferred:
        load_start(run, name, model)
    return model

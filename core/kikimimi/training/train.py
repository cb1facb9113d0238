"""Training a run: every stage of its recipe that is not done yet."""

from __future__ import annotations

import sys

import pytorch_lightning as pl

from kikimimi.data.corpus import all_texts, training_corpora
from kikimimi.lock import lock
from kikimimi.model.assembly import assemble
from kikimimi.model.trained import load_trained
from kikimimi.recipe.chosen import PARTS
from kikimimi.run_folder import RunFolder
from kikimimi.training.run_stage import run_stage


def train(run: RunFolder) -> None:
    """Train what is missing of a run; a finished stage is not run again.

    Args:
        run: The run folder; the same call goes on after an interruption.

    Raises:
        RequestError: Data, plugins or weights that the recipe names are missing or do not fit, or another
            process is training this run.
        DataError: A record cannot be used.
        KeyboardInterrupt: The user stopped it; a checkpoint was saved.
    """
    with run.locked():
        _train(run)


def _train(run: RunFolder) -> None:
    recipe = run.recipe
    corpora = list(training_corpora(recipe))
    if all(run.finished(stage) for stage in recipe.stages):
        print(f"{run.path}: already trained", file=sys.stderr)
        return
    run.write_json("lock.json", lock(recipe, corpora))
    started = run.assets.is_dir()
    model = assemble(recipe, texts=lambda: all_texts(corpora), assets=run.assets if started else None)
    if not started:
        temporary = run.assets.with_name(".assets.tmp")
        for part in PARTS:
            (temporary / part).mkdir(parents=True, exist_ok=True)
            getattr(model, part).save_assets(temporary / part)
        temporary.rename(run.assets)
    for number, name in enumerate(recipe.stages):
        # Seeded per stage: a stage draws the same numbers whether or not the ones before it ran just now.
        pl.seed_everything(recipe.seed + number, workers=True, verbose=False)
        if run.finished(name):
            load_trained(model, recipe, run.weights(name))
            print(f"stage {name}: already done", file=sys.stderr)
        else:
            run_stage(run, name, model)

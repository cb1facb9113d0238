"""One stage of a run, through Lightning's trainer."""

import logging
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.utilities.warnings import PossibleUserWarning

from kikimimi.console.signals import Stopped
from kikimimi.console.terminal import say
from kikimimi.console.words import counted
from kikimimi.files.reading import unreadable
from kikimimi.files.writing import whole_file
from kikimimi.model.speech_lm import SpeechLM
from kikimimi.recipe import Trainer
from kikimimi.run.folder import RunFolder
from kikimimi.run.rank import say_once, slurm_starts_ranks
from kikimimi.training.callbacks.checkpoints import KeepCheckpoints
from kikimimi.training.callbacks.metering import LogLines, Metering
from kikimimi.training.callbacks.progress import StageProgress
from kikimimi.training.callbacks.validation import Validation
from kikimimi.training.lengthen import NextRates
from kikimimi.training.parallel.fsdp import ShardedStrategy
from kikimimi.training.stage import PreparedStage, prepare_stage
from kikimimi.training.state.checkpoint import write_weights
from kikimimi.training.stop import leave
from kikimimi.weights.tensors import check_stage, check_stored

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def run_stage(run: RunFolder, name: str, model: SpeechLM) -> None:
    """Train one stage, from its newest checkpoint if there is one, and leave its weights in the run.

    The model is assembled for this stage alone, holds what the stage starts from, and is changed.

    Raises:
        DataError: A record cannot be used, or the loss is not finite.
        KeyboardInterrupt: The user stopped it; a checkpoint was saved.
        SystemExit: SIGTERM or SIGUSR1 stopped it (143); a checkpoint was saved.
    """
    stage = prepare_stage(run, name, model)
    options, best = stage.options, stage.best
    saved = options.checkpoint
    keeper = KeepCheckpoints(
        run.checkpoints(name), saved.every, saved.keep, stage.loader, options.batch.global_, stage.recipe.seed
    )
    with warnings.catch_warnings():
        # Advice of Lightning's that does not hold here: workers, frozen parts in eval mode, short stages.
        warnings.simplefilter("ignore", PossibleUserWarning)
        # Lightning's own use of a name that torch has deprecated.
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        # FSDP's advice against changing a block's output in place, where that is a view: no part does.
        warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* returned a view")
        logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
        trainer = pl.Trainer(
            **_hardware(stage.recipe.trainer),
            max_steps=_last_step(stage),
            max_epochs=-1,
            accumulate_grad_batches=stage.loader.accumulation,
            gradient_clip_val=options.clip or None,
            logger=[stage.metrics, *stage.loggers],
            callbacks=[
                LogLines(stage.interval, stage.recipe.trainer.log_every),
                keeper,
                StageProgress(f"Training {name}", options.num_steps),
                Validation(best, stage.validation, stage.missed, stage.checkpoints.metadata),
                NextRates(),
                Metering(stage.interval, stage.meter),
            ],
            plugins=[stage.checkpoints, *_cluster()],
            default_root_dir=str(run.path),
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            val_check_interval=(options.validate.every or 1) * stage.loader.accumulation,
            check_val_every_n_epoch=None,
            limit_val_batches=1.0 if stage.validation else 0,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        try:
            trainer.fit(stage.module, stage.loader, [*stage.validation.values()], ckpt_path=stage.resume)
        except Stopped:
            stage.metrics.write_csv()
            raise
    stage.metrics.write_csv()
    if keeper.interrupted and trainer.global_step < options.num_steps and not best.stalled():
        leave(keeper.interrupted)
    _tell(stage, trainer.global_step)
    if options.leaves_best and (lowest := best.path()) is not None:
        if trainer.is_global_zero:
            _check_best(lowest, stage.name)
            with whole_file(run.weights(name)) as path:
                shutil.copyfile(lowest, path)
    else:
        write_weights(trainer, run.weights(name), stage.module.left_weights(), stage.checkpoints.metadata)
    trainer.strategy.barrier()
    if keeper.interrupted:
        leave(keeper.interrupted)


def _check_best(path: Path, stage: str) -> None:
    try:
        check_stored(path)
        check_stage(path, stage)
    except (OSError, ValueError) as error:
        raise unreadable(
            path,
            error,
            f"Restore them from a copy, or delete {path.parents[1]}: the stage is trained again",
            "these weights of the lowest validation loss are damaged: ",
        ) from error


def _tell(stage: PreparedStage, step: int) -> None:
    """Say what was left out, and why the stage ended before its last step."""
    faults, early = stage.faults, stage.options.early_stop
    if faults.skipped:
        say(
            f"stage {stage.name}: {faults.skipped} of {faults.tried} records that were tried could not be "
            f"read; {faults.path} lists them",
            error=True,
        )
    if early is not None and stage.best.stalled():
        waited = counted(early.patience, "validation")
        say_once(f"stage {stage.name}: ends early, after step {step}: {waited} without a lower loss")
    if stage.options.leaves_best:
        lowest = stage.best.steps()[:1]
        of = f"step {lowest[0]}, whose validation loss is the lowest" if lowest else f"step {step}, its last"
        why = "" if lowest else ": no validation had a loss"
        say_once(f"stage {stage.name}: leaves the weights of {of}{why}")


def _last_step(stage: PreparedStage) -> int:
    """Return where Lightning is to stop, for a stage that starts or goes on after a step."""
    planned = stage.options.num_steps
    if stage.best.stalled():
        return stage.step  # it had ended early when killed: it takes up its checkpoint, and no step more
    # Lightning does not begin what has no step left, and a validation that was missed would stay missing.
    return planned + 1 if stage.missed and stage.step >= planned else planned


def _hardware(options: Trainer) -> dict[str, Any]:
    strategy: str | ShardedStrategy = options.strategy
    if strategy == "fsdp":
        cpu = options.accelerator == "cpu" or not torch.cuda.is_available()
        strategy = ShardedStrategy(options.devices * options.nodes, "gloo" if cpu else None)
    return {
        "accelerator": options.accelerator,
        "devices": options.devices,
        "num_nodes": options.nodes,
        "strategy": strategy,
        "precision": PRECISIONS[options.precision],
    }


def _cluster() -> list[SLURMEnvironment]:
    # By itself, Lightning would answer Slurm's signal with a checkpoint of its own, and requeue the job.
    return [SLURMEnvironment(auto_requeue=False)] if slurm_starts_ranks() else []

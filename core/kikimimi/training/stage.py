"""One stage of a run, through Lightning's trainer."""

from __future__ import annotations

import logging
import shutil
import sys
import warnings
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.utilities.warnings import PossibleUserWarning

from kikimimi.console.words import counted
from kikimimi.data.corpus import Corpus
from kikimimi.data.fault import FaultLog
from kikimimi.data.features import FeatureCache
from kikimimi.data.order.loader import PlanSampler, Reader, StageLoader
from kikimimi.data.order.sources import describe_left_out, make_plan, usable, with_steps
from kikimimi.model.assembly import load_deferred
from kikimimi.model.speech_lm import SpeechLM
from kikimimi.model.stand_in import StandIn
from kikimimi.model.trainable import freeze_all_but, kept_names, load_trained, trainable_names
from kikimimi.recipe.chosen import PARTS
from kikimimi.recipe.schema import Mixture
from kikimimi.recipe.show import digest
from kikimimi.run.folder import RunFolder, checkpoint_folders
from kikimimi.run.lock import plugin_lock
from kikimimi.run.loggers import open_loggers
from kikimimi.run.metrics import MetricsFile
from kikimimi.run.rank import global_rank, slurm_starts_ranks
from kikimimi.training.best import Best
from kikimimi.training.callbacks import KeepCheckpoints, StageProgress
from kikimimi.training.encoding import encode_ahead
from kikimimi.training.flops import FlopMeter
from kikimimi.training.module import StageModule
from kikimimi.training.parallel.fsdp import ShardedStrategy, shard
from kikimimi.training.parallel.recompute import recompute
from kikimimi.training.state.checkpoint import FolderCheckpointIO, write_weights
from kikimimi.training.stop import Stopped, leave

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from kikimimi.contracts.batch import View
    from kikimimi.recipe import Dataset, Recipe, Stage

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def run_stage(run: RunFolder, name: str, model: SpeechLM) -> None:
    """Train one stage, from its newest checkpoint if there is one, and leave its weights in the run.

    Args:
        run: The run.
        name: Of the stage.
        model: Assembled for this stage alone, holding what the stage that it starts from left; it is changed.

    Raises:
        DataError: A record cannot be used, or the loss is not finite.
        KeyboardInterrupt: The user stopped it; a checkpoint was saved.
        SystemExit: SIGTERM or SIGUSR1 stopped it (143); a checkpoint was saved.
    """
    recipe, stage = run.recipe.at(name), run.recipe.stages[name]
    trained = trainable_names(model, stage, where=f"stages.{name}")
    freeze_all_but(model, [parameter for names in trained.values() for parameter in names])
    meter = FlopMeter(model, recipe.trainer.precision)  # before anything is computed twice, or sharded
    if recipe.trainer.activation_checkpointing:
        recompute(model.blocks(), model.gate)
    faults = FaultLog(run.faults(name, global_rank()), stage.faults)
    corpora = _usable(stage.data, stage, model, faults)
    plan = make_plan(
        corpora,
        [stage.data[corpus.name].weight for corpus in corpora],
        model,
        stage.batch,
        stage.mixture,
        recipe.seed,
    )
    if stage.epochs is not None:
        epochs, stage = counted(stage.epochs, "epoch"), with_steps(stage, plan)
        if global_rank() == 0:
            print(f"stage {name}: {epochs} are {counted(stage.num_steps, 'step')}", file=sys.stderr)
    views = stage.objective.component(stage.objective.config).views
    held_out = _usable(stage.validate.data if stage.validate.every else {}, stage, model, faults)
    trainer_options = recipe.trainer
    world_size = trainer_options.devices * trainer_options.nodes
    resume = checkpoint_folders(run.checkpoints(name))
    step = int(resume[-1].name.removeprefix("step-")) if resume else None
    loggers = open_loggers(run, name, step)  # first: a missing extra is told before any clip is encoded
    features = encode_ahead(recipe, stage, name, model, corpora, held_out, plan)
    loader = StageLoader(
        Reader(corpora, model, recipe.seed, features, views),
        PlanSampler(plan, stage.num_steps * stage.batch.global_, global_rank(), world_size),
        trainer_options.workers,
        _order(recipe, stage, corpora),
    )
    metrics = MetricsFile(run.path, name)
    keeper = KeepCheckpoints(
        run.checkpoints(name), stage.checkpoint.every, stage.checkpoint.keep, loader, stage.batch.global_
    )
    kept = kept_names(model, recipe, name)
    spread = _spread(run, name, model, cached=features is not None)
    module = StageModule(model, stage, trained, kept, trainer_options.log_every, faults, spread)
    module.meter = meter
    validation = _validation_loader(recipe, stage, model, held_out, features, views) if held_out else None
    metadata = {
        "recipe": digest(run.recipe),
        "stage": name,
        "parts": {part: plugin_lock(getattr(recipe, part)) for part in PARTS},
    }
    if step is not None:
        print(f"stage {name}: going on after step {step}", file=sys.stderr)
        metrics.forget_after(step)
        if held_out and step % stage.validate.every == 0 and not metrics.has(step, "validation_loss"):
            module.missed_validation = validation
    else:
        step = 0
        metrics.forget_after(-1)
    best = Best(
        run.checkpoints(name) / "best",
        stage,
        lambda path: write_weights(trainer, path, module.state_dict(), metadata),
    )
    best.remember(metrics.path, name)
    if stage.early_stop is not None or stage.checkpoint.keep_best:
        module.best = best
    with warnings.catch_warnings():
        # Advice of Lightning's that does not hold here: workers, frozen parts in eval mode, short stages.
        warnings.simplefilter("ignore", PossibleUserWarning)
        # Lightning's own use of a name that torch has deprecated.
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        # FSDP's advice against changing a block's output in place, where that is a view: no part does.
        warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* returned a view")
        logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
        trainer = pl.Trainer(
            **_hardware(recipe),
            max_steps=_last_step(module, step, stage.num_steps),
            max_epochs=-1,
            accumulate_grad_batches=stage.batch.global_ // world_size,
            gradient_clip_val=stage.clip or None,
            logger=[metrics, *loggers],
            callbacks=[keeper, StageProgress(f"Training {name}", stage.num_steps)],
            plugins=[FolderCheckpointIO(metadata), *_cluster()],
            default_root_dir=str(run.path),
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            val_check_interval=(stage.validate.every or 1) * (stage.batch.global_ // world_size),
            check_val_every_n_epoch=None,
            limit_val_batches=1.0 if held_out else 0,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        try:
            trainer.fit(module, loader, validation, ckpt_path=str(resume[-1]) if resume else None)
        except Stopped:
            metrics.write_csv()
            raise
    metrics.write_csv()
    if keeper.interrupted and trainer.global_step < stage.num_steps and not best.stalled():
        leave(keeper.interrupted)
    if faults.skipped:
        print(
            f"stage {name}: {faults.skipped} of {faults.tried} records that were tried could not be read; "
            f"{faults.path} lists them",
            file=sys.stderr,
        )
    if stage.early_stop is not None and best.stalled():
        waited = counted(stage.early_stop.patience, "validation")
        print(
            f"stage {name}: ends early, after step {trainer.global_step}: {waited} without a lower loss",
            file=sys.stderr,
        )
    if stage.checkpoint.leave == "best" and (lowest := best.path()) is not None:
        if trainer.is_global_zero:
            _put(lowest, run.weights(name))
    else:
        write_weights(trainer, run.weights(name), module.state_dict(), metadata)
    trainer.strategy.barrier()
    if keeper.interrupted:
        leave(keeper.interrupted)


def _last_step(module: StageModule, step: int, planned: int) -> int:
    """Return where Lightning is to stop, for a stage that starts or goes on after a step."""
    if module.best is not None and module.best.stalled():
        return step  # it had ended early when it was killed: it takes up its checkpoint, and no step more
    # Lightning does not begin what has no step left, and a validation that was missed would stay missing.
    return planned + 1 if module.missed_validation is not None and step >= planned else planned


def _put(source: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.copyfile(source, temporary)
    temporary.replace(path)


def _usable(datasets: Mapping[str, Dataset], stage: Stage, model: SpeechLM, faults: FaultLog) -> list[Corpus]:
    """Open datasets without what does not fit, and list that."""
    corpora = []
    for name, source in datasets.items():
        skip = stage.faults.policy == "skip"
        corpus, left_out = usable(Corpus.open(name, source, skip=skip), model, stage.batch, skip=skip)
        if left_out and global_rank() == 0:
            faults.add(left_out)
            print(f"{describe_left_out(corpus, left_out)}; {faults.path} lists them", file=sys.stderr)
        corpora.append(corpus)
    return corpora


def _order(recipe: Recipe, stage: Stage, corpora: list[Corpus]) -> dict[str, Any]:
    """Return what the order of the data depends on, as it is called in the recipe."""
    batch = stage.batch
    return {
        "seed": recipe.seed,
        "batch.global": batch.global_,
        "batch.seconds" if batch.tokens is None else "batch.tokens": batch.budget,
        "batch.bucket": batch.bucket,
        "mixture.by": stage.mixture.by,
        "mixture.temperature": stage.mixture.temperature,
        **{f"data.{corpus.name}.weight": stage.data[corpus.name].weight for corpus in corpora},
        **{f"data.{corpus.name} (SHA-256 of its index)": corpus.shards.digest for corpus in corpora},
        # Which records fit depends on the model, too.
        **{f"data.{corpus.name} (records used)": len(corpus) for corpus in corpora},
    }


def _spread(
    run: RunFolder, name: str, model: SpeechLM, *, cached: bool
) -> Callable[[DeviceMesh], None] | None:
    """Return what shards the model, and fills what is still empty; None where the strategy does not."""
    recipe = run.recipe
    if recipe.trainer.strategy != "fsdp":
        return None

    def spread(mesh: DeviceMesh) -> None:
        shard(model, mesh, recipe.trainer.precision)
        if model.deferred:
            load_deferred(model)
            if (before := recipe.start_of(name)) is not None:
                load_trained(model, recipe, before, run.weights(before))
        model.stand_in = StandIn.of(model.encoder, cached=cached)

    return spread


def _strategy(recipe: Recipe) -> str | ShardedStrategy:
    options = recipe.trainer
    if options.strategy != "fsdp":
        return options.strategy
    cpu = options.accelerator == "cpu" or not torch.cuda.is_available()
    return ShardedStrategy(options.devices * options.nodes, "gloo" if cpu else None)


def _hardware(recipe: Recipe) -> dict[str, Any]:
    options = recipe.trainer
    return {
        "accelerator": options.accelerator,
        "devices": options.devices,
        "num_nodes": options.nodes,
        "strategy": _strategy(recipe),
        "precision": PRECISIONS[options.precision],
    }


def _cluster() -> list[SLURMEnvironment]:
    # By itself, Lightning would answer Slurm's signal with a checkpoint of its own, and requeue the job.
    return [SLURMEnvironment(auto_requeue=False)] if slurm_starts_ranks() else []


def _validation_loader(
    recipe: Recipe,
    stage: Stage,
    model: SpeechLM,
    held_out: list[Corpus],
    features: FeatureCache | None,
    views: Collection[View],
) -> StageLoader:
    plan = make_plan(held_out, [None] * len(held_out), model, stage.batch, Mixture(), recipe.seed)
    reader = Reader(held_out, model, recipe.seed, features, views)
    # One pass, the same on every rank: the set is small, and every rank gets the same number of batches.
    return StageLoader(reader, PlanSampler(plan, plan.num_micro_batches(0), 0, 1), 0)

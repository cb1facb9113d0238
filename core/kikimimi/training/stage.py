"""What the training of a stage needs, built once."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from torch.distributed.device_mesh import DeviceMesh

from kikimimi.console.terminal import say
from kikimimi.console.words import counted
from kikimimi.contracts.batch import View
from kikimimi.data.corpus import Corpus
from kikimimi.data.fault import FaultLog
from kikimimi.data.features import FeatureCache
from kikimimi.data.order.loader import BatchDataset, PlanSampler, StageLoader, StepLoader
from kikimimi.data.order.sources import describe_left_out, make_plan, usable, with_steps
from kikimimi.files.hashes import UNVERIFIED
from kikimimi.model.assembly import load_deferred
from kikimimi.model.speech_lm import SpeechLM
from kikimimi.model.stand_in import StandIn
from kikimimi.model.trainable import cast_alone, freeze_all_but, kept_names, load_trained, trainable_names
from kikimimi.recipe import Dataset, Recipe, Stage
from kikimimi.recipe.chosen import PARTS
from kikimimi.recipe.schema import Mixture
from kikimimi.recipe.show import digest
from kikimimi.run.folder import RunFolder, checkpoint_step
from kikimimi.run.lock import plugin_lock
from kikimimi.run.loggers import open_loggers
from kikimimi.run.metrics import MetricsFile
from kikimimi.run.rank import global_rank, say_once
from kikimimi.training.callbacks.validation import Best
from kikimimi.training.encoding import encode_ahead
from kikimimi.training.flops import FlopMeter
from kikimimi.training.log_interval import LogInterval
from kikimimi.training.module import StageModule
from kikimimi.training.parallel.fsdp import shard_for_training
from kikimimi.training.parallel.recompute import recompute
from kikimimi.training.state.checkpoint import FolderCheckpointIO
from kikimimi.training.state.stage_form import StageForm


@dataclass(frozen=True, kw_only=True)
class PreparedStage:
    """A stage that is ready to be trained, from its start or from its newest checkpoint.

    Attributes:
        name: The stage's name.
        recipe: The recipe, with its parts as the stage has them.
        options: The stage's options, its length in steps.
        module: Loss, optimiser, and what a checkpoint holds.
        loader: The micro-batches in planned order.
        validation: Held-out micro-batches by dataset; none where the stage does not validate.
        missed: Whether the run was killed between its newest checkpoint and the validation due there.
        interval: What the module gathers for the next log line.
        meter: Counts operations.
        metrics: The metrics file, cut back to the newest checkpoint.
        loggers: The loggers besides.
        faults: The account of what could not be read.
        best: What the validation losses decide.
        checkpoints: How checkpoints are written and read; its metadata are the provenance of all weights.
        resume: The newest checkpoint, or None.
        step: Where that was saved; 0 where there is none.
    """

    name: str
    recipe: Recipe
    options: Stage
    module: StageModule
    loader: StepLoader
    validation: Mapping[str, StageLoader]
    missed: bool
    interval: LogInterval
    meter: FlopMeter
    metrics: MetricsFile
    loggers: list[Logger]
    faults: FaultLog
    best: Best
    checkpoints: FolderCheckpointIO
    resume: Path | None
    step: int


def prepare_stage(run: RunFolder, name: str, model: SpeechLM) -> PreparedStage:
    """Build what a stage needs; of its model, assembled for it alone, all but what trains is frozen.

    Raises:
        DataError: A record cannot be used.
    """
    recipe, stage = run.recipe.at(name), run.recipe.stages[name]
    trained = trainable_names(model, stage, where=f"stages.{name}")
    freeze_all_but(model, [parameter for names in trained.values() for parameter in names])
    meter = FlopMeter(model, recipe.trainer.precision)  # before anything is computed twice, or sharded
    if recipe.trainer.activation_checkpointing:
        recompute(model.blocks(), model.gate)
    faults = FaultLog(run.faults(name, global_rank()), stage.faults)
    corpora = _usable(stage.data, stage, model, faults)
    weights = [stage.data[corpus.name].weight for corpus in corpora]
    plan = make_plan(corpora, weights, model, stage.batch, stage.mixture, recipe.seed)
    if stage.epochs is not None:
        epochs, stage = counted(stage.epochs, "epoch"), with_steps(stage, plan)
        say_once(f"stage {name}: {epochs} are {counted(stage.num_steps, 'step')}")
    held_out = _usable(stage.validate.data if stage.validate.every else {}, stage, model, faults)
    kept = kept_names(model, recipe, name)
    metadata = {
        "recipe": digest(run.recipe),
        "stage": name,
        "parts": {part: plugin_lock(getattr(recipe, part)) for part in PARTS},
    }
    checkpoints = FolderCheckpointIO(metadata, StageForm.of(model, stage, trained, kept))
    resume = checkpoints.newest(run.checkpoints(name))
    step = None if resume is None else checkpoint_step(resume)
    loggers = open_loggers(run, name, step)  # first: a missing extra is told before any clip is encoded
    features = encode_ahead(recipe, stage, name, model, corpora, held_out, plan)
    views = stage.objective.component(stage.objective.config).views
    world_size = recipe.trainer.devices * recipe.trainer.nodes
    validation = {
        corpus.name: _validation_loader(recipe, stage, model, corpus, features, views) for corpus in held_out
    }
    interval, metrics = LogInterval(), MetricsFile(run.path, name)
    if step is not None:
        say_once(f"stage {name}: going on after step {step}")
    metrics.forget_after(-1 if step is None else step)
    due = step is not None and stage.validate.every > 0 and step % stage.validate.every == 0
    best = Best(run.checkpoints(name) / "best", stage)
    best.remember(metrics.path, name, step)
    spread = _spread(run, name, model, cached=features is not None)
    started = run.start_weights(name)
    start = None if started is None else cast_alone(model, started[1])
    return PreparedStage(
        name=name,
        recipe=recipe,
        options=stage,
        module=StageModule(model, stage, trained, kept, faults, interval, meter, spread, start),
        loader=StepLoader(
            BatchDataset(corpora, model, recipe.seed, features, views),
            PlanSampler(plan, stage.num_steps * stage.batch.global_, global_rank(), world_size),
            recipe.trainer.workers,
            _order(recipe, stage, corpora),
            accumulation=stage.batch.global_ // world_size,
        ),
        validation=validation,
        missed=due and not metrics.has(step or 0, "validation_loss"),
        interval=interval,
        meter=meter,
        metrics=metrics,
        loggers=loggers,
        faults=faults,
        best=best,
        checkpoints=checkpoints,
        resume=resume,
        step=step or 0,
    )


def load_start(run: RunFolder, name: str, model: SpeechLM) -> None:
    """Load what the stage left that a stage starts from, if there is one.

    Raises:
        DamagedError: It is damaged, or does not fit.
    """
    if (start := run.start_weights(name)) is None:
        return
    before, path = start
    if not load_trained(model, run.recipe, before, path) and global_rank() == 0:
        say(f"{path}: {UNVERIFIED}", error=True)


def _usable(datasets: Mapping[str, Dataset], stage: Stage, model: SpeechLM, faults: FaultLog) -> list[Corpus]:
    """Open datasets without what does not fit, and list that."""
    corpora = []
    for name, source in datasets.items():
        skip = stage.faults.policy == "skip"
        corpus, left_out = usable(Corpus.open(name, source, skip=skip), model, stage.batch, skip=skip)
        if left_out and global_rank() == 0:
            faults.add(left_out)
            say(f"{describe_left_out(corpus, left_out)}; {faults.path} lists them", error=True)
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
        shard_for_training(model, mesh, recipe.trainer.precision)
        if model.deferred:
            load_deferred(model)
            load_start(run, name, model)
        model.stand_in = StandIn.of(model.encoder, cached=cached)

    return spread


def _validation_loader(
    recipe: Recipe,
    stage: Stage,
    model: SpeechLM,
    held_out: Corpus,
    features: FeatureCache | None,
    views: Collection[View],
) -> StageLoader:
    plan = make_plan([held_out], [None], model, stage.batch, Mixture(), recipe.seed)
    dataset = BatchDataset([held_out], model, recipe.seed, features, views)
    # One pass, the same on every rank: the set is small, and every rank gets the same number of batches.
    return StageLoader(dataset, PlanSampler(plan, plan.num_micro_batches(0), 0, 1), 0)

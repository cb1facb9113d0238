"""One stage of a run, through Lightning's trainer."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.warnings import PossibleUserWarning
from pytorch_lightning.loggers import Logger

from kikimimi.data.corpus import Corpus
from kikimimi.data.plan import Plan, Source
from kikimimi.errors import DataError, MissingExtraError
from kikimimi.lock import plugin_lock
from kikimimi.model.assembly import freeze_all_but, trainable_names
from kikimimi.model.speech_lm import SpeechLM
from kikimimi.model.trained import kept_names
from kikimimi.progress import duration
from kikimimi.run_folder import RunFolder, checkpoint_folders
from kikimimi.training.callbacks import KeepCheckpoints, StageProgress
from kikimimi.training.checkpoint import FolderCheckpointIO, save_weights
from kikimimi.training.feature_cache import FeatureCache, cache_folder, forecast_bytes
from kikimimi.training.loader import PlanSampler, Reader, StageLoader
from kikimimi.training.metrics import MetricsFile
from kikimimi.training.module import StageModule

if TYPE_CHECKING:
    from kikimimi.recipe import Dataset, Recipe, Stage

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
SECONDS_PER_CHARACTER = 0.08
"""What a character of a record without audio costs of a micro-batch [s]: one audio token at 12.5 Hz."""


def run_stage(run: RunFolder, name: str, model: SpeechLM) -> None:
    """Train one stage, from its newest checkpoint if there is one, and leave its weights in the run.

    Args:
        run: The run.
        name: Of the stage.
        model: Assembled, holding what the stages before left.

    Raises:
        DataError: A record cannot be used, or the loss is not finite.
        KeyboardInterrupt: The user stopped it; a checkpoint was saved.
    """
    recipe, stage = run.recipe, run.recipe.stages[name]
    trained = trainable_names(model, stage, where=f"stages.{name}")
    freeze_all_but(model, [parameter for names in trained.values() for parameter in names])
    corpora = [Corpus.open(dataset, source) for dataset, source in stage.data.items()]
    for corpus in corpora:
        _check_lengths(corpus, model)
    plan = Plan(
        [_source(corpus, stage.data[corpus.name]) for corpus in corpora],
        batch_seconds=stage.batch.seconds,
        seed=recipe.seed,
    )
    validation = stage.validate.data if stage.validate.every else {}
    held_out = [Corpus.open(dataset, source) for dataset, source in validation.items()]
    trainer_options = recipe.trainer
    world_size = trainer_options.devices * trainer_options.nodes
    loggers = _loggers(recipe, run, name)  # first: a missing extra is told before any clip is encoded
    features = _features(run, name, model, corpora, held_out)
    loader = StageLoader(
        Reader(corpora, model, recipe.seed, features),
        PlanSampler(plan, stage.steps * stage.batch.global_, _rank(), world_size),
        trainer_options.workers,
    )
    metrics = MetricsFile(run.path, name)
    keeper = KeepCheckpoints(
        run.checkpoints(name), stage.checkpoint.every, stage.checkpoint.keep, loader, stage.batch.global_
    )
    module = StageModule(model, stage, trained, kept_names(model, recipe), trainer_options.log_every)
    metadata = {"recipe": recipe.digest, "stage": name}
    resume = checkpoint_folders(run.checkpoints(name))
    if resume:
        step = int(resume[-1].name.removeprefix("step-"))
        print(f"stage {name}: going on after step {step}", file=sys.stderr)
        metrics.forget_after(step)
    else:
        metrics.forget_after(-1)
    with warnings.catch_warnings():
        # Advice of Lightning's that does not hold here: workers, frozen parts in eval mode, short stages.
        warnings.simplefilter("ignore", PossibleUserWarning)
        # Lightning's own use of a name that torch has deprecated.
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
        trainer = pl.Trainer(
            **_hardware(recipe),
            max_steps=stage.steps,
            max_epochs=-1,
            accumulate_grad_batches=stage.batch.global_ // world_size,
            gradient_clip_val=stage.clip or None,
            logger=[metrics, *loggers],
            callbacks=[keeper, StageProgress(f"Training {name}", stage.steps)],
            plugins=[FolderCheckpointIO(metadata)],
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            val_check_interval=(stage.validate.every or 1) * (stage.batch.global_ // world_size),
            check_val_every_n_epoch=None,
            limit_val_batches=1.0 if held_out else 0,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(
            module,
            loader,
            _validation_loader(recipe, stage, model, held_out, features) if held_out else None,
            ckpt_path=str(resume[-1]) if resume else None,
        )
    metrics.write_csv()
    if keeper.interrupted and trainer.global_step < stage.steps:
        raise KeyboardInterrupt
    if trainer.is_global_zero:
        path = run.weights(name)
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        save_weights(module.state_dict(), temporary, metadata)
        temporary.replace(path)
    trainer.strategy.barrier()


def _rank() -> int:
    import os

    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")))


def _source(corpus: Corpus, dataset: Dataset) -> Source:
    shards = corpus.shards
    written = np.maximum(shards.characters, 1) * SECONDS_PER_CHARACTER
    costs = np.where(shards.clips > 0, shards.seconds, written).astype(np.float32)
    return Source(corpus.name, costs, dataset.weight)


def _check_lengths(corpus: Corpus, model: SpeechLM) -> None:
    limit = model.encoder.max_seconds
    if limit is None:
        return
    too_long = np.flatnonzero((corpus.shards.clips == 1) & (corpus.shards.seconds > limit))
    if len(too_long):
        row = int(too_long[0])
        raise DataError(
            f"{corpus.name}: {len(too_long)} of {len(corpus.shards)} clips are longer than the encoder's "
            f"{limit:g} s, the first is {corpus.shards.where(row)} "
            f"({float(corpus.shards.seconds[row]):.1f} s). "
            "Nothing is cut; pack the data without them."
        )


def _features(
    run: RunFolder, name: str, model: SpeechLM, corpora: list[Corpus], held_out: list[Corpus]
) -> FeatureCache | None:
    """Encode every clip once, if the encoder never changes, clips are heard again, and disk allows."""
    recipe, stage = run.recipe, run.recipe.stages[name]
    if not recipe.trainer.cache_features or model.encoder.augmentation is not None:
        return None
    # A later stage may freeze what this run trained, which no fingerprint of its sources would tell.
    if any("encoder" in other.train for other in recipe.stages.values()):
        return None
    heard = stage.steps * stage.batch.global_ * stage.batch.seconds
    seconds = sum(float(corpus.shards.seconds.sum()) for corpus in corpora)
    if seconds == 0 or heard < 2 * seconds:
        return None
    size = forecast_bytes(
        [*corpora, *held_out], model.encoder, 4 if recipe.trainer.precision == "fp32" else 2
    )
    if size > recipe.trainer.cache_limit_gb * 1e9:
        print(
            f"stage {name}: encoder output would take {size / 1e9:.1f} GB on disk, above "
            f"trainer.cache_limit_gb={recipe.trainer.cache_limit_gb:g}: encoding in every epoch instead",
            file=sys.stderr,
        )
        return None
    identity = {
        **plugin_lock(recipe.encoder),
        "config": repr(recipe.encoder.config),
        "lora": repr(recipe.encoder.lora),
        "dtype": recipe.encoder.dtype,
        "precision": recipe.trainer.precision,
    }
    if any(f"encoder.{name}" not in model.pretrained for name, _ in model.encoder.named_parameters()):
        identity["seed"] = recipe.seed  # some of its weights were drawn at random
    fingerprint = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    cache = FeatureCache([*corpora, *held_out], fingerprint)
    device = _device(recipe)
    model.encoder.to(device)
    encoded = cache.fill(model.encoder, device=device, precision=_autocast(recipe, device))
    if encoded:
        print(
            f"{encoded} records ({duration(seconds)} of audio) encoded; "
            f"{size / 1e6:.0f} MB kept in {cache_folder()} for later epochs and runs",
            file=sys.stderr,
        )
    return cache


def _device(recipe: Recipe) -> torch.device:
    gpu = recipe.trainer.accelerator != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if gpu else "cpu")


def _autocast(recipe: Recipe, device: torch.device) -> AbstractContextManager[Any]:
    types = {"bf16": torch.bfloat16, "fp16": torch.float16}
    if recipe.trainer.precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, types[recipe.trainer.precision])


def _hardware(recipe: Recipe) -> dict[str, Any]:
    options = recipe.trainer
    return {
        "accelerator": options.accelerator,
        "devices": options.devices,
        "num_nodes": options.nodes,
        "strategy": options.strategy,
        "precision": PRECISIONS[options.precision],
    }


def _loggers(recipe: Recipe, run: RunFolder, stage: str) -> list[Logger]:
    if "tensorboard" not in recipe.trainer.loggers:
        return []
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: F401
    except ImportError:
        raise MissingExtraError("trainer.loggers: tensorboard", "tensorboard", "tensorboard") from None
    from pytorch_lightning.loggers import TensorBoardLogger

    return [TensorBoardLogger(run.path / "tensorboard", name=stage, version="")]


def _validation_loader(
    recipe: Recipe, stage: Stage, model: SpeechLM, held_out: list[Corpus], features: FeatureCache | None
) -> StageLoader:
    sources = [
        Source(corpus.name, _source(corpus, stage.validate.data[corpus.name]).costs) for corpus in held_out
    ]
    plan = Plan(sources, batch_seconds=stage.batch.seconds, seed=recipe.seed)
    reader = Reader(held_out, model, recipe.seed, features)
    # One pass, the same on every rank: the set is small, and every rank gets the same number of batches.
    return StageLoader(reader, PlanSampler(plan, len(plan.epoch(0)), 0, 1), 0)

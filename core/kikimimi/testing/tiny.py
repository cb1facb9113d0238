"""A recipe made small: the same structure, tiny random components, two steps on a handful of clips."""

from dataclasses import fields, replace
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import torch

from kikimimi.contracts.generation import Generation
from kikimimi.model.assembly import assemble
from kikimimi.model.speech_lm import SpeechLM
from kikimimi.model.trainable import unfilled_names
from kikimimi.recipe import Chosen, Dataset, Evaluation, Gate, Recipe, Share, Stage, Trainer
from kikimimi.recipe.chosen import PARTS
from kikimimi.testing.records import conversation, labelled_clip, refusal

_STEPS = 2
_BATCH_SECONDS = 4.0
_NEW_TOKENS = 4
_ANY_RATE = 1e9

Sourced = TypeVar("Sourced", Dataset, Evaluation)


def tiny_model(recipe: Recipe) -> SpeechLM:
    """Assemble a recipe's model with tiny random components, with LoRA where the recipe has it.

    Raises:
        RecipeError: The parts do not fit each other, or LoRA names layers that a component does not have.
    """
    return assemble(_tiny_parts(recipe))


def tiny_recipe(recipe: Recipe, shards: str | Path, *, conversations: str | Path | None = None) -> Recipe:
    """Return a recipe of the same structure that a laptop trains in seconds.

    Components are tiny and random (LoRA stays), every stage takes two steps of a few seconds of audio and
    lets the model write a few tokens at most, every dataset and evaluation reads the given shards, weights
    are equal, guards are measured in one language, and it runs on one CPU process. Baselines, stages' guards,
    loggers and the feature cache are left out; fp16, which a CPU lacks, becomes bf16.

    Args:
        recipe: Resolved.
        shards: Shards of labelled clips, as `write_shard` makes them.
        conversations: Shards of conversations, for tasks that take no labelled clips.

    Raises:
        ValueError: A task takes no labelled clips, and there are no conversations; or it takes neither.
    """

    def source(where: str, given: Sourced) -> Sourced:
        task = given.task.component(given.task.config)
        refused = refusal(task, labelled_clip(Random(0)))
        if refused is None:
            return replace(given, shards=str(shards))
        of_talk = refusal(task, conversation(Random(0), said=True))
        if of_talk is not None:
            raise ValueError(
                f"{where}: task '{given.task.name}' takes neither labelled clips ({refused}) nor "
                f"conversations ({of_talk}) as write_shard makes them"
            )
        if conversations is None:
            raise ValueError(
                f"{where}: task '{given.task.name}' takes no labelled clips; give tiny_recipe conversations"
            )
        return replace(given, shards=str(conversations))

    def evenly(given: Dataset) -> Dataset:
        # A handful of records has no share for a small weight.
        return given if given.weight is None else replace(given, weight=1.0)

    def stage(name: str, given: Stage) -> Stage:
        key = f"stages.{name}"
        return replace(
            given,
            objective=_brief(given.objective),
            steps=_STEPS,
            epochs=None,
            gate={n: _wide(gate) for n, gate in given.gate.items()},  # random parts get through none
            guards=[],
            data={n: evenly(source(f"{key}.data.{n}", data)) for n, data in given.data.items()},
            batch=replace(
                given.batch,
                seconds=min(given.batch.seconds or _BATCH_SECONDS, _BATCH_SECONDS),
                tokens=None,
                global_=min(given.batch.global_, 2),
            ),
            schedule=replace(given.schedule, warmup=min(given.schedule.warmup, _STEPS - 1), hold=0),
            checkpoint=replace(given.checkpoint, every=1),
            validate=replace(
                given.validate,
                every=min(given.validate.every, _STEPS),
                data={n: source(f"{key}.validate.data.{n}", data) for n, data in given.validate.data.items()},
            ),
        )

    small = _tiny_parts(recipe)
    small = replace(small, stages={name: stage(name, given) for name, given in recipe.stages.items()})
    precision = given if (given := recipe.trainer.precision) != "fp16" else "bf16"
    return replace(
        _with_fixed(small),
        evaluate={
            name: replace(
                source(f"evaluate.{name}", given),
                generate=replace(given.generate, max_new_tokens=_NEW_TOKENS),
                baselines={},
                cascades={},
                written=False,
            )
            for name, given in recipe.evaluate.items()
        },
        guards=replace(
            recipe.guards,
            languages=recipe.guards.languages[:1],
            max_new_tokens=min(recipe.guards.max_new_tokens, _NEW_TOKENS),
        ),
        trainer=Trainer(precision=precision, accelerator="cpu", log_every=1, cache_features=False),
    )


def _with_fixed(recipe: Recipe) -> Recipe:
    """Declare fixed what a source would have filled: tiny parts are random, and some stay so."""
    with torch.device("meta"):
        model = assemble(recipe, texts=lambda: ["a"], load_weights=False, measured=True)
    unfilled = unfilled_names(model, recipe)
    changed = {}
    for part in PARTS:
        names = [name.removeprefix(f"{part}.") for name in unfilled if name.startswith(f"{part}.")]
        if names:
            chosen = getattr(recipe, part)
            changed[part] = replace(chosen, fixed=[*(chosen.fixed or []), *names])
    return replace(recipe, **changed)


def _wide(gate: Gate) -> Gate:
    return Gate(
        max=None if gate.max is None else _ANY_RATE,
        min=None if gate.min is None else -_ANY_RATE,
        truncated=gate.truncated and Share(max=1),
        looped=gate.looped and Share(max=1),
    )


def _tiny_parts(recipe: Recipe) -> Recipe:
    return replace(
        recipe, encoder=_tiny(recipe.encoder), adapter=_tiny(recipe.adapter), llm=_tiny(recipe.llm)
    )


def _tiny(chosen: Chosen) -> Chosen:
    return replace(chosen, config=chosen.component.tiny_config(chosen.config))


def _brief(objective: Chosen) -> Chosen:
    """Return an objective with whatever it lets the model write made short, inside other plugins too."""

    def short(value: Any) -> Any:
        if isinstance(value, Generation):
            return replace(value, max_new_tokens=min(value.max_new_tokens, _NEW_TOKENS))
        if isinstance(value, dict):
            return {name: short(item) for name, item in value.items()}
        return _brief(value) if isinstance(value, Chosen) else value

    options = {item.name: short(getattr(objective.config, item.name)) for item in fields(objective.config)}
    return replace(objective, config=replace(objective.config, **options))

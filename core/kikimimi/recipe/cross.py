"""Checks of a recipe that look at more than one section. They work on what could be built, so that their
problems are shown together with all the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kikimimi.console.words import listing, nearest
from kikimimi.contracts import registry
from kikimimi.contracts.metric import open_metric
from kikimimi.errors import RequestError
from kikimimi.recipe.build import Builder
from kikimimi.recipe.chosen import PARTS, Chosen, LoRA
from kikimimi.recipe.schema import Batching, Evaluation, Gate, Train, Trainer
from kikimimi.recipe.source import Entry

if TYPE_CHECKING:
    from kikimimi.contracts.objective import Objective


def check_across(tree: Entry, builder: Builder, *, trains: bool = True) -> None:
    """Add the problems between sections.

    Args:
        tree: The recipe.
        builder: What could be built of it.
        trains: Whether stages will be trained where the recipe says that it runs: otherwise ranks have no
            batches to share out.
    """
    trainer = builder.built.get("trainer", Trainer())
    for part in PARTS:
        _check_modality(part, builder)
    for name in _inside(tree, "evaluate"):
        _check_metric(f"evaluate.{name}", builder)
    earlier: list[str] = []
    for stage, section in _inside(tree, "stages").items():
        key = f"stages.{stage}"
        _check_length(key, section, builder)
        _check_start(key, section, earlier, builder)
        _check_evaluations(key, section, tree, builder)
        earlier.append(stage)
        _check_lora(key, tree, builder)
        if trains and ("trainer" in builder.built or not _inside(tree, "trainer")):
            _check_batch(key, section, trainer, builder)
        _check_objective(key, section, trainer if trains else Trainer(), builder)
        _check_weights(key, section, builder)


def _inside(entry: Entry | None, *names: str) -> dict[str, Entry]:
    for name in names:
        entry = entry.value.get(name) if entry and isinstance(entry.value, dict) else None
    return entry.value if entry and isinstance(entry.value, dict) else {}


def _add(builder: Builder, key: str, message: str) -> None:
    place = key
    while place not in builder.where:  # an option left at its default stands nowhere: its section does
        place = place.rpartition(".")[0]
    builder.problems.add(key, message, builder.where[place])


def _check_length(stage: str, section: Entry, builder: Builder) -> None:
    given = [_inside(section).get(name) for name in ("steps", "epochs")]
    if isinstance(section.value, dict) and not any(entry and entry.value is not None for entry in given):
        _add(builder, f"{stage}.steps", "must be given: a whole number, or epochs in its place")


def _check_start(stage: str, section: Entry, earlier: list[str], builder: Builder) -> None:
    start = _inside(section).get("start_from")
    if start and isinstance(start.value, str) and start.value not in earlier:
        there = f"{nearest(start.value, earlier)} Earlier stages: {listing(earlier)}"
        _add(builder, f"{stage}.start_from", f"there is no stage '{start.value}' before this one.{there}")


def _check_evaluations(stage: str, section: Entry, tree: Entry, builder: Builder) -> None:
    known = list(_inside(tree, "evaluate"))
    listed = _inside(section).get("evaluate")
    named = [(f"{stage}.gate.{name}", name) for name in _inside(section, "gate")]
    for entry in listed.value if listed and isinstance(listed.value, list) else []:
        named.append((f"{stage}.evaluate", entry.text))
    for name in _inside(section, "gate"):
        _check_gate(f"{stage}.gate.{name}", name, builder)
    for key, name in named:
        if name not in known:
            said = (
                f"the recipe has no evaluation '{name}'.{nearest(name, known)} Evaluations: {listing(known)}"
            )
            _add(builder, key, said)


def own_name_taken(recipe: str, evaluation: Evaluation) -> str | None:
    """Return what is wrong where two systems of an evaluation have one name, such as the recipe's own."""
    for section, names in (("baselines", evaluation.baselines), ("cascades", evaluation.cascades)):
        if recipe in names:
            return (
                f"{section}.{recipe}: has the name of the recipe itself, under which the run's own score "
                "stands. Call it something else"
            )
    if both := sorted(evaluation.baselines.keys() & evaluation.cascades):
        return f"cascades.{both[0]}: a baseline has this name, too. Call it something else"
    return None


def _check_metric(key: str, builder: Builder) -> None:
    """Check that metric and normaliser go together, whatever else is wrong with the evaluation."""
    whole = builder.built.get(key)
    metric, normaliser = (builder.built.get(f"{key}.{option}") for option in ("metric", "normaliser"))
    if isinstance(whole, Evaluation):
        metric, normaliser = whole.metric, whole.normaliser
        if problem := own_name_taken(str(builder.built.get("name")), whole):
            name, _, said = problem.partition(": ")
            _add(builder, f"{key}.{name}", said)
    if isinstance(metric, Chosen) and isinstance(normaliser, str):
        at = "normaliser"
        try:
            registry.load(at, normaliser)
            at = "metric"
            open_metric(metric.name, normaliser, metric.config)
        except RequestError as error:
            _add(builder, f"{key}.{at}", str(error))


def _check_gate(key: str, evaluation: str, builder: Builder) -> None:
    gate, given = builder.built.get(key), builder.built.get(f"evaluate.{evaluation}")
    if not (isinstance(gate, Gate) and isinstance(given, Evaluation)):
        return
    better = getattr(given.metric.component, "better", None)
    wrong, right, least = ("min", "max", "largest") if better == "lower" else ("max", "min", "smallest")
    if better is not None and getattr(gate, wrong) is not None:
        said = (
            f"of metric '{given.metric.name}' {better} values are better: give {right}, the {least} value "
            "with which later stages begin"
        )
        _add(builder, f"{key}.{wrong}", said)


def _check_modality(part: str, builder: Builder) -> None:
    lora: Any = builder.built.get(f"{part}.lora")
    if isinstance(lora, LoRA) and lora.modality == "audio" and part != "llm":
        said = f"the {part} hears nothing but audio: 'audio' has a meaning for the llm alone"
        _add(builder, f"{part}.lora.modality", said)


def _check_lora(stage: str, tree: Entry, builder: Builder) -> None:
    for part in PARTS:
        train: Any = builder.built.get(f"{stage}.train.{part}")
        section = _inside(tree, part)
        if isinstance(train, Train) and train.part == "lora" and section:
            lora = section.get("lora")
            if lora is None or lora.value is None:
                said = f"the {part} has no lora section: give {part}.lora, such as {{rank: 16, alpha: 32}}"
                _add(builder, f"{stage}.train.{part}.part", said)


def _check_batch(stage: str, section: Entry, trainer: Trainer, builder: Builder) -> None:
    batch = builder.built.get(f"{stage}.batch", None if "batch" in _inside(section) else Batching())
    ranks = trainer.devices * trainer.nodes
    if isinstance(batch, Batching) and batch.global_ % ranks:
        said = (
            f"{batch.global_} micro-batches per step cannot be shared out evenly over {ranks} ranks "
            f"(trainer.devices {trainer.devices} x trainer.nodes {trainer.nodes}). Give a multiple of {ranks}"
        )
        _add(builder, f"{stage}.batch.global", said)


def _check_objective(stage: str, section: Entry, trainer: Trainer, builder: Builder) -> None:
    chosen = builder.built.get(f"{stage}.objective")
    if not isinstance(chosen, Chosen):
        return
    objective: Objective = chosen.component(chosen.config)
    for part in _inside(section, "train"):
        if part in PARTS and part not in objective.reaches:
            said = (
                f"objective '{chosen.name}' gives the {part} no gradient. Leave it out, or sum the objective "
                "with one that does (objective 'sum')"
            )
            _add(builder, f"{stage}.train.{part}", said)
    if trainer.strategy == "fsdp" and objective.generates:
        said = (
            "lets the LLM write answers in training, and with trainer.strategy: fsdp ranks would wait for "
            "those whose answers are longer. Take strategy ddp, or answers that stand in the data"
        )
        _add(builder, f"{stage}.objective", said)


def _check_weights(stage: str, section: Entry, builder: Builder) -> None:
    data = _inside(section, "data")
    weighted = {
        name: "weight" in _inside(entry) and _inside(entry)["weight"].value is not None
        for name, entry in data.items()
    }
    if len(set(weighted.values())) > 1:
        have = ", ".join(name for name, given in weighted.items() if given)
        lack = ", ".join(name for name, given in weighted.items() if not given)
        _add(builder, f"{stage}.data", f"{have} has a weight, {lack} has none. Give each a weight, or none")
    for name, entry in _inside(section, "validate", "data").items():
        weight = _inside(entry).get("weight")
        if weight and weight.value is not None:
            key = f"{stage}.validate.data.{name}.weight"
            _add(builder, key, "is not read: validation goes through each dataset once")

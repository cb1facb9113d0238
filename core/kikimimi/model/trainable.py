"""Which parameters a stage trains, which ones a run has to keep, and loading those back."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import Tensor, nn

from kikimimi.console.words import listing, nearest
from kikimimi.errors import DamagedError, RecipeError
from kikimimi.files.hashes import CHECKPOINT_REMEDY, IMPORT_REMEDY, WEIGHTS_REMEDY
from kikimimi.files.reading import damaged, unreadable
from kikimimi.model.speech_lm import SpeechLM
from kikimimi.recipe import IMPORTED, Recipe, Stage
from kikimimi.recipe.chosen import PARTS, PartName
from kikimimi.weights.tensors import StoredTensor, check_stage, check_stored, copy_into, stored_tensors


def trainable_names(
    model: SpeechLM, stage: Stage, *, where: str, check_dtype: bool = True
) -> dict[str, list[str]]:
    """Return the names of the parameters that a stage trains, by component, or by ``component.group``.

    Those of the encoder that are learnt downstream are trained as the adapter is, unless the stage trains
    them with the encoder.

    Args:
        model: The recipe's model.
        stage: A stage of the recipe.
        where: The stage's key, for messages.
        check_dtype: Refuse parameters of half precision; not where the model is as another stage has it.

    Raises:
        RecipeError: A `part` matches no parameter, or parameters of half precision.
    """
    found: dict[str, list[str]] = {}
    problems = []
    undecayed = undecayed_names(model)
    for part, train in stage.train.items():
        parameters = dict(getattr(model, part).named_parameters())
        names = [name for name in parameters if f"{part}.{name}" not in model.fixed]
        taken: set[str] = set()
        for key, pattern in [*((f"{part}.{n}", g.part) for n, g in train.groups.items()), (part, train.part)]:
            matched = _matching(names, pattern)
            chosen = [name for name in matched if name not in taken]
            taken.update(chosen)
            place = f"{where}.train.{part}" + (f".groups.{key.partition('.')[2]}" if key != part else "")
            if not matched:
                problems.append(
                    f"{place}.part: {pattern!r} matches no parameter of the {part}."
                    f"{nearest(pattern, names)} Allowed: all, lora, or a pattern over names such as "
                    f"{listing(names[:3])}"
                )
            elif not chosen:
                problems.append(f"{place}.part: other groups have every parameter that {pattern!r} matches")
            half = [name for name in chosen if parameters[name].dtype != torch.float32]
            if half and check_dtype:
                problems.append(
                    f"{place}: trains {half[0]}, which is {parameters[half[0]].dtype}, and "
                    f"optimisers need fp32. Take {part}.dtype away, or set {where}.dtype.{part}=fp32: "
                    "trainer.precision does the rest"
                )
            found[key] = [f"{part}.{name}" for name in chosen]
            asked = train.weight_decay if key == part else train.groups[key.partition(".")[2]].weight_decay
            decays = stage.optimiser.decay_norm_and_bias or not undecayed.issuperset(found[key])
            if asked and chosen and not decays:
                problems.append(
                    f"{place}.weight_decay: everything that {pattern!r} matches is a norm, a bias or of one "
                    "dimension, which do not decay: leave it out, or set "
                    f"{where}.optimiser.decay_norm_and_bias=true"
                )
    if problems:
        raise RecipeError(problems)
    if "adapter" in found:
        named = {name for names in found.values() for name in names}
        found["adapter"] += sorted(downstream_names(model) - named)
    return found


def downstream_names(model: SpeechLM) -> set[str]:
    """Return the names of the encoder's parameters that train with the adapter."""
    return {f"encoder.{name}" for name in model.encoder.downstream_names()} - model.fixed


def _matching(names: list[str], pattern: str) -> list[str]:
    if pattern == "all":
        return names
    if pattern == "lora":
        return [name for name in names if ".lora_" in name]
    return [name for name in names if fnmatchcase(name, pattern)]


def undecayed_names(model: nn.Module) -> set[str]:
    """Return the names of the parameters that weight decay leaves out, unless a recipe says otherwise: norms,
    biases, and what has one dimension or none (scales of layers and logits).

    The union of what nanoGPT (by dimensions) and transformers (`Trainer.get_decay_parameter_names`, by kinds
    and names) leave out. Matrices decay, embeddings, queries and low-rank updates among them.
    """
    found = set()
    for place, module in model.named_modules():
        norm = "norm" in type(module).__name__.lower()
        for name, parameter in module.named_parameters(place, recurse=False):
            if norm or parameter.dim() < 2 or "bias" in name.lower():
                found.add(name)
    return found


def freeze_all_but(model: SpeechLM, names: Iterable[str]) -> None:
    """Let exactly these parameters train; a component without any goes to eval mode."""
    wanted = set(names)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in wanted)
    set_modes(model)


def set_modes(model: SpeechLM, *, eval_mode: bool = False) -> None:
    """Put modules that train into train mode and frozen ones, dropout and all, into eval mode.

    What changes the encoder's input at random works also where the encoder is frozen.

    Args:
        model: The model.
        eval_mode: Put what trains into eval mode, too.
    """
    # The weights of a sum of layers train alone: what they stand in is as frozen as it would be without.
    apart = {model.encoder.get_parameter(name) for name in model.encoder.downstream_names()}
    for part in PARTS:
        _set_mode(getattr(model, part), False, apart)
        if eval_mode:
            getattr(model, part).eval()
    if model.encoder.augmentation is not None and not eval_mode:
        model.encoder.augmentation.train()


def _set_mode(module: nn.Module, above: bool, apart: set[nn.Parameter]) -> None:
    """Set a module's mode by the parameters in it; one without any (dropout) goes with what it is part of."""
    parameters = [parameter for parameter in module.parameters() if parameter not in apart]
    module.training = any(p.requires_grad for p in parameters) if parameters else above
    for child in module.children():
        _set_mode(child, module.training, apart)


@dataclass(frozen=True)
class Count:
    """Parameters of a component.

    Attributes:
        total: Number of all parameters; a tied pair counts once.
        trainable: Number of those that some stage trains.
    """

    total: int
    trainable: int


def count_parameters(model: SpeechLM, recipe: Recipe) -> dict[str, Count]:
    """Count the parameters of each part, and how many some stage trains."""
    trained = trained_names(model, recipe)
    counts: dict[str, Count] = {}
    for part in PARTS:
        parameters = {f"{part}.{name}": p.numel() for name, p in getattr(model, part).named_parameters()}
        counts[part] = Count(
            sum(parameters.values()), sum(size for name, size in parameters.items() if name in trained)
        )
    return counts


def trained_names(model: SpeechLM, recipe: Recipe, stages: Iterable[str] | None = None) -> set[str]:
    """Return the names of the parameters that any of some stages trains, or of all stages.

    Raises:
        RecipeError: A `part` matches no parameter.
    """
    found = (
        trainable_names(model, recipe.stages[name], where=f"stages.{name}", check_dtype=False)
        for name in (recipe.stages if stages is None else stages)
    )
    return {name for groups in found for names in groups.values() for name in names}


def check_sources(model: SpeechLM, recipe: Recipe) -> None:
    """Check that every parameter has its values from a source, or from a stage that trains it.

    The model may be on the meta device: names are looked at alone.

    Raises:
        RecipeError: One would stay as it was drawn at random, and the recipe does not say that it shall.
    """
    if problems := [problem for found in source_problems(model, recipe).values() for problem in found]:
        raise RecipeError(problems)


def source_problems(model: SpeechLM, recipe: Recipe) -> dict[PartName, list[str]]:
    """Return what is wrong with each part whose parameters would stay as they were drawn at random."""
    problems: dict[PartName, list[str]] = {}
    unfilled = unfilled_names(model, recipe)
    for part in PARTS:
        names = [name.removeprefix(f"{part}.") for name in unfilled if name.startswith(f"{part}.")]
        updates = [name for name in names if ".lora_" in name]
        rest = [name for name in names if ".lora_" not in name]
        if updates:
            problems.setdefault(part, []).append(
                f"{part}.lora: no stage trains the low-rank updates ({_some(updates)}). Train them "
                f"(stages.NAME.train.{part}.part: lora), or leave {part}.lora out"
            )
        if rest:
            others = {n for n, _ in getattr(model, part).named_parameters()} - {*names}
            own = {name for name in others if f"{part}.{name}" not in model.fixed and ".lora_" not in name}
            patterns = rest[:3] if own or len(rest) <= 3 else ["*"]
            source = f"name weights that fill them ({part}.weights), " if _may_be_read(recipe, part) else ""
            problems.setdefault(part, []).append(
                f"{part}: no source fills {_some(rest)}, and no stage trains them: they would stay as they "
                f"were drawn at random. Train them (stages.NAME.train.{part}), {source}or say that they stay "
                f"so ({part}.fixed: {patterns})"
            )
    return problems


def unfilled_names(model: SpeechLM, recipe: Recipe) -> list[str]:
    """Return the names of the parameters that no source fills, no stage trains, and nobody declares fixed."""
    known = model.pretrained | model.fixed | trained_names(model, recipe)
    return [name for name, _ in model.named_parameters() if name not in known]


def _may_be_read(recipe: Recipe, part: str) -> bool:
    return "random" in getattr(recipe, part).sources().values()


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def kept_names(model: SpeechLM, recipe: Recipe, stage: str | None = None) -> set[str]:
    """Return the names of the tensors that checkpoints hold: of a stage, or of every one.

    They are the parameters that the stage or one that it builds on trains, those that have no pretrained
    source, and the buffers of the components that either belong to (running statistics); the rest is there by
    reference.
    """
    names = trained_names(model, recipe, None if stage is None else lineage(recipe, stage))
    parameters = {name for name, _ in model.named_parameters()}
    names.update(parameters - model.pretrained)
    buffers = named_tensors(model).keys() - parameters
    for part in PARTS:
        if any(name.startswith(f"{part}.") for name in names):
            names.update(name for name in buffers if name.startswith(f"{part}."))
    return names


def lineage(recipe: Recipe, stage: str) -> list[str]:
    """Return the stages that a stage builds on, the first one first, and the stage itself."""
    if stage == IMPORTED:
        return []
    found = [stage]
    while (before := recipe.start_of(found[0])) is not None:
        found.insert(0, before)
    return found


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters (a tied one once) and persistent buffers by name."""
    parameters: dict[str, Tensor] = dict(model.named_parameters())
    tied = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    state = model.state_dict(keep_vars=True)
    return parameters | {name: tensor for name, tensor in state.items() if name not in tied}


def cast_alone(model: SpeechLM, path: Path) -> dict[str, StoredTensor]:
    """Return what a stage holds in half precision and does not change, as what it starts from has it.

    A copy of what the model holds would be rounded for good.

    Args:
        model: The stage's, with what trains unfrozen and its modes set.
        path: Weights that the stage starts from.
    """
    moving = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for prefix, module in model.named_modules():
        if module.training:
            moving.update(f"{prefix}.{name}" for name, _ in module.named_buffers(recurse=False))
    cast = {
        name
        for name, tensor in named_tensors(model).items()
        if name not in moving and tensor.dtype in (torch.bfloat16, torch.float16)
    }
    return {name: stored for name, stored in stored_tensors(path).items() if name in cast} if cast else {}


def load_kept(
    model: nn.Module, state: Mapping[str, Tensor | StoredTensor], kept: Collection[str], *, source: str
) -> None:
    """Copy named parameters into a model, sharded or not: all of `kept` and nothing else.

    Raises:
        DamagedError: The names or shapes differ.
    """
    parameters = named_tensors(model)
    if problem := misfit({name: parameters[name].shape for name in kept}, state):
        raise DamagedError(f"{source} does not fit the recipe: {problem}")
    for name, tensor in state.items():
        copy_into(parameters[name], tensor)


def misfit(shapes: Mapping[str, torch.Size], state: Mapping[str, Tensor | StoredTensor]) -> str:
    """Return what makes saved tensors others than those that are kept; nothing where they fit.

    Args:
        shapes: Shape of each tensor that is kept.
        state: Saved tensors by name.
    """
    if wrong := sorted(shapes.keys() ^ state.keys()):
        return f"it differs in {listing(wrong[:5])}"
    for name, tensor in state.items():
        if shapes[name] != tensor.shape:
            return f"{name} is {tuple(tensor.shape)} there and {tuple(shapes[name])} in the model"
    return ""


def require_stored(path: Path, stage: str | None, remedy: str = "") -> bool:
    """Check what a stage left, or had reached, against its hash, for its form, and that it is of the stage.

    Args:
        path: The file, or one of the pieces.
        stage: The stage in whose place it is; None where that is not known.
        remedy: What people can do where it is damaged, if not what its place tells.

    Returns:
        Whether it has a hash: earlier versions wrote none.

    Raises:
        DamagedError: It is damaged, or another stage's.
    """
    if path.parent.name.startswith("step-"):
        remedy = CHECKPOINT_REMEDY
    elif not remedy:
        remedy = IMPORT_REMEDY if stage == IMPORTED else WEIGHTS_REMEDY
    try:
        hashed = check_stored(path)
        stored_tensors(path)
    except (OSError, ValueError) as error:
        raise unreadable(path, error, remedy) from error
    try:
        if stage is not None:
            check_stage(path, stage)
    except ValueError as error:
        raise damaged(path, str(error).removeprefix(f"{path.name} "), remedy) from error
    return hashed


def load_trained(model: SpeechLM, recipe: Recipe, stage: str, path: Path) -> bool:
    """Load what a stage of a run left, or had reached, into its model, sharded or not.

    Returns:
        Whether the file was held against a hash: earlier versions wrote none.

    Raises:
        DamagedError: The file is damaged, another stage's, or does not fit.
    """
    hashed = require_stored(path, stage)
    state = stored_tensors(path)
    load_kept(model, state, kept_names(model, recipe, stage), source=str(path))
    return hashed

"""From a recipe to a model: builds the three parts and tells each what it has to know.

For a model that no process is to hold whole, parts are built without memory: assembled with their parameters
on the meta device, sharded, and filled afterwards, when each rank reads the rows that it holds.
"""

import fnmatch
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from kikimimi.console.words import listing, nearest
from kikimimi.contracts.component import LLM, AdapterContext, Component, Encoder, LLMContext
from kikimimi.contracts.precision import DTYPES
from kikimimi.errors import RecipeError
from kikimimi.files.hashes import ASSETS_REMEDY, require_files
from kikimimi.model.lora import AudioGate, add_lora, has_updates, load_updates
from kikimimi.model.speech_lm import SpeechLM
from kikimimi.recipe import Chosen, Recipe
from kikimimi.recipe.chosen import PARTS


def assemble(
    recipe: Recipe,
    *,
    texts: Callable[[], Iterable[str]] | None = None,
    assets: Path | None = None,
    load_weights: bool = True,
    deferred: bool = False,
    measured: bool = False,
) -> SpeechLM:
    """Build the model of a recipe.

    Args:
        recipe: Resolved.
        texts: Yields every text of the training data, for a tokenizer built from it.
        assets: Folder of an earlier `save_assets`, which then stands in for `texts`.
        load_weights: Whether to read pretrained weights; without, what they would fill is unspecified.
        deferred: Build parts that only pretrained weights fill, and that can be filled in pieces, on the meta
            device; the model's `deferred` names them. They have to be filled later: see `load_deferred`.
        measured: Only shapes count: see `LLMContext`.

    Raises:
        RecipeError: The parts do not fit each other or the data.
        WeightsError: Weights are missing or do not fit.
        DamagedError: Assets are not as they were written.
    """
    # Random initialisation is part of the recipe: the same seed gives the same start, whatever ran before.
    # Each part has numbers of its own, so that it starts alike whatever the other parts are.
    with torch.random.fork_rng(devices=[]):
        encoder = _build(recipe.encoder, "encoder", recipe.seed, deferred=deferred)
        if assets is not None:
            require_files(assets, ASSETS_REMEDY)
        folders = {part: assets / part if assets is not None else None for part in PARTS}
        llm_context = LLMContext(texts=texts, assets=folders["llm"], measured=measured)
        llm = _build(recipe.llm, "llm", recipe.seed, llm_context, deferred=deferred)
        context = AdapterContext(
            in_dim=encoder.dim,
            out_dim=llm.dim,
            frame_rate=encoder.frame_rate,
            num_concat_layers=encoder.num_concat_layers,
            vocabulary=llm.vocabulary,
            texts=texts,
            assets=folders["adapter"],
        )
        adapter = _build(recipe.adapter, "adapter", recipe.seed, context)
        # Read by now; what data loaders' processes are sent must not hold the way to the data.
        llm.context, adapter.context = replace(llm.context, texts=None), replace(context, texts=None)
        fixed: set[str] = set()
        pretrained: set[str] = set()
        gates: dict[str, AudioGate | None] = {}
        unfilled: set[str] = set()
        for where, chosen, part in zip(
            PARTS,
            (recipe.encoder, recipe.adapter, recipe.llm),
            (encoder, adapter, llm),
            strict=True,
        ):
            later = any(parameter.is_meta for parameter in part.parameters())
            if later:
                unfilled.add(where)
            elif load_weights:
                part.load_weights()
            _set_dtype(part, DTYPES[chosen.dtype])
            # By identity: low-rank adaptation renames what it adapts.
            constants = {id(p) for p in part.parameters() if not p.requires_grad}
            sourced = part.pretrained_names()
            loaded = {id(p) for name, p in part.named_parameters() if name in sourced}
            if chosen.lora is not None:
                _seed(recipe.seed, f"{where}.lora")
                with _standing_in(part):
                    gates[where] = add_lora(part, chosen.lora, where=where)
                if load_weights and chosen.lora.weights != "random":
                    load_updates(part, chosen.lora, where=where)
            named = [(f"{where}.{name}", id(p)) for name, p in part.named_parameters()]
            fixed.update(name for name, identity in named if identity in constants)
            fixed.update(_fixed(where, chosen.fixed or [], part))
            pretrained.update(name for name, identity in named if identity in loaded)
            if chosen.lora is not None and chosen.lora.weights != "random":
                pretrained.update(name for name, _ in named if ".lora_" in name)
    model = SpeechLM(encoder, adapter, llm, frozenset(fixed), frozenset(pretrained), gates.get("llm"))
    model.deferred = frozenset(unfilled)
    return model


def _fixed(where: str, patterns: list[str], part: nn.Module) -> set[str]:
    """Return the parameters of a part that its recipe declares fixed; low-rank updates are none of its own.

    Raises:
        RecipeError: A pattern matches none.
    """
    names = [name for name, _ in part.named_parameters() if ".lora_" not in name]
    found: set[str] = set()
    problems = []
    for pattern in patterns:
        matched = fnmatch.filter(names, pattern)
        found.update(f"{where}.{name}" for name in matched)
        if not matched:
            problems.append(
                f"{where}.fixed: {pattern!r} matches no parameter of the {where}.{nearest(pattern, names)} "
                f"Allowed: patterns over names such as {listing(names[:3])}"
            )
    if problems:
        raise RecipeError(problems)
    return found


def pretrained_encoder(recipe: Recipe) -> Encoder:
    """Build the encoder alone, filled, as `assemble` does but for low-rank updates."""
    with torch.random.fork_rng(devices=[]):
        encoder: Encoder = _build(recipe.encoder, "encoder", recipe.seed)
        encoder.load_weights()
        _set_dtype(encoder, DTYPES[recipe.encoder.dtype])
    return encoder.eval().requires_grad_(False)


def pretrained_llm(chosen: Chosen, where: str) -> LLM:
    """Build an LLM that hears nothing, filled, as `assemble` does.

    Args:
        chosen: The LLM as a recipe chooses it; low-rank updates that act only where there is audio are none.
        where: What messages call its place.

    Raises:
        RecipeError: It cannot be built.
        WeightsError: Weights are missing or do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        llm: LLM = _build(chosen, where, 0, LLMContext())
        llm.load_weights()
        _set_dtype(llm, DTYPES[chosen.dtype])
        if chosen.lora is not None and chosen.lora.modality == "any":
            add_lora(llm, chosen.lora, where=where)
            if chosen.lora.weights != "random":
                load_updates(llm, chosen.lora, where=where)
    return llm.eval().requires_grad_(False)


def _seed(seed: int, what: str) -> None:
    digest = hashlib.sha256(f"{seed} {what}".encode()).digest()
    # Those of other devices are the caller's, and parts are built on the CPU.
    torch.default_generator.manual_seed(int.from_bytes(digest[:8], "big") >> 1)


_TOO_LARGE = re.compile("alloc|out of memory|overflow", re.IGNORECASE)  # in what torch says


def _build(chosen: Chosen, where: str, seed: int, *context: object, deferred: bool = False) -> Any:
    # Weights that are read from a source never exist in full precision; random ones are drawn in it.
    reads = getattr(chosen.config, "weights", "random") != "random"
    deferred = deferred and reads and chosen.component.fills_pieces
    _seed(seed, where)
    try:
        with (
            _default_dtype(DTYPES[chosen.dtype] if reads else torch.float32),
            _without_memory() if deferred else nullcontext(),
        ):
            part = chosen.component(chosen.config, *context)
    except RecipeError:
        raise
    except ValueError as error:
        if type(error) is not ValueError:  # a KikimimiError says already what it is about
            raise
        raise RecipeError([f"{where}: {error}"]) from error
    except (RuntimeError, MemoryError, OverflowError) as error:
        said = str(error).split("\n")[0] or "out of memory"
        if isinstance(error, RuntimeError) and not _TOO_LARGE.search(said):
            raise
        problem = f"{where}: is too large to be built on this machine: {said}. Are its sizes what you meant?"
        raise RecipeError([problem]) from error
    if deferred and part.pretrained_names() != {name for name, _ in part.named_parameters()}:
        return _build(chosen, where, seed, *context)  # some of its weights are drawn at random
    return part


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _set_dtype(part: Component, dtype: torch.dtype) -> None:
    """Convert weights and saved statistics; tables that are computed keep their precision.

    What trains with the adapter is as precise as an optimiser needs it.
    """
    downstream = part.downstream_names() if isinstance(part, Encoder) else set()
    for name, parameter in part.named_parameters():
        wanted = torch.float32 if name in downstream else dtype
        if parameter.is_floating_point() and parameter.dtype != wanted:
            parameter.data = parameter.data.to(wanted)
    for module in part.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_floating_point() and name not in module._non_persistent_buffers_set:
                module._buffers[name] = buffer.to(dtype)


@contextmanager
def _without_memory() -> Iterator[None]:
    """Put parameters on the meta device as modules register them; buffers, which are computed, stay real.

    A parameter that is there already is left as it is: what is tied stays so.
    """
    register = nn.Module.register_parameter

    def register_on_meta(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and not param.is_meta:
            param = nn.Parameter(param.detach().to("meta"), requires_grad=param.requires_grad)
        register(module, name, param)

    with patch.object(nn.Module, "register_parameter", register_on_meta):
        yield


@contextmanager
def _standing_in(component: nn.Module) -> Iterator[None]:
    """Give linear layers on the meta device weights of no size to speak of, which low-rank updates can join.

    peft puts an update where the layer's weight is, and would throw away the numbers that it drew for it.
    """
    held = [
        (module, module.weight)
        for module in component.modules()
        if isinstance(module, nn.Linear) and module.weight.is_meta
    ]
    for module, weight in held:
        one = torch.zeros((), dtype=weight.dtype)
        module.weight = nn.Parameter(one.expand(weight.shape), requires_grad=weight.requires_grad)
    try:
        yield
    finally:
        for module, weight in held:
            module.weight = weight


def load_deferred(model: SpeechLM) -> None:
    """Fill the parts that were built without memory, once they have some.

    Raises:
        WeightsError: Weights are missing or do not fit.
    """
    for name in sorted(model.deferred):
        part = getattr(model, name)
        with _without_updates(part):
            part.load_weights()


@contextmanager
def _without_updates(part: nn.Module) -> Iterator[None]:
    """Put the layers that low-rank updates are beside back in their places: names are those of the source."""
    held: list[tuple[nn.Module, str, Any]] = [
        (module, name, child)
        for module in part.modules()
        for name, child in module.named_children()
        if has_updates(child)
    ]
    for module, name, child in held:
        setattr(module, name, child.base_layer)
    try:
        yield
    finally:
        for module, name, child in held:
            setattr(module, name, child)

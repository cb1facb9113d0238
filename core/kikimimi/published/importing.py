"""From a published speech LLM to a run: a recipe of registered parts, with weights left where they are."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from kikimimi.console.words import listing, nearest
from kikimimi.errors import KikimimiError, RecipeError, RequestError, WeightsError
from kikimimi.files.writing import scratch_folder, whole_file, writing
from kikimimi.model.assembly import assemble
from kikimimi.model.speech_lm import SpeechLM
from kikimimi.model.trainable import kept_names, require_stored
from kikimimi.published.families import FAMILIES
from kikimimi.published.model import Expressed, PublishedModel
from kikimimi.recipe import IMPORTED, Recipe, digest, load_recipe
from kikimimi.recipe.chosen import PARTS
from kikimimi.run.folder import RunFolder
from kikimimi.run.lock import keep_lock
from kikimimi.weights.files import CONFIG_PATTERNS, WeightsFiles, is_finite
from kikimimi.weights.find import find_weights
from kikimimi.weights.speech_llms import check_places, layout_of
from kikimimi.weights.tensors import write_tensors

_STORED = {"bfloat16": "bf16", "float16": "fp16"}


def import_model(source: str, out: Path, overrides: Sequence[str] = ()) -> RunFolder:
    """Take in a published speech LLM: every tensor finds its place, and every place its tensor.

    Args:
        source: A Hub id, a folder, `package:...`.
        out: The run folder to make.
        overrides: Changes to the recipe, as of `kikimimi train`.

    Returns:
        A run whose parts read their weights from the source.

    Raises:
        WeightsError: The source cannot be read, is no speech LLM that is known, or does not fit.
        RunError: `out` holds something else.
        DamagedError: What an earlier import left there is damaged.
        RecipeError: An override is wrong.
    """
    recipe = imported_recipe(source, overrides)
    run = RunFolder.create(out, recipe)
    if run.finished(IMPORTED):
        require_stored(run.weights(IMPORTED), IMPORTED)
        return run
    with run.locked():
        model = assemble(recipe)
        drawn = sorted(kept_names(model, recipe, IMPORTED) & {name for name, _ in model.named_parameters()})
        if drawn:
            raise WeightsError(
                f"{source}: {len(drawn)} parameters of the recipe find no weight in it: {listing(drawn)}. To "
                f"train with other parts, change the recipe: kikimimi train {out / 'recipe.yaml'} "
                "adapter=... --out runs"
            )
        _check_numbers(model, recipe, source)
        run.save_assets(model)
        keep_lock(run)
        with whole_file(run.weights(IMPORTED)) as unfinished:
            write_tensors(unfinished, {}, {"recipe": digest(recipe), "stage": IMPORTED}, seal=True)
    return run


def _check_numbers(model: SpeechLM, recipe: Recipe, source: str) -> None:
    """Check that every weight is a finite number.

    Raises:
        WeightsError: Some are not; names their tensors, as the files do where these can tell.
    """
    ours = [name for name, value in model.state_dict().items() if not is_finite(value)]
    if not ours:
        return
    sources = {str(getattr(recipe, part).config.weights) for part in PARTS}
    found = [files for one in sources if (files := find_weights(one)) and files.names("*.safetensors")]
    theirs = {name for files in found for name in files.not_finite()}
    names = theirs or set(ours)
    raise WeightsError(
        f"{source}: {len(names)} tensors hold what is no number, or infinite (NaN, inf): {listing(names)}. "
        "The files are damaged, or were saved of a model that was: fetch them again"
    )


def imported_recipe(source: str, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe that expresses a published speech LLM, with a stage that trains its adapter.

    Raises:
        WeightsError: The source cannot be read, or is no speech LLM that is known.
        RecipeError: An override is wrong.
    """
    model = open_published(source)
    expressed = _expressed(model)
    with scratch_folder() as folder:
        file = folder / "recipe.yaml"
        said = yaml.safe_dump(_recipe(model, expressed), allow_unicode=True, sort_keys=False)
        with writing(file):
            file.write_text(said, encoding="utf-8")
        try:
            recipe = load_recipe(file, overrides)
        except RecipeError as error:
            read = re.compile(rf" \({re.escape(str(file))}(:\d+)?\)")
            told = f" (from the settings of {model.source})"
            raise RecipeError([read.sub(told, problem) for problem in error.problems]) from error
    _check_sources(model, recipe)
    return recipe


def _check_sources(model: PublishedModel, recipe: Recipe) -> None:
    """Check that each part has weights in the files of a model, and that the sources it names can be had.

    Raises:
        WeightsError: It has none, or they cannot.
    """
    for part, key in model.layout.ids.items():
        options: Any = getattr(recipe, part).config
        published, named = model.part(part), f"{model.source}: config.json: {key}"
        if options.weights == model.source and not published.tensor_names():
            raise WeightsError(
                f"{named} is missing, and the files hold no weights of the {part}. Name their source: "
                f"{part}.weights=ORG/NAME, or a folder"
            )
        settings = options.weights if model.layout.configs[part][0] == (key,) else None
        read = {"weights": options.weights, "tokenizer": getattr(options, "tokenizer", None)}
        wanted = [option for option, source in read.items() if source == published.source_id]
        if published.source_id and (wanted or settings == model.source):
            try:
                find_weights(published.source_id, patterns=CONFIG_PATTERNS)
            except WeightsError as error:
                raise WeightsError(
                    f"{named} names a source that cannot be had: {str(error).rstrip('.')}. Or name another "
                    f"one: {part}.{(wanted or ['weights'])[0]}=ORG/NAME, or a folder"
                ) from error


def _expressed(model: PublishedModel) -> Expressed:
    """Express a model, whose settings may be of any shape.

    Raises:
        WeightsError: They are not those of its type.
    """
    kind = str(model.config["model_type"])
    try:
        return FAMILIES[kind](model)
    except KikimimiError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise WeightsError(
            f"{model.source}: its settings (config.json and those beside it) are not those of a {kind!r} "
            f"model: {type(error).__name__}: {error}"
        ) from error


def open_published(source: str) -> PublishedModel:
    """Open a published speech LLM; each of its tensors has a place in its type.

    Raises:
        WeightsError: The source cannot be read, is of no type that is known, or holds strange tensors.
    """
    files = find_weights(source)
    if files is None:
        raise RequestError("'random' is no published model: name a Hub id or a folder")
    config = files.read_json("config.json")
    model_type = config.get("model_type")
    layout = layout_of(files)
    if layout is None or model_type not in FAMILIES:
        raise WeightsError(
            f"{source}: config.json: is a {model_type!r} model, which is no speech LLM that can be imported."
            f"{nearest(str(model_type), FAMILIES)} Types: {listing(FAMILIES)}"
        )
    check_places(files, layout, files.tensor_names())
    return PublishedModel(_named(source, files), files, layout, config)


def _named(source: str, files: WeightsFiles) -> str:
    """Return how a recipe names a source for good: a folder by its whole path, a Hub id at its commit."""
    if files.revision is None:
        return str(Path(source).expanduser().resolve()) if Path(source).expanduser().exists() else source
    return f"{source.partition('@')[0]}@{files.revision}"


def _recipe(model: PublishedModel, expressed: Expressed) -> dict[str, Any]:
    dtype = _dtype(model.config)
    called = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(model.source.partition("@")[0]).name).strip("-.")
    stored = {} if dtype is None else {"dtype": dtype}
    return {
        "name": called or IMPORTED,
        "encoder": {**expressed.encoder, **stored},
        "adapter": expressed.adapter,
        "llm": {**expressed.llm, **stored},
        "stages": {
            "finetune": {
                "train": {"adapter": {"lr": 1.0e-4}},
                "data": {"speech": {"shards": "data/train/*.tar", "task": expressed.task}},
                "batch": {"seconds": 60, "global": 16},
                "steps": 1000,
                "schedule": {"name": "cosine", "warmup": 50},
                "checkpoint": {"every": 200},
            }
        },
        "evaluate": {"speech": {"shards": "data/test/*.tar", "task": expressed.task}},
        **({} if dtype is None else {"trainer": {"precision": dtype}}),
    }


def _dtype(config: Mapping[str, Any]) -> str | None:
    for settings in (config, config.get("thinker_config"), config.get("text_config")):
        if isinstance(settings, dict):
            named = settings.get("dtype") or settings.get("torch_dtype")
            if named is not None:
                return _STORED.get(str(named))
    return None

"""From a run to a model of a class that people serve: exactly, or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kikimimi.console.terminal import json_text, say
from kikimimi.console.words import listing, nearest
from kikimimi.contracts.precision import DTYPES
from kikimimi.errors import RequestError, WriteError
from kikimimi.files.writing import whole_folder, writing
from kikimimi.inference.load import load_model
from kikimimi.model.assembly import assemble
from kikimimi.model.lora import UPDATES
from kikimimi.published.auto_map.writing import notes, problems, write_auto_map
from kikimimi.published.formats import FORMATS
from kikimimi.published.model_card import WrittenShape, write_card
from kikimimi.published.provenance import Provenance
from kikimimi.published.pushing import check_push, push_export
from kikimimi.published.served import CONFIG, Files, Format, Trained
from kikimimi.recipe import Recipe, load_recipe
from kikimimi.run.folder import RunFolder

AUTO, CUSTOM = "auto", "hf"
_STORED = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_SHARD = "5GB"
_LOCK = "lock.json"


@dataclass(frozen=True)
class Exported:
    """What an export has written.

    Attributes:
        folder: Where.
        format: Which shape.
        notes: What is other there than in the run, one sentence each.
        url: Where it was pushed to; None where that was not asked for.
    """

    folder: Path
    format: str
    notes: tuple[str, ...]
    url: str | None = None


def fitting(source: Path, *, lora: str | None = None, audio_token: str | None = None) -> dict[str, list[str]]:
    """Return for each format why a run or a recipe does not fit it; nothing where it does.

    Args:
        source: A run folder, or a recipe.
        lora: `merge` or `keep`, as for `export_run`.
        audio_token: Token of the LLM's tokenizer that stands for clips.

    Raises:
        RecipeError: The recipe is wrong.
        WeightsError: The sources of the parts cannot be read.
    """
    run = RunFolder.open(source) if source.is_dir() else None
    recipe = run.recipe if run is not None else load_recipe(source)
    assets = run.assets if run is not None and run.has_assets else None
    model = assemble(
        recipe, assets=assets, texts=None if assets else lambda: ["?"], load_weights=False, deferred=True
    )
    _check_lora(recipe, lora)
    return _problems(Trained(recipe, model, audio_token, lora, filled=False))


def _check_lora(recipe: Recipe, lora: str | None) -> None:
    _check_options(("--lora", lora, ["merge", "keep"]))
    if lora == "keep" and recipe.llm.lora is None:
        raise RequestError("--lora keep: the LLM has no low-rank updates (llm.lora)")


def _problems(trained: Trained, names: Iterable[str] = (*FORMATS, CUSTOM)) -> dict[str, list[str]]:
    """Return for each format why a model does not fit it: what is asked for alone, and before an export."""
    return {
        name: _custom_problems(trained) if name == CUSTOM else FORMATS[name].problems(trained)
        for name in names
    }


def _custom_problems(trained: Trained) -> list[str]:
    given = {"--lora keep": trained.lora == "keep", "--audio-token": trained.audio_token is not None}
    unread = [f"{option}: is not read with --to {CUSTOM}: leave it out" for option in given if given[option]]
    updates = trained.recipe.llm.lora
    if trained.lora == "merge" and updates is not None and updates.modality == "audio":
        unread.append("--lora merge: llm.lora.modality is audio: merged, updates would act on text, too")
    return unread + problems(trained.model, trained.recipe)


def export_run(
    run: RunFolder,
    to: str,
    out: Path,
    *,
    stage: str | None = None,
    lora: str | None = None,
    dtype: str | None = None,
    audio_token: str | None = None,
    push: str | None = None,
    private: bool = False,
    license_accepted: bool = False,
) -> Exported:
    """Write a run's model as one of a class that people serve, and its model card.

    What the licences of its weights and data forbid is said on the standard error before anything is written.

    Args:
        run: A trained run.
        to: Name of a format, or `auto`: the first that fits.
        out: Folder to make.
        stage: Stage whose weights are taken; None is the last that has any.
        lora: `merge` low-rank updates into the weights, or `keep` them as files of peft; None merges, where a
            format keeps none by itself.
        dtype: Number format of the weights; None is that of the recipe's LLM.
        audio_token: Token of the LLM's tokenizer that stands for clips; None is the usual one of the format.
        push: Repository on the Hub, ``ORG/NAME``, that the export is uploaded to once it is whole.
        private: Whether a repository that is made for it is private.
        license_accepted: States the right to publish what licences forbid to; the model card tells it.

    Raises:
        RequestError: The model does not fit, an option is wrong, or a licence forbids to publish it.
        RunError: Nothing was trained yet.
        WriteError: The folder is there, or the system or the Hub refuses.
    """
    _check_options(("--to", to, [AUTO, *FORMATS, CUSTOM]), ("--dtype", dtype, [*_STORED]))
    _check_empty(out)
    _check_lora(run.recipe, lora)
    if private and push is None:
        raise RequestError("--private is read with --push ORG/NAME alone: leave it out")
    made = Provenance.of(run, stage)
    accepted = _licensed(made, push, license_accepted)
    if push is not None:
        check_push(push, private=private)
    recipe = run.recipe
    trained = Trained(recipe, load_model(run, stage), audio_token, lora, dtype or recipe.llm.dtype)
    name = _chosen(to, trained)

    def card(folder: Path, shape: WrittenShape) -> None:
        write_card(folder, made, shape, repository=push, accepted=accepted)

    def pushed(exported: Exported) -> Exported:
        return exported if push is None else replace(exported, url=push_export(out, push, private=private))

    if name == CUSTOM:
        return pushed(_write_custom(run, trained, out, card, dtype=dtype))
    shape, placeholder = FORMATS[name], FORMATS[name].placeholder(trained)
    files = shape.files(trained)
    if files.config_name == CONFIG:
        files = replace(files, config=_stored(files.config, trained.dtype))
    check_complete(files)
    said = tuple(_notes(trained, files))
    with whole_folder(out) as folder:
        _write_tensors(folder, files)
        _write_json(folder / files.config_name, files.config)
        _write_processor(folder, trained, shape, files)
        if files.config_name == CONFIG:
            _write_json(folder / "generation_config.json", _generation(trained))
        if trained.keep_lora:
            write_updates(folder, trained, files)
        if (run.path / _LOCK).is_file():
            shutil.copyfile(run.path / _LOCK, folder / _LOCK)
        card(folder, WrittenShape(name, files.model_class, placeholder, said))
    return pushed(Exported(out, name, said))


def _licensed(made: Provenance, push: str | None, accepted: bool) -> list[str]:
    """Say what licences forbid and ask; return what was accepted of what is refused without.

    Raises:
        RequestError: One forbids to push, and that is not accepted.
    """
    for warning in made.warnings():
        say(warning, error=True)
    refused = made.refusals(push)
    if push is not None and refused and not accepted:
        raise RequestError(
            f"not pushed to {push}:\n  "
            + "\n  ".join(refused)
            + "\nIf you have the right to publish it, state that with --license-accepted, which the model "
            "card will tell. Without --push it is written here alone"
        )
    return refused if accepted else []


def _write_custom(
    run: RunFolder,
    trained: Trained,
    out: Path,
    card: Callable[[Path, WrittenShape], None],
    *,
    dtype: str | None,
) -> Exported:
    """Write a model with code of its own: updates merged, in one number format, with a new token."""
    said = (
        *notes(trained.recipe),
        *_weight_notes(trained),
        "Control tokens that users spell out are encoded as such there; in the run they are not.",
    )
    with whole_folder(out) as folder:
        write_auto_map(trained.model, trained.recipe, folder, dtype=None if dtype is None else DTYPES[dtype])
        if (run.path / _LOCK).is_file():
            shutil.copyfile(run.path / _LOCK, folder / _LOCK)
        placeholder = json.loads((folder / "processor_config.json").read_bytes())["audio_token"]
        card(folder, WrittenShape(CUSTOM, "AutoModelForCausalLM", placeholder, said))
    return Exported(out, CUSTOM, said)


def _check_options(*options: tuple[str, str | None, list[str]]) -> None:
    for option, given, allowed in options:
        if given is not None and given not in allowed:
            raise RequestError(
                f"{option} {given!r} is none of its values.{nearest(given, allowed)} "
                f"Allowed: {listing(allowed)}"
            )


def _check_empty(out: Path) -> None:
    with writing(out):
        taken = out.exists() and (not out.is_dir() or any(out.iterdir()))
    if taken:
        raise WriteError(f"{out} is there and not empty: choose another --out, or move it away")


def _chosen(to: str, trained: Trained) -> str:
    if to != AUTO:
        if wrong := _problems(trained, [to])[to]:
            raise RequestError(f"this model is no {to}:\n  " + "\n  ".join(wrong))
        return to
    found = _problems(trained)
    for name, wrong in found.items():
        if not wrong:
            return name
    lines = [f"  {name}: {'; '.join(wrong)}" for name, wrong in found.items()]
    raise RequestError("this model fits no format:\n" + "\n".join(lines))


def _stored(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    stored = _STORED[dtype]
    both = {"dtype": stored, "torch_dtype": stored}
    inner = {
        name: {**{key: held for key, held in value.items() if key != "_name_or_path"}, **both}
        for name, value in config.items()
        if isinstance(value, dict) and "model_type" in value
    }
    return {**config, **inner, **both}


def check_complete(files: Files) -> None:
    """Check that the tensors are those that the served class has, each of its shape, and none more.

    Raises:
        WriteError: They are not.
    """
    if files.model_class is None:
        return
    import torch
    import transformers

    model_class = getattr(transformers, files.model_class)
    with torch.device("meta"):
        model = model_class(model_class.config_class(**files.config))
    model.tie_weights()
    first = {id(value) for _, value in model.named_parameters()}
    seen: set[int] = set()
    wanted = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if id(value) in first and id(value) in seen:
            continue  # tied
        seen.add(id(value))
        wanted[name] = tuple(value.shape)
    held = {_in_memory(name, files.renamed): tuple(value.shape) for name, value in files.tensors.items()}
    if wanted != held:
        wrong = sorted(name for name in wanted.keys() | held.keys() if wanted.get(name) != held.get(name))
        raise WriteError(
            f"{files.model_class} has other tensors than this model: {listing(wrong)} "
            f"(there {wanted.get(wrong[0])}, here {held.get(wrong[0])})"
        )


def _in_memory(name: str, renamed: Mapping[str, str]) -> str:
    for prefix, other in renamed.items():
        if name.startswith(prefix):
            return other + name.removeprefix(prefix)
    return name


def _write_tensors(folder: Path, files: Files) -> None:
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors.torch import save_file

    tensors, name = files.tensors, files.weights_name
    split = split_torch_state_dict_into_shards(
        tensors, max_shard_size=_SHARD, filename_pattern=f"{name}{{suffix}}.safetensors"
    )
    for file, names in split.filename_to_tensors.items():
        shard = {tensor: tensors[tensor].contiguous() for tensor in names}
        with writing(folder / file):
            save_file(shard, folder / file, metadata={"format": "pt"})
        (folder / file).chmod(0o644)  # it is made for its owner alone, and servers are others
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        _write_json(folder / f"{name}.safetensors.index.json", index)


def _write_json(path: Path, value: Any) -> None:
    with writing(path):
        path.write_text(json_text(value, indent=2) + "\n", encoding="utf-8")


def _write_processor(folder: Path, trained: Trained, shape: Format, files: Files) -> None:
    tokenizer = shape.tokenizer(trained)
    processor = files.processor(tokenizer, tokenizer.chat_template if shape.chat else "")
    processor.save_pretrained(folder)
    # Older versions of transformers look for it alone.
    heard = getattr(processor, "feature_extractor", None) or getattr(processor, "audio_processor", None)
    if heard is not None:
        heard.save_pretrained(folder)


def _generation(trained: Trained) -> dict[str, Any]:
    llm: Any = trained.model.llm
    tokenizer, stop = trained.tokenizer, list(llm.chat.stop_ids)
    given = {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id}
    if given["pad_token_id"] is None:
        given["pad_token_id"] = stop[0]
    return {
        **{name: value for name, value in given.items() if value is not None},
        "eos_token_id": stop if len(stop) > 1 else stop[0],
        "do_sample": False,
    }


def write_updates(folder: Path, trained: Trained, files: Files) -> None:
    """Write the LLM's low-rank updates as peft does, by the names of the served class in memory."""
    from safetensors.torch import save_file

    lora = trained.recipe.llm.lora
    assert lora is not None
    dtype, tensors = DTYPES[trained.dtype], {}
    for name, value in trained.text.state_dict().items():
        if ".lora_" not in name:
            continue
        served = _in_memory(f"language_model.{name}", files.renamed).replace(".default.", ".")
        tensors[f"base_model.model.{served}"] = value.detach().to(dtype).contiguous()
    with writing(folder / UPDATES):
        save_file(tensors, folder / UPDATES, metadata={"format": "pt"})
    targets = "|".join(sorted(lora.targets))
    settings = {
        "peft_type": "LORA",
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "bias": "none",
        "target_modules": rf".*language_model.*\.({targets})",
        "inference_mode": True,
        "base_model_name_or_path": None,
    }
    _write_json(folder / "adapter_config.json", settings)


def _notes(trained: Trained, files: Files) -> list[str]:
    said = [files.heard]
    if trained.keep_lora:
        said.append(f"Low-rank updates of the LLM: {UPDATES}, as peft reads them.")
    said += _weight_notes(trained)
    if trained.model.llm.chat.opens_answers:  # type: ignore[union-attr]
        said.append("Earlier answers of a conversation lack there the thought that opens them here.")
    return said


def _weight_notes(trained: Trained) -> list[str]:
    """Return what was rounded, and what was merged."""
    recipe, said = trained.recipe, []
    rounded = [
        part
        for part in ("encoder", "adapter", "llm")
        if getattr(recipe, part).dtype != trained.dtype and trained.dtype != "fp32"
    ]
    if rounded:
        said.append(f"Rounded to {trained.dtype}: the weights of {', '.join(rounded)}.")
    merged = [part for part in ("encoder", "adapter", "llm") if getattr(recipe, part).lora is not None]
    if trained.keep_lora and "llm" in merged:
        merged.remove("llm")
    if merged:
        rounding = "" if trained.dtype == "fp32" else f", and rounded to {trained.dtype} with them"
        said.append(f"Low-rank updates merged into the weights of {', '.join(merged)}{rounding}.")
    return said

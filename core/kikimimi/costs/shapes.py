"""Shapes of models without their weights: known ones, local folders, and the Hub's local cache."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from kikimimi.console.words import listing, nearest
from kikimimi.errors import WeightsError
from kikimimi.files.writing import scratch_folder, writing
from kikimimi.files.yaml_text import read_yaml
from kikimimi.weights.files import WEIGHTS_INDEX, WeightsFiles
from kikimimi.weights.find import finding_with, locate

KNOWN = Path(__file__).parent / "shapes.yaml"


@lru_cache(maxsize=1)
def known_shapes() -> dict[str, dict[str, Any]]:
    """Return the entries of ``shapes.yaml`` by the sources that they describe."""
    entries = read_yaml(KNOWN)
    return {name: entry for entry in entries for name in entry["names"]}


@contextmanager
def shapes_only() -> Iterator[None]:
    """Let every weights source stand for its shape alone, without the network.

    `find_weights` then returns the files of a known shape, of a folder or package on this machine, or of the
    Hub's cache, in this order.
    """
    with scratch_folder() as folder, finding_with(partial(_find, folder)):
        yield


def _find(folder: Path, spec: str) -> WeightsFiles:
    """Return the small files that say how large a model is; a known shape is written to a folder first."""
    source = spec.partition("@sha256:")[0]
    path = Path(source).expanduser()
    name, _, revision = source.partition("@")
    if name in known_shapes() and not path.exists():
        return _written(folder / str(list(known_shapes()).index(name)), spec, name)
    if source.startswith((".", "/", "~", "package:")) or path.exists():
        return locate(spec, source, pinned=False, patterns=())
    return _cached(spec, name, revision or None)


def _written(folder: Path, spec: str, name: str) -> WeightsFiles:
    entry = known_shapes()[name]
    contents = {"config.json": entry["config"], **entry.get("files", {})}
    if tensors := entry.get("tensors"):
        contents[WEIGHTS_INDEX] = {"weight_map": dict.fromkeys(tensors, "model.safetensors")}
    with writing(folder):
        folder.mkdir(exist_ok=True)
        for file, content in contents.items():
            (folder / file).write_text(json.dumps(content), encoding="utf-8")
    return WeightsFiles(spec, None, {file: (folder / file,) for file in contents})


def _cached(spec: str, name: str, revision: str | None) -> WeightsFiles:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    repo = "/".join(name.split("/")[:2])
    try:
        found = try_to_load_from_cache(repo, "config.json", revision=revision)
    except HFValidationError as error:
        raise WeightsError(f"{spec}: is no source of weights: {error}") from error
    if not isinstance(found, str):
        raise WeightsError(
            f"{spec}: its shape is not known here, and it is not in the Hub's cache."
            f"{nearest(name, known_shapes())} To plan with it, fetch the file that says it (hf download "
            f"{repo} config.json), or name a folder that holds one as the weights (weights: ./FOLDER). "
            f"Known without: {listing(known_shapes())}"
        )
    folder = Path(found).parent
    files = {path.name: (path,) for path in folder.iterdir() if path.is_file()}
    return WeightsFiles(spec, folder.name, files)

"""What a run was made of: recipe, plugins, weights, data and code, by version and hash.

``lock.json`` of a run folder is written when its training begins, and stays. Each session (the first, and
each that goes on) is appended with what has changed since.
"""

import platform
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kikimimi.contracts import registry
from kikimimi.errors import DamagedError, KikimimiError, RunError
from kikimimi.files.writing import scratch_folder, writing
from kikimimi.files.yaml_text import parse_yaml
from kikimimi.recipe import Recipe
from kikimimi.recipe.chosen import PARTS, Chosen, plugins_in
from kikimimi.recipe.show import digest, to_yaml
from kikimimi.run.drift import Change, DriftError, as_begun, drift, newer_options
from kikimimi.run.folder import LENGTHS, RunFolder
from kikimimi.run.lock_file import LOCK, Lengthening, read_lock_file
from kikimimi.run.made_with import MadeWith
from kikimimi.run.source import source_digest
from kikimimi.weights.files import WEIGHT_PATTERNS
from kikimimi.weights.find import find_weights

LIBRARIES = (
    "kikimimi",
    "torch",
    "torchaudio",
    "pytorch-lightning",
    "transformers",
    "tokenizers",
    "peft",
    "safetensors",
    "soundfile",
    "webdataset",
    "numpy",
)


def lock(recipe: Recipe, recipe_file: Path | None = None) -> dict[str, Any]:
    """Return what a training of a recipe would be made of now."""
    used, resolved = dict(_plugins(recipe)), to_yaml(recipe)
    distributions = {"kikimimi", *_distributions(list(used.values()))}
    sources = {name: source_digest(name) for name in sorted(distributions)}
    return {
        "recipe": {"sha256": digest(resolved), "yaml": resolved},
        "command": sys.argv,
        "git": {
            "recipe": git_state(recipe_file) if recipe_file is not None else None,
            "kikimimi": git_state(Path(__file__)),
        },
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in LIBRARIES},
        "plugins": used,
        "source": {name: digest for name, digest in sources.items() if digest is not None},
        "data": dict(_data(recipe)),
    }


def keep_lock(
    run: RunFolder,
    recipe_file: Path | None = None,
    *,
    hold: bool = False,
    kept: Mapping[str, Any] | None = None,
) -> None:
    """Write the lock of a run that begins, or add a session to that of one that goes on.

    Args:
        run: The run.
        recipe_file: Where its recipe was read from.
        hold: Refuse to go on where anything has changed.
        kept: Options that there were not when it began, as the session has them.

    Raises:
        DriftError: Something has changed, and it is held to the lock.
        RunError: It is to be held to a lock, and there is none.
    """
    lock_lengths(run)  # a kill may have come between the recipe and its lock
    held = held_lock(run)
    if held is not None and "sessions" not in held:
        held = None  # an early version's, which says too little
    if held is None and hold:
        raise RunError(f"{run.path} has no {LOCK} to hold it to. The first 'kikimimi train' writes it")
    present = lock(run.recipe, recipe_file)
    changes = [] if held is None else _drift(held, present, run.recipe)
    if hold and changes:
        raise DriftError(run.path / LOCK, changes)
    if held is None or not (run.begun or hold):
        held, changes = {**present, "sessions": []}, []
    held["sessions"].append(
        {
            "began": datetime.now().astimezone().isoformat(timespec="seconds"),
            "host": socket.gethostname(),
            "command": sys.argv,
            "changes": [vars(change) for change in changes],
            **({"kept": dict(kept)} if kept else {}),
        }
    )
    run.write_json(LOCK, held)


def told_options(run: RunFolder) -> set[str]:
    """Return of which options that there were not when a run began its earlier sessions have told."""
    sessions = (held_lock(run) or {}).get("sessions", [])
    return {name for session in sessions for name in session.get("kept", {})}


def held_lock(run: RunFolder) -> dict[str, Any] | None:
    """Return the lock of a run, or None where it has none.

    Raises:
        DamagedError: It is damaged.
    """
    return read_lock_file(run.path / LOCK)


def lock_lengths(run: RunFolder) -> None:
    """Lock a run to the lengths that `--extend` has given its stages since, and keep a note of each.

    Raises:
        DamagedError: The lock, or the recipe, is damaged.
    """
    held, recipe = held_lock(run), RunFolder.read_recipe(run.path)
    if held is not None and (changes := list(_lengthened(run, recipe, held))):
        text = to_yaml(recipe)
        held["recipe"] = {"sha256": digest(text), "yaml": text}
        held["lengthened"] = [*held.get("lengthened", []), *changes]
        run.write_json(LOCK, held)


def _lengthened(run: RunFolder, recipe: Recipe, held: Mapping[str, Any]) -> Iterator[Lengthening]:
    before = parse_yaml(held["recipe"]["yaml"])["stages"]
    for name, stage in recipe.stages.items():
        for option in LENGTHS:
            old, new = before.get(name, {}).get(option), getattr(stage, option)
            # A recipe that somebody has edited is another matter: no weights were put aside for it.
            if old != new and old and run.weights_before(name, f"{old}-{option}").is_file():
                yield {"stage": name, "option": option, "old": old, "new": new}


def read_lock(path: Path, overrides: list[str]) -> tuple[dict[str, Any], Recipe]:
    """Read a lock and the recipe that it holds.

    Raises:
        RunError: It is not a lock.
        DriftError: The overrides change what may not differ.
    """
    from kikimimi.recipe import load_recipe

    try:
        held = read_lock_file(path)
    except DamagedError as error:
        raise RunError(f"{path} is not the {LOCK} of a run: {error}") from error
    if held is None:
        raise RunError(f"{path}: there is no such file")
    text = held["recipe"]["yaml"]
    with scratch_folder() as folder, MadeWith.read(path).reading(path):
        file = folder / "recipe.yaml"
        with writing(file):
            file.write_text(text, encoding="utf-8")
        return held, as_begun(load_recipe(file, overrides), text)


def hold_to(path: Path, held: Mapping[str, Any], recipe: Recipe) -> None:
    """Check that a recipe would be trained from what a lock says.

    Raises:
        DriftError: It would not.
    """
    if changes := _drift(held, lock(recipe), recipe):
        raise DriftError(path, changes)


def _drift(held: Mapping[str, Any], present: Mapping[str, Any], recipe: Recipe) -> list[Change]:
    return drift(held, present, newer_options(recipe, held["recipe"]["yaml"]))


def plugin_lock(chosen: Chosen, *, weights: bool = True) -> dict[str, Any]:
    """Return where a component is from: distribution, version, and where asked for its weights' hash."""
    sources = chosen.sources().items()
    return {
        **_origin(chosen.kind, chosen.name),
        "weights": None,
        **{option: weights_lock(source) if weights else {"source": source} for option, source in sources},
        **{
            option: _named_lock(kind, named, weights=weights)
            for option, kind, named in plugins_in(chosen.config)
        },
    }


def _named_lock(kind: str, named: Chosen | str, *, weights: bool) -> dict[str, Any]:
    return plugin_lock(named, weights=weights) if isinstance(named, Chosen) else _origin(kind, named)


def weights_lock(source: str | None) -> dict[str, Any] | None:
    """Return what pins a weights source: the Hub's commit, or the SHA-256 of each weights file."""
    if source is None:
        return None
    files = find_weights(source)
    if files is None:
        return {"source": source}
    if files.revision is not None:
        return {"source": source, "revision": files.revision}
    return {"source": source, "sha256": {name: files.sha256(name) for name in files.names(*WEIGHT_PATTERNS)}}


def _origin(kind: str, name: str) -> dict[str, Any]:
    plugin = registry.find(kind, name)
    return {"name": name, "distribution": plugin.distribution, "version": plugin.version}


def _plugins(recipe: Recipe) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every plugin that a recipe names, by its dotted key."""
    for where, kind, named in plugins_in(recipe):
        # Of what the model is not made of, training reads no weights, and fetches none.
        yield where, _named_lock(kind, named, weights=where in PARTS)


def _distributions(found: list[Any]) -> Iterator[str]:
    for value in found:
        if isinstance(value, Mapping):
            if "distribution" in value:
                yield value["distribution"]
            yield from _distributions(list(value.values()))


def _data(recipe: Recipe) -> Iterator[tuple[str, str | None]]:
    """Yield the digest of every dataset's index by its dotted key; None where it cannot be read."""
    sources: dict[str, str] = {}
    for name, stage in recipe.stages.items():
        for section, datasets in (("data", stage.data), ("validate.data", stage.validate.data)):
            sources |= {f"stages.{name}.{section}.{key}": item.shards for key, item in datasets.items()}
    sources |= {f"evaluate.{name}": evaluation.shards for name, evaluation in recipe.evaluate.items()}
    for where, pattern in sources.items():
        try:
            yield where, _index_digest(where, pattern)
        except KikimimiError:
            yield where, None  # told when it is its turn; an evaluation's may come later


def _index_digest(where: str, pattern: str) -> str:
    from kikimimi.data.shards.shards import Shards

    return Shards(where, pattern).digest


def git_state(path: Path) -> dict[str, Any] | None:
    """Return commit and dirty mark of the repository that a file lies in, or None where Git knows of none.

    Dirty means that a file of the repository, or the file itself, is not as it was committed.
    """
    folder = str(path.resolve().parent)
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    itself = _git(folder, "status", "--porcelain", "--ignored", "--", path.name)
    return {"commit": commit, "dirty": bool(changed or itself)}


def _git(folder: str, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", folder, *arguments], capture_output=True, text=True, check=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError):
        return None  # no Git, or no repository
    return done.stdout.strip()

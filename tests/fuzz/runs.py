"""A run folder of which one file is damaged: a checkpoint, weights, or what else stands there."""

from __future__ import annotations

import functools
import os
import shutil
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from kikimimi.evaluation.evaluate import evaluate
from kikimimi.evaluation.predictions import read_predictions
from kikimimi.evaluation.score import read_scores
from kikimimi.inference.load import load_model
from kikimimi.inspect.run_check import check_run
from kikimimi.recipe import load_recipe
from kikimimi.run.folder import RunFolder
from kikimimi.run.metrics import read_metrics
from kikimimi.testing import write_shard
from kikimimi.training.state.checkpoint import FolderCheckpointIO
from kikimimi.training.train import train

from .harness import WrongError
from .mutations import BYTES, json_file, json_lines, mutated, text

_RECIPE = """
name: small
encoder:
  name: whisper
  weights: random
  fixed: ["*"]
  sizes: {{dim: 16, num_layers: 1, num_heads: 1, ffn_dim: 16}}
adapter: {{name: mlp, hidden_dim: 16}}
llm: {{name: llama, weights: random, scratch: {{dim: 16, num_layers: 1, num_heads: 1, ffn_dim: 16}}}}
stages:
  asr:
    train: {{adapter: {{lr: 1.0e-3}}, llm: {{lr: 2.0e-3}}}}
    data: {{tones: {{shards: "{shards}", task: asr}}}}
    batch: {{seconds: 3, global: 1}}
    steps: 4
    checkpoint: {{every: 2, keep: 9}}
evaluate:
  held_out: {{shards: "{shards}", task: asr, generate: {{max_new_tokens: 2}}}}
trainer: {{log_every: 1, accelerator: cpu}}
"""
_STAGE = "asr"


def runs(folder: Path) -> dict[str, Any]:
    """Train a run, and one that a kill has stopped after its last checkpoint; return them by name."""
    shard = write_shard(folder / "shards", 2)
    (folder / "small.yaml").write_text(_RECIPE.format(shards=shard))
    run = RunFolder.create(folder / "finished", load_recipe(folder / "small.yaml"))
    train(run)
    evaluate(run)
    stopped = folder / "stopped"
    shutil.copytree(run.path, stopped)
    shutil.rmtree(stopped / "weights")
    return {"finished": run.path, "stopped": stopped}


def mutate(seed: Path, rng: Random, place: Path) -> Any:
    """Damage one file of a copy."""
    run = place / "run"
    shutil.copytree(seed, run)
    files = sorted(path for path in run.rglob("*") if path.is_file() and path.name != "report.html")
    damaged = rng.choice(files)
    kinds = {
        ".json": (*(json_file,) * 10, text, *BYTES),
        ".jsonl": (*(json_lines,) * 10, text, *BYTES),
        ".yaml": (*(text,) * 10, *BYTES),
    }
    content = damaged.read_bytes()
    damaged.write_bytes(mutated(content, rng, kinds.get(damaged.suffix, BYTES)))
    return run, seed, damaged.relative_to(run), damaged.read_bytes() != content


@functools.cache
def _expected(seed: Path) -> dict[str, Tensor]:
    return load_model(RunFolder.open(seed)).state_dict()


@functools.cache
def _saved(seed: Path, step: str) -> dict[str, Any]:
    folder = seed / "checkpoints" / _STAGE / step
    return FolderCheckpointIO({"stage": _STAGE}).load_checkpoint(folder)


def attempt(given: Any) -> str:
    """Read all of it."""
    run, seed, damaged, is_other = given
    expected = _expected(seed)
    told = any(item.problem for item in check_run(run))
    opened = RunFolder.open(run)
    read_metrics(opened.metrics)
    for name in opened.recipe.evaluate:
        for path in sorted(opened.evaluation(name).glob("*.jsonl")):
            read_predictions(path)
        read_scores(opened.evaluation(name) / "scores.json")
    newest = FolderCheckpointIO({"stage": _STAGE}).newest(opened.checkpoints(_STAGE))
    if newest is None:
        raise WrongError("no checkpoint is left, though one is sound")
    held = FolderCheckpointIO({"stage": _STAGE}).load_checkpoint(newest)
    if not _equal(held, _saved(seed, newest.name)):
        raise WrongError(f"{newest.name} is taken up, and holds other values: {damaged}")
    if not _equal(load_model(opened).state_dict(), expected):
        raise WrongError(f"other weights are loaded: {damaged}")
    if is_other and damaged.suffix == ".safetensors" and not told:
        raise WrongError(f"{damaged}: damaged, and 'kikimimi check' finds it sound")
    return "taken whole" if not told else "told, and what is sound is taken"


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other) or (one != one and other != other)


os.environ.setdefault("OMP_NUM_THREADS", "1")  # a forked process has none of its parent's threads

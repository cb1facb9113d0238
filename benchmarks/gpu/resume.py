"""Resume: a run that is stopped after a checkpoint and goes on ends with the same weights, bit for bit."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kikimimi.recipe import load_recipe
from kikimimi.run.folder import RunFolder
from kikimimi.run.metrics import read_metrics
from kikimimi.testing import write_shard
from kikimimi.training.train import train

from .subject import Subject

RECIPE = """
name: resume
encoder:
  name: whisper
  weights: random
  fixed: ["*"]
  sizes: {{dim: 32, num_layers: 2, num_heads: 2, ffn_dim: 64}}
adapter: {{name: mlp, hidden_dim: 32}}
llm:
  name: llama
  weights: random
  scratch: {{dim: 32, num_layers: 2, num_heads: 2, ffn_dim: 64, tokenizer: bytes, dropout: 0.1}}
stages:
  asr:
    train: {{adapter: {{lr: 1.0e-3}}, llm: {{lr: 1.0e-3}}}}
    data: {{clips: {{shards: "{shards}", task: asr}}}}
    batch: {{seconds: 3, global: 2}}
    steps: 6
    checkpoint: {{every: 2, keep: 9}}
trainer: {{precision: bf16, accelerator: {accelerator}, log_every: 1, cache_features: false}}
"""


def resume(subject: Subject) -> dict[str, Any]:
    """Whether losses and weights of a run that went on are those of one that was never stopped."""
    with TemporaryDirectory() as folder:
        run = _run(Path(folder), "gpu" if subject.device.type == "cuda" else "cpu")
        train(run)
        losses, weights = _losses(run), run.weights("asr").read_bytes()
        shutil.rmtree(run.path / "weights")
        for checkpoint in run.checkpoints("asr").glob("step-*"):
            if int(checkpoint.name.removeprefix("step-")) > 2:
                shutil.rmtree(checkpoint)
        train(run)
        again = _losses(run)
        return {
            "steps": len(losses),
            "same_losses": again == losses,
            "same_weights": run.weights("asr").read_bytes() == weights,
            "largest_difference": max(abs(a - b) for a, b in zip(again, losses, strict=True)),
        }


def _run(folder: Path, accelerator: str) -> RunFolder:
    path = folder / "resume.yaml"
    shards = write_shard(folder, 12)
    path.write_text(RECIPE.format(shards=shards, accelerator=accelerator), encoding="utf-8")
    return RunFolder.create(folder / "run", load_recipe(path))


def _losses(run: RunFolder) -> list[float]:
    return [float(line["loss"]) for line in read_metrics(run.path / "metrics.jsonl") if "loss" in line]

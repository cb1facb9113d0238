"""What runs on a GPU, for one of CUDA: `pytest -m gpu`. Elsewhere the tests are skipped, unless
`KIKIMIMI_TEST_DEVICE=cpu` rehearses them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kikimimi.recipe import load_recipe
from kikimimi.run.folder import RunFolder
from kikimimi.testing import write_shard

RECIPE = """
name: small
encoder:
  name: whisper
  weights: random
  sizes: {{dim: 32, num_layers: 2, num_heads: 2, ffn_dim: 64}}
  fixed: ["*"]
adapter: {{name: mlp, hidden_dim: 32}}
llm:
  name: llama
  weights: random
  scratch: {{dim: 32, num_layers: 2, num_heads: 2, ffn_dim: 64, tokenizer: bytes, dropout: 0.1}}
stages:
  asr:
    train: {{adapter: {{lr: 1.0e-3}}, llm: {{lr: 1.0e-3}}}}
    data: {{talks: {{shards: "{shards}", task: chat}}}}
    batch: {{seconds: 3, global: 2}}
    steps: 6
    checkpoint: {{every: 2, keep: 9}}
evaluate:
  held: {{shards: "{shards}", task: chat, generate: {{max_new_tokens: 4}}}}
trainer: {{log_every: 1, accelerator: {accelerator}}}
"""

Make = Callable[..., RunFolder]


@pytest.fixture(scope="session")
def device() -> torch.device:
    chosen = torch.device(os.environ.get("KIKIMIMI_TEST_DEVICE", "cuda"))
    if chosen.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch finds no GPU")
    return chosen


@pytest.fixture
def make_run(device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Return what makes runs of ten conversations about clips, on the GPU or where it is asked for."""
    monkeypatch.setenv("KIKIMIMI_CACHE", str(tmp_path / "cache"))
    shards = write_shard(tmp_path, 10, form="conversations")

    def make(name: str, *overrides: str, accelerator: str = "") -> RunFolder:
        path = tmp_path / "small.yaml"
        chosen = accelerator or ("gpu" if device.type == "cuda" else "cpu")
        path.write_text(RECIPE.format(shards=shards, accelerator=chosen), encoding="utf-8")
        return RunFolder.create(tmp_path / name, load_recipe(path, overrides))

    return make

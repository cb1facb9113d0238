"""A recipe that trains in a second, for sweeps over it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kikimimi.testing import write_shard

RECIPE = """
name: small
encoder:
  name: whisper
  fixed: ["*"]
  weights: random
  sizes: {{dim: 32, num_layers: 1, num_heads: 2, ffn_dim: 32, num_positions: 100}}
adapter: {{name: mlp, hidden_dim: 32}}
llm:
  name: llama
  weights: random
  scratch: {{dim: 32, num_layers: 1, num_heads: 2, ffn_dim: 32}}
stages:
  asr:
    train: {{adapter: {{lr: 1.0e-3}}, llm: {{lr: 2.0e-3}}}}
    data: {{tones: {{shards: "{folder}/train-000000.tar", task: asr}}}}
    batch: {{seconds: 3, global: 1}}
    steps: 2
    schedule: {{name: constant, warmup: 1}}
    validate: {{every: 1, data: {{held: {{shards: "{folder}/held-000000.tar", task: asr}}}}}}
evaluate:
  held_out: {{shards: "{folder}/held-000000.tar", task: asr, generate: {{max_new_tokens: 6}}}}
guards: {{run: never}}
trainer: {{log_every: 1, accelerator: cpu}}
"""


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KIKIMIMI_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_shard(folder, 8, prefix="train")
    write_shard(folder, 3, seed=1, prefix="held")
    return folder


@pytest.fixture
def recipe(tmp_path: Path, shards: Path) -> Path:
    """A recipe's file; tests may change it."""
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE.format(folder=shards), encoding="utf-8")
    return path

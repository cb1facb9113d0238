from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from webdataset.writer import TarWriter

from kikimimi.data.audio import encode_flac
from kikimimi.data.index import build_index
from kikimimi.recipe import Recipe, load_recipe
from kikimimi.run_folder import RunFolder
from kikimimi.testing import write_shard

RECIPE = """
name: small
encoder: {{name: whisper, weights: random, sizes: {{dim: 32, num_layers: 2, num_heads: 2, ffn_dim: 64}}}}
adapter: {{name: mlp, hidden_dim: 32}}
llm:
  name: llama
  weights: random
  scratch: {{dim: 32, num_layers: 2, num_heads: 2, ffn_dim: 64, dropout: 0.1}}
stages:
  asr:
    train: {{adapter: {{lr: 1.0e-3}}, llm: {{lr: 2.0e-3, weight_decay: 0.01}}}}
    data: {{tones: {{shards: "{shards}", task: asr}}}}
    batch: {{seconds: 3, global: 2}}
    steps: 8
    schedule: {{name: cosine, warmup: 2}}
    checkpoint: {{every: 3, keep: 9}}
    validate: {{every: 4, data: {{held_out: {{shards: "{held_out}", task: asr}}}}}}
evaluate:
  held_out: {{shards: "{held_out}", task: asr, generate: {{max_new_tokens: 6}}}}
trainer: {{log_every: 1, accelerator: cpu}}
"""

Make = Callable[..., RunFolder]


@pytest.fixture
def recipe_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KIKIMIMI_CACHE", str(tmp_path / "cache"))
    shards = write_shard(tmp_path / "data", 12, prefix="train")
    held_out = write_shard(tmp_path / "data", 4, seed=1, prefix="held")
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE.format(shards=shards, held_out=held_out), encoding="utf-8")
    return path


@pytest.fixture
def make_run(recipe_file: Path, tmp_path: Path) -> Make:
    def make(name: str, *overrides: str) -> RunFolder:
        return RunFolder.create(tmp_path / "runs" / name, recipe(*overrides))

    def recipe(*overrides: str) -> Recipe:
        return load_recipe(recipe_file, overrides)

    return make


@pytest.fixture
def conversations(tmp_path: Path) -> str:
    """Write turns of no, one or two clips and of texts of any length; a record of text alone is a third."""
    path, count = tmp_path / "chat" / "a.tar", 20
    rng = np.random.default_rng(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    with TarWriter(str(path), mtime=0) as tar:
        for number in range(count):
            clips = {}
            messages = []
            for turn in range(max(number % 3, 1)):
                content: list[dict[str, str]] = [{"type": "text", "text": "はい" * int(rng.integers(1, 20))}]
                if number % 3:
                    noise = rng.normal(0, 0.1, int(rng.integers(8_000, 32_000))).astype(np.float32)
                    clips[f"{turn}.flac"] = encode_flac(noise, 16_000)
                    content.insert(0, {"type": "audio", "audio": f"{turn}.flac"})
                messages.append({"role": "user", "content": content})
                messages.append({"role": "assistant", "content": "いいえ" * int(rng.integers(1, 9))})
            record = json.dumps({"messages": messages}).encode()
            tar.write({"__key__": f"{number:03d}", "json": record, **clips})
    build_index(path)
    return str(path)

"""The command line in this process, and one small trained run for all tests of a session."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from kikimimi.cli import main
from kikimimi.recipe import load_recipe
from kikimimi.run.folder import RunFolder
from kikimimi.testing import write_shard
from kikimimi.training.train import train

# The encoder's window is 2 s, so that what is longer is quick to try.
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
    data: {{tones: {{shards: "{shards}", task: asr}}}}
    batch: {{seconds: 3, global: 1}}
    steps: 2
    schedule: {{name: constant, warmup: 1}}
evaluate:
  held_out: {{shards: "{held_out}", task: asr, generate: {{max_new_tokens: 6}}}}
trainer: {{log_every: 1, accelerator: cpu}}
"""


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run ``kikimimi ARGUMENTS``."""

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["kikimimi", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main()
        said = capsys.readouterr()
        return Outcome(int(exit_.value.code or 0), said.out, said.err)

    return run


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KIKIMIMI_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    path = folder / "small.yaml"
    path.write_text(
        RECIPE.format(
            shards=write_shard(folder / "data", 8, prefix="train"),
            held_out=write_shard(folder / "data", 3, seed=1, prefix="held"),
        ),
        encoding="utf-8",
    )
    return path


@pytest.fixture(scope="session")
def trained(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run; tests leave it as it is."""
    run = RunFolder.create(tmp_path_factory.mktemp("runs") / "small", load_recipe(recipe_file))
    train(run)
    return run.path


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write an audio file of (S,) or (S, channels) samples."""

    def write(name: str, samples: NDArray[np.float32], rate: int = 16000, subtype: str | None = None) -> Path:
        path = tmp_path / name
        soundfile.write(path, samples, rate, subtype=subtype)
        return path

    return write


@pytest.fixture
def tone() -> Callable[..., NDArray[np.float32]]:
    def tone(seconds: float, rate: int = 16000, pitch: float = 440.0) -> NDArray[np.float32]:
        time = np.arange(round(seconds * rate)) / rate
        return (0.3 * np.sin(2 * np.pi * pitch * time)).astype(np.float32)

    return tone

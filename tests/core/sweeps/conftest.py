"""A recipe that trains in a second, for sweeps over it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kikimimi.recipe import load_recipe
from kikimimi.run.folder import RunFolder
from kikimimi.sweeps.factor import Factor, Level
from kikimimi.sweeps.plan_of_runs import Sweep
from kikimimi.sweeps.sweep_folder import RunLine, SweepFolder
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


@pytest.fixture(scope="session")
def recipe_file(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Path:
    """The same recipe; tests leave it as it is."""
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(RECIPE.format(folder=shards), encoding="utf-8")
    return path


MakeSweep = Callable[..., SweepFolder]


@pytest.fixture
def make_sweep(recipe_file: Path, tmp_path: Path) -> MakeSweep:
    """Make the folder of a sweep over runs that are given as what each changes, by their names."""

    def make(name: str = "small sweep", **runs: list[str]) -> SweepFolder:
        levels = tuple(Level(run, tuple(changes)) for run, changes in runs.items())
        sweep = Sweep(name=name, recipe=recipe_file, factors=(Factor("run", levels),))
        folder = SweepFolder.create(tmp_path / "all runs", sweep)
        lines = []
        for run, changes in runs.items():
            RunFolder.create(folder.out / run, load_recipe(recipe_file, changes))
            lines.append(RunLine(name=run, digest="", levels={"run": run}, changes=changes))
        folder.write_runs(lines)
        return folder

    return make

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from webdataset.writer import TarWriter

from kikimimi.data.audio import encode_flac
from kikimimi.data.shards.indexing import build_index
from kikimimi.recipe import Recipe, load_recipe
from kikimimi.run.folder import RunFolder
from kikimimi.run.metrics import read_metrics
from kikimimi.testing import write_shard
from kikimimi.training.log_interval import MEASURED

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
TIMEOUT = 240.0


def rewind(run: RunFolder, step: int) -> None:
    """Put a finished run back to how a kill after that step's checkpoint leaves it."""
    shutil.rmtree(run.path / "weights")
    for folder in run.checkpoints("asr").glob("step-*"):
        if int(folder.name.removeprefix("step-")) > step:
            shutil.rmtree(folder)


class Training:
    """A running `kikimimi train`.

    Args:
        arguments: Of the command.
        log: Where its output goes.
        program: What runs, after `python`; it is given the word `train` and the arguments.
        command: The whole command, in place of program and arguments.
        environment: Variables beside those of this process.
    """

    def __init__(
        self,
        *arguments: object,
        log: Path,
        program: Sequence[str] = ("-m", "kikimimi.cli"),
        command: Sequence[str] = (),
        environment: dict[str, str] | None = None,
    ) -> None:
        self.log = log
        with log.open("w") as file:
            self.process = subprocess.Popen(
                command or [sys.executable, *program, "train", *map(str, arguments)],
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
            )

    @property
    def output(self) -> str:
        """What it said until now."""
        return self.log.read_text(errors="replace")

    def wait_until(self, condition: Callable[[], object], *, pause: float = 0.005) -> None:
        """Wait for a condition while it runs."""
        end = time.monotonic() + TIMEOUT
        while not condition():
            assert self.process.poll() is None, f"it ended:\n{self.output}"
            assert time.monotonic() < end, f"it takes too long:\n{self.output}"
            time.sleep(pause)

    def says(self, words: str) -> None:
        """Wait until it has said something."""
        self.wait_until(lambda: words in self.output)

    def end(self) -> int:
        """Wait until it ends; return the exit code."""
        return self.process.wait(TIMEOUT)

    def children(self) -> list[int]:
        """Return the processes that it started."""
        number = self.process.pid
        return list(map(int, Path(f"/proc/{number}/task/{number}/children").read_text().split()))

    @staticmethod
    def curve(run: Path) -> list[dict[str, Any]]:
        """Return what a run has logged, without what depends on the machine."""
        lines = read_metrics(run / "metrics.jsonl")
        return [{k: v for k, v in line.items() if k not in MEASURED} for line in lines]

    @classmethod
    def steps(cls, run: Path) -> int:
        """Return how many steps a run has logged."""
        return sum("loss" in line for line in cls.curve(run))


def assert_same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Compare what two runs have logged: losses, norms and counts, but for how sums are rounded."""
    for line, other in zip(found, expected, strict=True):
        assert line.pop("stage") == other["stage"]
        assert line == pytest.approx({k: v for k, v in other.items() if k != "stage"}, rel=1e-5, abs=1e-5)


class Ranks:
    """Two processes that train runs, one after the other: they are slow to start."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        self._logs = [folder / f"rank-{rank}.txt" for rank in range(2)]
        self._ranks = []
        for rank, log in enumerate(self._logs):
            own = {"LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
            with log.open("w") as said:
                self._ranks.append(
                    subprocess.Popen(
                        [sys.executable, str(Path(__file__).with_name("train_runs.py"))],
                        env={**os.environ, **address, **own},
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=said,
                        text=True,
                    )
                )

    def train(self, *runs: tuple[str, RunFolder], fails: str | None = None, spoil: str = "") -> None:
        """Train runs.

        Args:
            runs: Strategies and runs.
            fails: What every rank has to say of each run; None where all end well.
            spoil: What goes wrong; see train_runs.py.
        """
        for strategy, run in runs:
            told = {"strategy": strategy, "run": str(run.path), "spoil": spoil}
            line = json.dumps({**told, "cache": os.environ["KIKIMIMI_CACHE"]})
            for rank in self._ranks:
                assert rank.stdin is not None
                print(line, file=rank.stdin, flush=True)
            for rank, log in zip(self._ranks, self._logs, strict=True):
                assert rank.stdout is not None
                # A rank that waits for another one for ever is what this is about.
                ready, _, _ = select.select([rank.stdout], [], [], 240)
                answer = rank.stdout.readline() if ready else ""
                assert answer, f"{run.path.name}: {log.read_text()}"
                assert re.search(fails or "^done$", json.loads(answer)), answer

    def end(self) -> None:
        """End them."""
        for rank in self._ranks:
            rank.kill()
            rank.communicate()


@pytest.fixture(scope="session")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    started = Ranks(tmp_path_factory.mktemp("ranks"))
    yield started
    started.end()


Launch = Callable[..., Training]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """Start a training; what still runs when the test ends is killed."""
    started: list[Training] = []

    def start(*arguments: object, **options: Any) -> Training:
        started.append(Training(*arguments, log=tmp_path / f"log-{len(started)}.txt", **options))
        return started[-1]

    yield start
    for training in started:
        if training.process.poll() is None:
            for child in training.children():
                os.kill(child, signal.SIGKILL)
            training.process.kill()
            training.process.wait()


@pytest.fixture
def recipe_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KIKIMIMI_CACHE", str(tmp_path / "cache"))
    shards = write_shard(tmp_path / "data", 12, prefix="train")
    held_out = write_shard(tmp_path / "data", 4, seed=1, prefix="held")
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE.format(shards=shards, held_out=held_out), encoding="utf-8")
    return path


def stay_random(recipe: Recipe) -> Recipe:
    """Declare fixed what is random and not trained: these recipes have no weights that could be read."""
    changed = {}
    for part in ("encoder", "llm"):
        chosen = getattr(recipe, part)
        if chosen.fixed not in (None, ["*"]):
            continue
        trained = {stage.train[part].part for stage in recipe.stages.values() if part in stage.train}
        stays = "random" in chosen.sources().values() and "all" not in trained
        changed[part] = replace(chosen, fixed=["*"] if stays else None)
    return replace(recipe, **changed)


@pytest.fixture
def make_run(recipe_file: Path, tmp_path: Path) -> Make:
    def make(name: str, *overrides: str) -> RunFolder:
        return RunFolder.create(tmp_path / "runs" / name, recipe(*overrides))

    def recipe(*overrides: str) -> Recipe:
        return stay_random(load_recipe(recipe_file, overrides))

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

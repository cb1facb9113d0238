from __future__ import annotations

import json
from pathlib import Path

import pytest

from kikimimi.recipe import Stage, load_recipe
from kikimimi.recipe.schema import EarlyStop
from kikimimi.training.callbacks.validation import Best

STAGE = """
name: small
encoder: {{name: whisper, weights: random}}
adapter: {{name: mlp}}
llm: {{name: llama}}
stages:
  asr:
    train: {{adapter: {{}}}}
    data: {{x: {{shards: x.tar, task: asr}}}}
    steps: 100
    checkpoint: {{keep_best: {keep}}}
    early_stop: {early}
    validate: {{every: 10, data: {{y: {{shards: y.tar, task: asr}}}}}}
"""


def stage(tmp_path: Path, keep: int = 0, early: str = "null") -> Stage:
    path = tmp_path / "r.yaml"
    path.write_text(STAGE.format(keep=keep, early=early), encoding="utf-8")
    return load_recipe(path).stages["asr"]


def test_the_lowest_losses_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "best"

    def save(path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        path.touch()

    best = Best(folder, stage(tmp_path, keep=2))
    assert best.path() is None
    seen = []
    for step, loss in [(10, 3.0), (20, float("nan")), (30, 2.0), (40, 2.5), (50, 2.0), (60, 9.0)]:
        best.add(step, loss, save, delete=True)
        seen.append(sorted(int(path.stem.removeprefix("step-")) for path in folder.iterdir()))
    assert seen == [[10], [10], [10, 30], [30, 40], [30, 50], [30, 50]]
    assert best.path() == folder / "step-00000030.safetensors"
    best.add(30, 8.0, save, delete=True)  # measured again: a run that went on from before it
    assert best.steps() == [50, 40]


@pytest.mark.parametrize(
    ("losses", "early", "stalled"),
    [
        ([3.0, 2.0, 1.0], "{patience: 1}", False),
        ([3.0, 2.0, 2.0], "{patience: 1}", True),
        ([3.0, 2.0, 2.5], "{patience: 2}", False),
        ([3.0, 2.0, 2.5, 2.1], "{patience: 2}", True),
        ([3.0, 2.0, 2.5, 1.9], "{patience: 2}", False),
        ([3.0, 2.9, 2.8], "{patience: 2, min_delta: 0.5}", True),
        ([3.0, 2.9, 2.4], "{patience: 2, min_delta: 0.5}", False),
        ([3.0, 4.0, 5.0], "null", False),
    ],
)
def test_early_stop(tmp_path: Path, losses: list[float], early: str, stalled: bool) -> None:
    best = Best(tmp_path / "best", stage(tmp_path, early=early))
    for number, loss in enumerate(losses):
        assert not best.stalled()
        best.add(10 * number, loss, lambda path: None, delete=True)
    assert best.stalled() is stalled
    metrics = tmp_path / "metrics.jsonl"
    lines = [{"stage": "asr", "step": 10 * i, "validation_loss": loss} for i, loss in enumerate(losses)]
    lines.insert(0, {"stage": "other", "step": 5, "validation_loss": 0.0})
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    again = Best(tmp_path / "best", stage(tmp_path, early=early))
    again.remember(metrics, "asr")
    assert again.stalled() is stalled


def test_options() -> None:
    with pytest.raises(ValueError, match="patience: must be at least 1, not 0"):
        EarlyStop(patience=0)
    with pytest.raises(ValueError, match="min_delta: must be at least 0, not -1"):
        EarlyStop(min_delta=-1)

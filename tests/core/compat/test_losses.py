"""Seeded steps of small recipes give the losses that they gave at an earlier commit."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Before

RECIPES = ("quickstart", "chain", "ctc")


@pytest.fixture(scope="module")
def trained(before: Before) -> Before:
    before.kikimimi(*(f"train recipes/{name}.yaml" for name in RECIPES))
    return before


@pytest.mark.parametrize("name", RECIPES)
def test_ten_steps_of_each_stage(trained: Before, name: str) -> None:
    trained.assert_as_before(Path("runs", name), name)


def test_another_average_gives_other_losses(trained: Before) -> None:
    """Otherwise the losses above would say nothing of how they are averaged."""
    trained.kikimimi("train recipes/quickstart.yaml stages.asr.batch.loss=tokens --out others")
    (run,) = (trained.folder / "others").iterdir()
    found = trained.measured(run / "metrics.jsonl")
    expected = trained.measured(Path("expected", "quickstart.jsonl"))
    norms = [key for key in expected if key[2] == "gradient_norm"]
    assert any(found[key] != pytest.approx(expected[key], rel=1e-3) for key in norms)

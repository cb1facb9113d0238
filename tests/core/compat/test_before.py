"""What an earlier commit left is read, goes on, and its seeded steps come out again, to the bit."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from .conftest import DATA, Before

pytestmark = pytest.mark.slow
RECIPES = ("quickstart", "chain", "ctc")
RUN = Path("stopped")


@pytest.fixture(scope="module")
def said(before: Before) -> str:
    """Train the recipes, and let the run go on: by its folder, and by its recipe. Return what was said."""
    recipe = before.folder / "recipes" / "stopped.yaml"
    told = recipe.read_text(encoding="utf-8").replace("global: 2}", f"global: 2, {before.averaging}}}")
    recipe.write_text(told, encoding="utf-8")
    # All in one process: starting one takes longer than what it does.
    return before.kikimimi(
        *(f"train recipes/{name}.yaml" for name in RECIPES),
        "train recipes/quickstart.yaml stages.asr.batch.loss=tokens --out others",
        "data check shards/*/*.tar",
        f"train {RUN}",
        "train recipes/stopped.yaml --out .",
        f"evaluate {RUN}",
    )


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.usefixtures("said")
def test_ten_steps_of_each_stage(before: Before, name: str) -> None:
    before.assert_as_before(Path("runs", name), name)


@pytest.mark.usefixtures("said")
def test_another_average_gives_other_losses(before: Before) -> None:
    """Otherwise the losses above would say nothing of how they are averaged."""
    (run,) = (before.folder / "others").iterdir()
    found = before.measured(run / "metrics.jsonl")
    expected = before.measured(Path("expected", "quickstart.jsonl"))
    norms = [key for key in expected if key[2] == "gradient_norm"]
    assert any(found[key] != pytest.approx(expected[key], rel=1e-3) for key in norms)


def test_its_shards_are_sound(said: str) -> None:
    assert "37 records" in said


def test_its_run_goes_on_as_it_would_have(before: Before, said: str) -> None:
    """It stopped between two lines of its log, in the second of three stages, and has no `batch.loss`."""
    assert "stage align: already done" in said
    assert "stage sft: going on after step 5" in said
    assert "stopped: already trained" in said
    before.assert_as_before(RUN, "stopped")
    for stage, digest in json.loads((DATA / "expected" / "weights.json").read_text(encoding="utf-8")).items():
        tensors = sorted(load_file(before.folder / RUN / "weights" / f"{stage}.safetensors").items())
        held = b"".join(name.encode() + tensor.tobytes() for name, tensor in tensors)
        assert not before.to_the_bit() or hashlib.sha256(held).hexdigest() == digest, stage


def test_its_lock_gains_sessions(before: Before, said: str) -> None:
    held, found = (json.loads((at / RUN / "lock.json").read_text()) for at in (DATA, before.folder))
    began = len(held["sessions"])
    assert found["sessions"][:began] == held["sessions"]
    assert len(found["sessions"]) == began + 1


def test_its_scores_stand_beside_those_of_today(before: Before, said: str) -> None:
    def scores(folder: Path) -> dict[str, dict[str, Any]]:
        path = folder / RUN / "evaluations" / "held_out" / "scores.json"
        found: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        return found

    held, found = scores(DATA), scores(before.folder)
    assert list(held) == ["stopped@align"]
    assert list(found) == ["stopped@align", "stopped"]
    assert found["stopped@align"].items() >= held["stopped@align"].items()
    assert "stopped@align" in (before.folder / RUN / "report.html").read_text(encoding="utf-8")

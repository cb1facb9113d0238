"""Shards and a run folder that an earlier commit wrote are read, and the run goes on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from .conftest import DATA, Before

RUN = Path("stopped")


@pytest.fixture(scope="module")
def said(before: Before) -> str:
    """Let the run go on: by its folder, and by the recipe that says how it averages. Return what was said."""
    recipe = before.folder / "recipes" / "stopped.yaml"
    told = recipe.read_text(encoding="utf-8").replace("global: 2}", f"global: 2, {before.averaging}}}")
    recipe.write_text(told, encoding="utf-8")
    return before.kikimimi(
        "data check shards/*/*.tar", f"train {RUN}", "train recipes/stopped.yaml --out .", f"evaluate {RUN}"
    )


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

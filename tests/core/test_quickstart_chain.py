"""The quickstart of the whole chain, with few sentences and tiny parts."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from kikimimi import quickstart as module
from kikimimi.cli import main
from kikimimi.recipe import load_recipe
from kikimimi.recipe.resolve import shipped_recipe
from kikimimi.run.folder import RunFolder
from kikimimi.synth.synth import DialogueSizes

STAGES = tuple(load_recipe(shipped_recipe("llm_jp_4_8b_ja_cpu")).stages)
OVERRIDES = (
    "encoder.weights=random",
    "encoder.fixed=['*']",
    "encoder.sizes={dim: 32, num_layers: 1, num_heads: 2, ffn_dim: 32}",
    "adapter.hidden_dim=32",
    "llm.scratch={dim: 32, num_layers: 1, num_heads: 2, ffn_dim: 32, context_length: 1024}",
    *(f"stages.{stage}.steps=2" for stage in STAGES),
    *(f"stages.{stage}.schedule.warmup=1" for stage in STAGES),
    *(f"stages.{stage}.batch.seconds=10" for stage in STAGES),
    "evaluate.held_out.generate.max_new_tokens=4",
    "evaluate.held_out.baselines.whisper-base=null",
    "evaluate.held_out_instructions.generate.max_new_tokens=4",
    "trainer.accelerator=cpu",
)


@pytest.mark.slow
def test_from_nothing_to_the_report_of_every_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KIKIMIMI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "80")
    dialogue = DialogueSizes(instructions=6, preferences=4, texts=10)
    monkeypatch.setattr(module, "CHAIN", replace(module.CHAIN, sentences=8, held_out=3, dialogue=dialogue))
    monkeypatch.setattr(sys, "argv", ["kikimimi", "quickstart", "--chain", *OVERRIDES])
    with pytest.raises(SystemExit) as exit_:
        main()
    captured = capsys.readouterr()
    assert exit_.value.code == 0, captured.err
    run = RunFolder.open(Path(captured.out.splitlines()[-1]).parent)
    assert run.path.name.startswith("llm_jp_4_8b_ja_cpu--")
    assert all(run.finished(stage) for stage in run.recipe.stages)
    assert {path.name for path in (run.path / "evaluations").iterdir()} >= {
        "held_out",
        "held_out_instructions",
    }
    said = captured.err
    assert "1. Speak 11 sentences and 13 requests" in said
    assert (
        "   $ kikimimi data synth ja_dialogue --out data/chain --count 8 --held-out 3 --instructions 6 "
        "--preferences 4 --texts 10" in said
    )
    for part in ("train", "held_out", "instructions", "held_out_instructions", "preferences", "texts"):
        ending = "csv" if part in ("train", "held_out") else "jsonl"
        assert f"   $ kikimimi data pack data/chain/{part}.{ending} data/chain/{part}" in said
    assert "data/chain/texts: 10 records, 0 dropped" in said
    assert "kikimimi train recipes/llm_jp_4_8b_ja_cpu.yaml adapter.downsample=8" in said

    # The same command again does nothing twice.
    clips = {path: path.stat().st_mtime_ns for path in (tmp_path / "data" / "chain" / "clips").iterdir()}
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 0
    assert "already trained" in capsys.readouterr().err
    assert clips == {path: path.stat().st_mtime_ns for path in clips}

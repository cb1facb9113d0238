"""The orchestration of the quickstart, with few sentences and tiny parts; CI runs the real one."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from kikimimi import quickstart as module
from kikimimi.cli import main
from kikimimi.quickstart import quickstart
from kikimimi.recipe.resolve import shipped_recipe

SENTENCES, HELD_OUT = 8, 3
OVERRIDES = (
    "encoder.weights=random",
    "encoder.fixed=['*']",
    "encoder.sizes={dim: 32, num_layers: 1, num_heads: 2, ffn_dim: 32}",
    "adapter.hidden_dim=32",
    "llm.scratch={dim: 32, num_layers: 1, num_heads: 2, ffn_dim: 32, context_length: 1024}",
    "stages.asr.steps=2",
    "stages.asr.schedule.warmup=1",
    "stages.asr.validate.every=2",
    "evaluate.held_out.generate.max_new_tokens=4",
    "evaluate.held_out.baselines.whisper-base=null",
    "trainer.accelerator=cpu",
)


def shrink(patch: pytest.MonkeyPatch) -> None:
    small = replace(module.QUICKSTART, sentences=SENTENCES, held_out=HELD_OUT)
    patch.setattr(module, "QUICKSTART", small)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quickstart")


@pytest.fixture(autouse=True)
def small(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setenv("KIKIMIMI_CACHE", str(home / "cache"))
    monkeypatch.setenv("COLUMNS", "80")
    shrink(monkeypatch)


@pytest.fixture(scope="module")
def first(home: Path) -> str:
    """Run it once; return what it said."""
    with pytest.MonkeyPatch.context() as patch, pytest.MonkeyPatch.context() as sizes:
        patch.chdir(home)
        patch.setenv("KIKIMIMI_CACHE", str(home / "cache"))
        shrink(sizes)
        said: list[str] = []
        patch.setattr(sys.stderr, "write", said.append)
        run = quickstart(OVERRIDES)
    assert run.report.name == "report.html"
    return "".join(said)


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_it_leaves_everything(home: Path, first: str) -> None:
    assert (home / "recipes" / "quickstart.yaml").read_text() == shipped_recipe("quickstart").read_text()
    (run,) = (home / "runs").iterdir()
    assert run.name.startswith("quickstart--")
    left = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    assert left >= {
        "recipe.yaml",
        "lock.json",
        "metrics.jsonl",
        "metrics.csv",
        "report.html",
        "weights/asr.safetensors",
        "evaluations/held_out/scores.json",
        "evaluations/held_out/quickstart.jsonl",
    }
    assert any(path.startswith("assets/llm/") for path in left)
    report = (run / "report.html").read_text(encoding="utf-8")
    assert report.count("<audio") == HELD_OUT
    assert "rows dropped while packing" in report
    scores = json.loads((run / "evaluations" / "held_out" / "scores.json").read_text())
    assert scores["quickstart"]["count"] == HELD_OUT
    assert len(list((home / "data" / "quickstart" / "clips").glob("*.flac"))) == SENTENCES + HELD_OUT


def test_the_second_run_does_nothing_again(
    home: Path, first: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {**files(home / "data"), **files(home / "runs")}
    run = quickstart(OVERRIDES)
    after = {**files(home / "data"), **files(home / "runs")}
    rewritten = {path.name for path in before if after[path] != before[path]}
    assert set(after) == set(before)
    # Small files that are made of what is there; nothing is spoken, packed, trained or predicted again.
    assert rewritten <= {
        "train.csv",
        "held_out.csv",
        "ledger.json",
        ".lock",
        "dropped.jsonl",
        "scores.json",
        "record.json",
        "guards.json",
        "scores.md",
        "scores.tex",
        "report.html",
        "quickstart.jsonl",
    }
    assert "already trained" in capsys.readouterr().err
    assert run.read_json("evaluations/held_out/scores.json")["quickstart"]["count"] == HELD_OUT


def test_it_prints_the_single_commands_and_what_to_try_next(home: Path, first: str) -> None:
    (run,) = (home / "runs").iterdir()
    for command in (
        "kikimimi data synth ja_small --out data/quickstart --count 8 --held-out 3",
        "kikimimi data pack data/quickstart/train.csv data/quickstart/train",
        "kikimimi data pack data/quickstart/held_out.csv data/quickstart/held_out",
        f"kikimimi evaluate runs/{run.name}",
        f"kikimimi transcribe runs/{run.name} YOUR.wav",
        "kikimimi train recipes/quickstart.yaml adapter.downsample=8",
    ):
        assert f"   $ {command}" in first


def printed(said: str) -> list[str]:
    lines = [line.strip().removeprefix("$ kikimimi ") for line in said.splitlines()]
    return [
        line for line in lines if line.startswith(("data ", "train recipes/quickstart.yaml enc", "evaluate "))
    ]


@pytest.mark.slow
def test_the_printed_commands_are_equivalent(
    home: Path, first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are run as printed, in another folder, and leave the same weights and predictions."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "quickstart.yaml").write_text(shipped_recipe("quickstart").read_text())
    commands = printed(first)
    assert [shlex.split(command)[0] for command in commands] == ["data", "data", "data", "train", "evaluate"]
    for command in commands:
        monkeypatch.setattr(sys, "argv", ["kikimimi", *shlex.split(command)])
        with pytest.raises(SystemExit) as exit_:
            main()
        assert exit_.value.code == 0, command
    (here,), (there,) = (tmp_path / "runs").iterdir(), (home / "runs").iterdir()
    assert here.name == there.name
    for name in ("weights/asr.safetensors", "recipe.yaml"):
        assert (here / name).read_bytes() == (there / name).read_bytes()

    def said(run: Path) -> list[str]:
        lines = (run / "evaluations/held_out/quickstart.jsonl").read_text(encoding="utf-8").splitlines()[1:]
        return [json.loads(line)["prediction"] for line in lines]

    assert said(here) == said(there)


def test_a_recipe_that_the_user_changed_is_kept(
    home: Path, first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "quickstart.yaml").write_text("name: mine\n")
    with pytest.raises(Exception, match="problems in the recipe"):
        quickstart(OVERRIDES)
    assert (tmp_path / "recipes" / "quickstart.yaml").read_text() == "name: mine\n"
    assert not (tmp_path / "data").exists()  # found before anything was spoken


@pytest.mark.parametrize("step", ["synth", "pack", "train", "evaluate"])
def test_ctrl_c_anywhere_and_the_same_command_goes_on(
    home: Path,
    first: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    step: str,
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["kikimimi", "quickstart", *OVERRIDES])
    with monkeypatch.context() as patch:
        patch.setattr(module, step, stop)
        with pytest.raises(SystemExit) as exit_:
            main()
    assert exit_.value.code == 130
    assert "stopped. Run the same command again: it goes on from here." in capsys.readouterr().err
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1].endswith("/report.html")


def test_shipped_recipes() -> None:
    with pytest.raises(ValueError, match=r"no recipe 'quikstart' is shipped\. Did you mean 'quickstart'\?"):
        shipped_recipe("quikstart")

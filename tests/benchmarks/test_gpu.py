"""What is measured on GPUs runs at its smallest size on a CPU, and one section's failure stops no other."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import distributions, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu.sh"
CPU = torch.device("cpu")
FAST = ("machine", "adapter", "lora", "attention", "generation", "parity", "resume", "fsdp")


@pytest.fixture(scope="module", autouse=True)
def importable() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT))
        yield


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    import benchmarks.gpu.__main__ as module

    return module


@pytest.fixture(scope="module")
def subject() -> Any:
    from benchmarks.gpu.size import SIZES
    from benchmarks.gpu.subject import Subject

    return Subject(SIZES["tiny"], CPU)


@pytest.fixture(scope="module")
def measured(bench: ModuleType, subject: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run the sections that take seconds, in this process."""
    results = bench.Results("NVIDIA H100 80GB HBM3", "full")
    path = bench.measure(FAST, results, bench.run_here(subject), tmp_path_factory.mktemp("results"), 1e9)
    held: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return held


def result(measured: dict[str, Any], name: str) -> dict[str, Any]:
    made = measured["sections"][name]
    assert "error" not in made, made["error"]
    found: dict[str, Any] = made["result"]
    return found


@pytest.mark.filterwarnings("ignore")
def test_a_file_says_what_it_is_of(measured: dict[str, Any]) -> None:
    assert measured["format"] == 1
    assert (measured["card"], measured["size"]) == ("NVIDIA H100 80GB HBM3", "full")
    assert list(measured["sections"]) == list(FAST)
    assert result(measured, "machine")["libraries"]["torch"] == torch.__version__


@pytest.mark.parametrize("name", ["adapter", "lora", "fsdp"])
def test_the_training_step(measured: dict[str, Any], subject: Any, name: str) -> None:
    made = result(measured, name)
    assert (made["clips"], made["positions"], made["targets"]) == (2, 2 * (13 + 12 + 8), 2 * 8)
    assert made["positions_per_second"] == pytest.approx(made["positions"] / made["step_seconds"])
    assert (made["peak_memory"], made["mfu"]) == (None, None)  # a CPU tells neither
    assert made["mfu_of_measured"] > 0
    assert made["planned_memory"] == subject.forecast("lora" if name == "lora" else "adapter")
    assert len(made["losses"]) == 3
    assert made["losses"][-1] < made["losses"][0]
    assert made["losses"] == pytest.approx(result(measured, "adapter")["losses"], rel=1e-3)


def test_a_frozen_llm_takes_four_operations_for_each_parameter_and_position(
    measured: dict[str, Any], subject: Any
) -> None:
    model = subject.model("adapter")
    shape = subject.shape(model, "adapter")
    decoder = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64)  # q, o; k, v of half the heads; the gated network
    head = 262 * 32
    encoder = sum(p.numel() for p in model.encoder.parameters() if p.dim() > 1)
    adapter = 4 * 32 * 32 + 32 * 32
    assert (shape.clips, shape.frames, shape.tokens) == (2, 50, 13)
    expected = 2 * (2 * encoder * 50 + 4 * adapter * 13 + 4 * decoder * 33 + 4 * head * 8)
    assert result(measured, "adapter")["operations"] == expected
    updates = 2 * (2 * (32 + 32) + 2 * (32 + 16))  # of rank 2, beside q and v of both layers; they train: 6
    assert result(measured, "lora")["operations"] == expected + 2 * 6 * updates * 33


def test_attention_is_the_same_by_every_method(measured: dict[str, Any]) -> None:
    for pack in result(measured, "attention").values():
        assert sum(pack["lengths"]) == 96
        methods = pack["methods"]
        assert set(methods) == {"by_sequence", "dense_mask", "nested", "varlen", "flex"}
        for name in ("by_sequence", "dense_mask", "flex"):
            assert methods[name]["difference"] < 0.05
        assert "CPU" in methods["varlen"]["error"]  # what this device cannot do is told
        assert "backward" in methods["flex"]["error"]


def test_generation_parity_resume(measured: dict[str, Any]) -> None:
    assert 0 < result(measured, "generation")["new_tokens"] <= 2 * 4
    parity = result(measured, "parity")
    assert parity["fp32_against_cpu"] == {"loss": 0.0, "gradient": 0.0}
    assert 0 < parity["bf16_against_fp32"]["gradient"] < 0.1
    resume = result(measured, "resume")
    assert (resume["same_losses"], resume["same_weights"], resume["steps"]) == (True, True, 6)


def test_one_section_that_fails_stops_no_other(
    bench: ModuleType, subject: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(name: str, limit: float) -> dict[str, Any]:
        return {"error": "Traceback\nRuntimeError: out of memory"} if name == "lora" else {"result": {}}

    path = bench.measure(("adapter", "lora", "fsdp"), bench.Results("A card", "full"), run, tmp_path)
    assert path == tmp_path / "a-card-full.json"
    sections = json.loads(path.read_text(encoding="utf-8"))["sections"]
    assert [("result" in made, "error" in made) for made in sections.values()] == [
        (True, False),
        (False, True),
        (True, False),
    ]
    said = capsys.readouterr().out.splitlines()
    assert [line.split(" (")[0] for line in said] == ["adapter: done", "lora: failed", "fsdp: done"]
    path = bench.measure(("adapter",), bench.Results("A card", "full"), run, tmp_path, limit=0)
    sections = json.loads(path.read_text(encoding="utf-8"))["sections"]
    assert sections["adapter"]["error"] == "not begun: the time was used up"


def test_what_a_section_raises_is_kept(
    bench: ModuleType, subject: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(subject: Any) -> dict[str, Any]:
        raise RuntimeError("CUDA error: an illegal memory access")

    section = bench.SECTIONS["adapter"]
    monkeypatch.setitem(bench.SECTIONS, "adapter", type(section)(broken, 1))
    made = bench.run_here(subject)("adapter", 1)
    assert made["error"].strip().endswith("RuntimeError: CUDA error: an illegal memory access")


@pytest.mark.parametrize(
    ("program", "limit", "said"),
    [
        ("echo it fell over; kill -SEGV $$", 60, "it fell over\n\nended with -11"),
        ("echo it hangs; sleep 60 & wait", 0.5, "it hangs\n\ntook longer than 0 s"),
    ],
    ids=["dies", "hangs"],
)
def test_a_section_that_dies_or_hangs(
    bench: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    program: str,
    limit: float,
    said: str,
) -> None:
    """Its process is ended with what it has started, and what it said is kept."""
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{program}\n", encoding="utf-8")
    path.chmod(0o755)
    monkeypatch.setattr(bench.sys, "executable", str(path))
    assert bench.run_apart("tiny")("machine", limit) == {"error": said}


def test_what_was_measured_before_the_time_was_used_up_is_kept(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "python"
    write = 'for into; do :; done; echo \'{"result": {"short": 1}}\' >"$into"'
    path.write_text(f"#!/bin/sh\n{write}\nsleep 60 & wait\n", encoding="utf-8")
    path.chmod(0o755)
    monkeypatch.setattr(bench.sys, "executable", str(path))
    made = bench.run_apart("tiny")("attention", 0.5)
    assert made == {"result": {"short": 1}, "error": "\ntook longer than 0 s"}


def test_attention_keeps_each_method(subject: Any) -> None:
    from benchmarks.gpu.attention import METHODS, attention

    kept: list[list[str]] = []

    def keep(found: dict[str, Any]) -> None:
        kept.append([method for pack in found.values() for method in pack["methods"]])

    attention(replace(subject, keep=keep))
    assert kept[0] == ["by_sequence"]
    assert kept[-1] == 3 * [*METHODS]


def test_the_tests_of_cuda_say_when_none_has_run(subject: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where pytest itself falls over: no failure was counted, and none had passed."""
    from benchmarks.gpu import cuda_tests

    fallen = subprocess.CompletedProcess([], 3, "INTERNALERROR> Unknown config option: timeout\n", "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: fallen)
    with pytest.raises(RuntimeError, match=r"no test has run:\nINTERNALERROR> Unknown config option"):
        cuda_tests.cuda_tests(subject)


def test_what_the_settings_of_pytest_need_is_installed() -> None:
    needs = runpy.run_path(str(ROOT / "benchmarks" / "gpu" / "needs.py"))
    settings = needs["tomllib"].loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    options = settings["tool"]["pytest"]["ini_options"].keys() - {
        "testpaths",
        "addopts",
        "markers",
        "filterwarnings",
    }
    assert options == {"timeout", "timeout_method"}
    assert any(one.startswith("pytest-timeout") for one in needs["WANTED"])


@pytest.fixture(scope="module")
def page() -> Any:
    return runpy.run_path(str(ROOT / "docs" / "performance.py"))["performance_reference"]


def test_the_page_before_anything_is_measured(page: Any, tmp_path: Path) -> None:
    assert page(tmp_path) == "\nNot measured yet: no file of results is there.\n\n"
    tiny = {"size": "tiny", "card": "CPU"}
    (tmp_path / "cpu-tiny.json").write_text(json.dumps(tiny), encoding="utf-8")
    assert "Not measured yet" in page(tmp_path)


def test_the_page_of_what_was_measured(page: Any, measured: dict[str, Any], tmp_path: Path) -> None:
    made = json.loads(json.dumps(measured))
    adapter = made["sections"]["adapter"]["result"]
    adapter.update(mfu=0.423, peak_memory=41.26e9, planned_memory=38.9e9, positions=4080, step_seconds=0.31)
    failure = {"seconds": 75.0, "error": "Traceback ...\ntorch.OutOfMemoryError: CUDA out of memory."}
    made["sections"] |= {"lora": failure, "tests": {"seconds": 1, "result": dict.fromkeys(COUNTS, 3)}}
    (tmp_path / "h100.json").write_text(json.dumps(made), encoding="utf-8")
    said = page(tmp_path)
    assert "\n## NVIDIA H100 80GB HBM3\n" in said
    (row,) = [line for line in said.splitlines() if line.startswith("| adapter trains |")]
    assert row.startswith("| adapter trains | 4,080 | 0.310 |")
    assert " | 42% | " in row
    assert row.endswith("| 41.3 | 38.9 |")
    assert "- `lora`: `torch.OutOfMemoryError: CUDA out of memory.`" in said
    assert "A run that goes on ends with the same weights." in said
    assert "`pytest -m gpu`: 3 passed, 3 failed, 3 skipped." in said
    assert "| `by_sequence` |" in said
    assert "Not measured" not in said


COUNTS = ("passed", "failed", "skipped")


def test_what_a_machine_lacks(tmp_path: Path) -> None:
    needs = runpy.run_path(str(ROOT / "benchmarks" / "gpu" / "needs.py"))
    found = needs["lacking"](
        ["no-such.Thing>=1", "numpy>=1", "numpy>=999", "x; python_version < '3'"], tmp_path
    )
    assert found == ["no-such.Thing>=1"]
    assert needs["lacking"](["numpy>=999"], tmp_path) == ["numpy>=999"]
    # What is put into the folder stands in for what the machine has, and its own needs count.
    info = tmp_path / "numpy-999.1.dist-info"
    info.mkdir()
    about = "Metadata-Version: 2.1\nName: numpy\nVersion: 999.1\nRequires-Dist: no-other-thing\n"
    (info / "METADATA").write_text(about, encoding="utf-8")
    assert needs["lacking"](["numpy>=999"], tmp_path) == ["no-other-thing"]


def test_a_python_without_pip_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = runpy.run_path(str(ROOT / "benchmarks" / "gpu" / "needs.py"))
    monkeypatch.setitem(sys.modules, "pip._vendor.packaging.requirements", None)
    with pytest.raises(SystemExit, match=r"has no pip, .* -m ensurepip"):
        needs["requirement"]("numpy")


def test_what_cannot_be_installed_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    needs = runpy.run_path(str(ROOT / "benchmarks" / "gpu" / "needs.py"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KIKIMIMI_WHEELS", str(tmp_path))  # which holds none
        with pytest.raises(SystemExit, match=r"lacks no-such-thing>=1, and pip could not .* KIKIMIMI_WHEELS"):
            needs["install"](["no-such-thing>=1"], tmp_path / "into")
    assert "no-such-thing" in capfd.readouterr().err


def test_plugins_are_found_without_an_installation(tmp_path: Path) -> None:
    needs = runpy.run_path(str(ROOT / "benchmarks" / "gpu" / "needs.py"))
    project = needs["tomllib"].loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needs["register"](project, tmp_path)
    (made,) = distributions(path=[str(tmp_path)])
    found = {(entry.group, entry.name, entry.value) for entry in made.entry_points}
    installed = {
        (entry.group, entry.name, entry.value)
        for group in project["entry-points"]
        for entry in entry_points(group=group)
        if entry.dist is not None and entry.dist.name == "kikimimi"
    }
    assert found == installed
    assert made.version == project["version"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_full_size_fits_a_card_of_80_gb(subject: Any) -> None:
    from benchmarks.gpu.operations import step_operations
    from benchmarks.gpu.size import SIZES
    from benchmarks.gpu.subject import Subject

    full = Subject(SIZES["full"], torch.device("meta"))
    model = full.model("adapter").requires_grad_(False)
    assert sum(p.numel() for p in model.llm.parameters()) == 8_030_261_248
    assert {p.dtype for p in model.llm.parameters()} == {torch.bfloat16}
    assert sum(p.numel() for p in model.encoder.parameters()) == pytest.approx(637e6, rel=0.01)
    shape = full.shape(model, "adapter")
    positions = shape.clips * (shape.prompt + shape.answer)
    assert 4096 - 240 < positions <= 4096
    assert step_operations(model, shape) == pytest.approx(4 * 7.0e9 * positions, rel=0.15)
    assert max(map(full.forecast, ("adapter", "lora"))) < 60e9


@pytest.mark.slow
def test_the_script_runs_here(tmp_path: Path) -> None:
    """As on a bare machine: with a Python that has what is needed, but not kikimimi."""
    done = subprocess.run(
        [SCRIPT, "--size", "tiny", "--out", tmp_path / "out"],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    (path,) = (tmp_path / "out").iterdir()
    sections = json.loads(path.read_text(encoding="utf-8"))["sections"]
    assert {name: made["error"] for name, made in sections.items() if "error" in made} == {}
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"{path}: 10 sections"
    assert sections["compile"]["result"]["backend"] == "eager"
    tests = sections["tests"]["result"]
    assert (tests["passed"] > 15, tests["failed"]) == (True, 0), tests
    if not torch.cuda.is_available():
        assert tests["skipped"] == 1  # fp16, which is refused on a CPU


def test_full_size_needs_a_gpu(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["gpu"])
    with pytest.raises(SystemExit, match="torch finds no GPU here: --size tiny"):
        bench.main()

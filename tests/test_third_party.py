"""Plugins of other people, one of every kind: pip installs them, their tests pass, and commands use them."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile
from typer.testing import CliRunner

from kikimimi.cli import app
from kikimimi.console.words import counted
from kikimimi.contracts import registry
from kikimimi.inference.load import load_model
from kikimimi.run.folder import RunFolder
from kikimimi.testing import list_checks

PACKAGES = Path(__file__).parent / "third_party"
PLUGINS = {
    "encoder": ("kikimimi-sincnet", "sincnet"),
    "adapter": ("kikimimi-average-adapter", "average"),
    "llm": ("kikimimi-mingru", "mingru"),
    "objective": ("kikimimi-label-smoothing", "label_smoothing"),
    "task": ("kikimimi-multiple-choice", "multiple_choice"),
    "layout": ("kikimimi-ljspeech", "ljspeech"),
    "voice": ("kikimimi-morse", "morse"),
    "normaliser": ("kikimimi-turkish", "turkish"),
    "metric": ("kikimimi-match-error-rate", "mer"),
    "recogniser": ("kikimimi-wav2vec2-ctc", "wav2vec2_ctc"),
    "judge": ("kikimimi-command-judge", "command"),
}
"""The distribution and the plugin of each kind."""
TESTS = {
    "encoder": (2, 4),
    "adapter": (2, 2),
    "llm": (1, 4),
    "objective": (2, 4),
    "task": (2, 8),
    "layout": (2, 5),
    "voice": (2, 5),
    "normaliser": (1, 7),
    "metric": (2, 3),
    "recogniser": (1, 4),
    "judge": (1, 3),
}
"""How many configs each package's tests check, and how many other tests it has."""
IMPORTED = ("encoder", "adapter", "llm", "objective", "voice", "recogniser", "judge")
"""Kinds whose checks import torch or numpy in a process of its own, which takes seconds."""

GRAMMAR = """
language: en
sentences: ["{word} {word}", "{word}"]
words: {word: [tea, eat, tie, mat, met, tame]}
"""
SIZE = ("--count", "6", "--held-out", "1", "--workers", "1")
RECIPE = """
name: foreign
encoder: {name: sincnet, dim: 32, num_layers: 1, num_filters: 20}
adapter: {name: average, downsample: 8}
llm: {name: mingru, dim: 32, num_layers: 1, state_dim: 32, ffn_dim: 32}
stages:
  learn:
    objective: {name: label_smoothing, epsilon: 0.2}
    train: {encoder: {lr: 1.0e-3}, adapter: {lr: 1.0e-3}, llm: {lr: 1.0e-3}}
    data:
      speech: {shards: 'speech/*.tar', task: asr}
      quiz: {shards: 'quiz/*.tar', task: multiple_choice}
    batch: {seconds: 4, global: 2}
    steps: 2
evaluate:
  speech:
    shards: 'speech/*.tar'
    task: asr
    metric: mer
    normaliser: turkish
    generate: {max_new_tokens: 4}
    baselines: {other: {name: wav2vec2_ctc, weights: ./wav2vec2}}
  quiz:
    shards: 'quiz/*.tar'
    task: {name: multiple_choice, answer: letter}
    metric: {name: mer, unit: characters}
    normaliser: turkish
    generate: {max_new_tokens: 4}
  judged:
    shards: 'speech/*.tar'
    task: asr
    metric: {name: judge, judge: {name: command, command: [sed, -n, '/^reference/s/.*/{"score": 4}/p']}}
    generate: {max_new_tokens: 4}
trainer: {log_every: 1, accelerator: cpu}
"""


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return copies of the packages' repositories: nothing of a build is left in this one."""
    copies = tmp_path_factory.mktemp("repositories")
    for package in PACKAGES.glob("kikimimi-*"):
        ignored = shutil.ignore_patterns("__pycache__", ".*")
        shutil.copytree(package, copies / package.name, ignore=ignored)
    return copies


@pytest.fixture(scope="module")
def site(repositories: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that the packages are installed to."""
    site = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    packages = [str(package) for package in repositories.iterdir()]
    subprocess.run([*command, "--disable-pip-version-check", "--target", str(site), *packages], check=True)
    return site


@pytest.fixture(scope="module")
def installed(site: Path) -> Iterator[None]:
    """Have the packages installed in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        registry.refresh()
        yield
    registry.refresh()


def kikimimi(*arguments: object) -> str:
    """Run a command in this process; return what it prints."""
    result = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def project(distribution: str) -> dict[str, Any]:
    """Return what a package says of itself."""
    text = (PACKAGES / distribution / "pyproject.toml").read_text(encoding="utf-8")
    said: dict[str, Any] = tomllib.loads(text)["project"]
    return said


def test_there_is_one_of_every_kind() -> None:
    assert list(PLUGINS) == list(TESTS) == list(registry.KINDS)
    assert {d for d, _ in PLUGINS.values()} == {package.name for package in PACKAGES.glob("kikimimi-*")}


@pytest.mark.parametrize("kind", PLUGINS)
def test_what_a_package_says_of_itself(kind: str) -> None:
    """As docs/plugins/publishing.md has it."""
    distribution, name = PLUGINS[kind]
    said = project(distribution)
    assert said["name"] == distribution
    assert list(said["entry-points"]) == [registry.kind_of(kind).group]
    assert list(said["entry-points"][registry.kind_of(kind).group]) == [name]
    assert said["dependencies"][0].startswith("kikimimi>=")
    readme = (PACKAGES / distribution / "README.md").read_text(encoding="utf-8")
    assert f"pip install {distribution}\n" in readme
    assert "pypi.org" not in readme


def test_they_are_listed_with_their_distributions(site: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kikimimi.cli", "plugins", "--json"],
        env={**os.environ, "PYTHONPATH": str(site)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    distributions = {distribution for distribution, _ in PLUGINS.values()}
    found = [row for row in json.loads(done.stdout) if row["distribution"] in distributions]
    assert found == [
        {
            "kind": kind,
            "name": name,
            "value": project(distribution)["entry-points"][registry.kind_of(kind).group][name],
            "distribution": distribution,
            "version": project(distribution)["version"],
            "duplicate": False,
        }
        for kind, (distribution, name) in PLUGINS.items()
    ]


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind in IMPORTED)) for kind in PLUGINS]
)
def test_they_keep_the_contract(kind: str) -> None:
    distribution, name = PLUGINS[kind]
    number = len(list_checks(kind, registry.load(kind, name)))
    said = kikimimi("plugins", "--check", name)
    assert said.startswith(f"ok      {kind} '{name}' ({distribution} {project(distribution)['version']}, ")
    assert said.rstrip().endswith(f"): {counted(number, 'check')}")


@pytest.mark.slow
@pytest.mark.parametrize("kind", PLUGINS)
def test_their_own_tests_pass(
    kind: str, site: Path, repositories: Path, run_pytest: Callable[..., int], installed: None
) -> None:
    distribution, name = PLUGINS[kind]
    configs, others = TESTS[kind]
    checks = len(list_checks(kind, registry.load(kind, name)))
    assert run_pytest(site, repositories / distribution / "tests") == configs * checks + others


@pytest.fixture(scope="module")
def work(installed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a folder in which each package did its work, by the commands that a user types."""
    folder = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("KIKIMIMI_CACHE", str(folder / "cache"))
        Path("words.yaml").write_text(GRAMMAR)
        kikimimi("data", "synth", "words.yaml", "--out", "spoken", "--voice", "morse", *SIZE)
        with Path("spoken/train.csv").open(newline="", encoding="utf-8") as file:
            spoken = list(csv.DictReader(file))
        _write_lj_speech(spoken)
        _write_quiz(spoken)
        kikimimi("data", "pack", "lj", "speech", "--layout", "ljspeech")
        kikimimi("data", "pack", "quiz.jsonl", "quiz", "language=en")
        registry.load("recogniser", "wav2vec2_ctc").example(Path("wav2vec2"))
        Path("recipe.yaml").write_text(RECIPE)
        kikimimi("train", "recipe.yaml")
        kikimimi("evaluate", "runs/foreign")
        yield folder


def _write_lj_speech(spoken: list[dict[str, str]]) -> None:
    Path("lj/wavs").mkdir(parents=True)
    lines = []
    for number, row in enumerate(spoken, start=1):
        soundfile.write(f"lj/wavs/LJ001-{number:04}.wav", *soundfile.read(f"spoken/{row['path']}"))
        lines.append(f"LJ001-{number:04}|{row['text'].upper()}|{row['text']}\n")
    Path("lj/metadata.csv").write_text("".join(lines))


def _write_quiz(spoken: list[dict[str, str]]) -> None:
    choices = [row["text"] for row in spoken]
    rows = [
        {
            "path": f"spoken/{row['path']}",
            "text": row["text"],
            "question": "Which words are keyed?",
            "choices": choices,
            "answer": row["text"],
        }
        for row in spoken
    ]
    Path("quiz.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_voice_speaks_and_the_layout_is_packed(work: Path) -> None:
    """What was keyed in Morse is read as an LJ Speech: the same texts, in its order."""
    with (work / "spoken" / "train.csv").open(newline="", encoding="utf-8") as file:
        spoken = list(csv.DictReader(file))
    assert {row["voice"] for row in spoken} == {"morse"}
    with tarfile.open(work / "speech" / "shard-000000.tar") as shard:
        names = [name for name in shard.getnames() if name.endswith(".json")]
        records = [json.load(held) for name in names if (held := shard.extractfile(name))]
    assert [record["text"] for record in records] == [row["text"] for row in spoken]
    assert {record["meta"]["source"] for record in records} == {"LJ Speech"}


def test_the_model_is_trained(work: Path) -> None:
    folder = RunFolder.open(work / "runs" / "foreign")
    model = load_model(folder)
    parts = [type(part).__module__ for part in (model.encoder, model.adapter, model.llm)]
    assert parts == ["kikimimi_sincnet", "kikimimi_average_adapter", "kikimimi_mingru"]
    lines = folder.metrics.read_text(encoding="utf-8").splitlines()
    first = next(row for row in map(json.loads, lines) if "loss" in row)
    # Two parts with their weights, written by the objective's names.
    expected = 0.8 * first["loss/ce"] + 0.2 * first["loss/uniform"]
    assert first["loss"] == pytest.approx(expected, rel=1e-5)


def test_a_run_says_what_it_was_made_with(work: Path) -> None:
    plugins = read_json(work / "runs" / "foreign" / "lock.json")["plugins"]
    for part in ("encoder", "adapter", "llm"):
        distribution, name = PLUGINS[part]
        found = {"name": name, "distribution": distribution, "version": project(distribution)["version"]}
        assert plugins[part] == {**found, "weights": None}


def test_the_evaluation_uses_metric_normaliser_and_recogniser(work: Path) -> None:
    scores = read_json(work / "runs" / "foreign" / "evaluations" / "speech" / "scores.json")
    assert list(scores) == ["foreign", "other"]
    for score in scores.values():
        assert (score["metric"], score["normaliser"], score["count"]) == ("mer", "turkish", 6)
        edits = score["substitutions"] + score["deletions"] + score["insertions"]
        assert score["value"] == pytest.approx(100 * edits / (edits + score["hits"]), abs=1e-3)


def test_the_judge_is_asked(work: Path) -> None:
    (score,) = read_json(work / "runs" / "foreign" / "evaluations" / "judged" / "scores.json").values()
    assert (score["metric"], score["value"], score["judged"], score["failed"]) == ("judge", 4.0, 6, 0)


def test_the_task_asks_what_its_records_ask(work: Path) -> None:
    answers = work / "runs" / "foreign" / "evaluations" / "quiz" / "foreign.jsonl"
    rows = [json.loads(line) for line in answers.read_text("utf-8").splitlines()[1:]]
    found = [row["reference"] for row in sorted(rows, key=lambda row: row["key"])]
    assert found == [f"({letter})" for letter in "ABCDEF"]

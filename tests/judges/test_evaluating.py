"""A recipe whose evaluation asks a judge, from YAML to scores, through `kikimimi evaluate`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.judges.endpoint import KEY, Endpoint, scored, texts_of

from kikimimi.cli import main
from kikimimi.errors import RecipeError
from kikimimi.recipe import load_recipe
from kikimimi.run.folder import RunFolder
from kikimimi.testing import write_shard
from kikimimi.training.train import train

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
    train: {{adapter: {{lr: 1.0e-3}}, llm: {{lr: 1.0e-3}}}}
    data: {{tones: {{shards: "{shards}", task: asr}}}}
    batch: {{seconds: 3, global: 1}}
    steps: 1
evaluate:
  judged:
    shards: "{shards}"
    task: asr
    generate: {{max_new_tokens: 4}}
    metric: {metric}
guards: {{run: never}}
trainer: {{log_every: 1, accelerator: cpu}}
"""
JUDGE = "name: openai, model: judge-1, base_url: '{url}', key_variable: JUDGE_KEY, retries: 0"


def recipe(folder: Path, metric: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(
        RECIPE.format(shards=write_shard(folder / "data", 4, seed=4), metric=metric), encoding="utf-8"
    )
    return path


def kikimimi(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> object:
    monkeypatch.setattr(sys, "argv", ["kikimimi", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def test_a_run_is_judged(
    endpoint: Endpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def answer(request: dict[str, Any], number: int) -> Any:
        return scored(number if number < 3 else "?", "a reason")

    endpoint.answer = answer
    judge = JUDGE.format(url=endpoint.url)
    path = recipe(tmp_path, f"{{name: judge, judge: {{{judge}, concurrency: 1}}}}")
    run = RunFolder.create(tmp_path / "run", load_recipe(path))
    train(run)
    assert kikimimi(monkeypatch, "evaluate", run.path) == 0
    said = capsys.readouterr()
    assert "judged: small: not valid (!): 1 of 4 answers could not be judged" in said.err
    assert "JUDGE" in said.out
    (score,) = run.read_json("evaluations/judged/scores.json").values()
    assert (score["value"], score["judged"], score["failed"], score["better"]) == (1.0, 3, 1, "higher")
    assert score["invalid"].startswith("1 of 4 answers could not be judged (25.0 %")
    for request in endpoint.requests:
        texts = texts_of(request)
        assert texts["reference"]
        assert texts["reference"] in texts["query"]  # what is said in the clip, and the request beside it
    # What failed is asked again, and nothing else.
    endpoint.answer = lambda request, number: scored(9)
    assert kikimimi(monkeypatch, "evaluate", run.path) == 0
    (score,) = run.read_json("evaluations/judged/scores.json").values()
    assert (score["value"], score["failed"], len(endpoint.requests)) == (3.0, 0, 5)
    assert "invalid" not in score
    assert 0 <= score["low"] < 3 < score["high"] <= 9
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) > 10
    assert [file for file in files if KEY.encode() in file.read_bytes()] == []


def test_a_judge_has_to_be_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"evaluate.judged.metric.judge: must be given: the name of a reg"):
        load_recipe(recipe(tmp_path, "judge"))
    with pytest.raises(RecipeError, match=r"metric.judge: llm or run: one of them has to be given"):
        load_recipe(recipe(tmp_path, "{name: judge, judge: local}"))


def test_a_key_in_a_recipe_is_not_repeated(tmp_path: Path) -> None:
    judge = JUDGE.format(url="http://127.0.0.1:9").replace("JUDGE_KEY", KEY)
    with pytest.raises(RecipeError, match=r"metric.judge.key_variable: must be the name of an env") as caught:
        load_recipe(recipe(tmp_path, f"{{name: judge, judge: {{{judge}}}}}"))
    assert KEY not in str(caught.value)


def test_a_table_is_judged(
    endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`kikimimi score` takes the judge as an option of the metric; standard output stays JSON."""
    endpoint.answer = lambda request, number: scored(4)
    (tmp_path / "table.csv").write_text("r,p\nright,good\nright,bad\n", encoding="utf-8")
    options = {"name": "openai", "model": "judge-1", "base_url": endpoint.url, "key_variable": "JUDGE_KEY"}
    asked = [text for key, value in options.items() for text in ("--metric-option", f"judge.{key}={value}")]
    columns = ["--reference", "r", "--prediction", "p", "--normaliser", "none", "--metric", "judge"]
    assert kikimimi(monkeypatch, "score", tmp_path / "table.csv", *columns, *asked, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["value"], found["judged"], found["count"]) == (4.0, 2, 2)
    assert len(endpoint.requests) == 2

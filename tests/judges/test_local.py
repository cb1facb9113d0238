"""The judge `local`: an LLM on this machine, in batches, and that of a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.judges.test_evaluating import RECIPE

from kikimimi import (
    Chosen,
    Conversation,
    Generation,
    JudgePrompt,
    Message,
    TextPart,
    WrittenAnswer,
    WrittenLLM,
)
from kikimimi.errors import RunError
from kikimimi.recipe import load_recipe
from kikimimi.run.folder import RunFolder
from kikimimi.testing import write_shard
from kikimimi.training.train import train
from kikimimi_judges.local import LocalJudge


def tiny(tmp_path: Path, **options: Any) -> LocalJudge.Config:
    return replace(LocalJudge.example(tmp_path), **options)


def ask(config: LocalJudge.Config, texts: list[str], vote: int = 0) -> list[Any]:
    prompts = [JudgePrompt(system="be fair", text=text, vote=vote) for text in texts]
    found = dict(LocalJudge(config).ask(prompts))
    return [found[number] for number in range(len(texts))]


def test_an_answer_that_is_cut_is_a_failure(tmp_path: Path) -> None:
    (reply,) = ask(tiny(tmp_path), ["a"])
    assert reply.failure == "cut after max_tokens (2)"
    assert (reply.text, reply.tokens_out) == ("", 2)
    assert reply.tokens_in > len("be fair") + len("a")


def test_batches_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Greedy, and drawn: votes draw differently."""
    texts = ["a", "which of them is longer?", "はい", "b" * 50]
    monkeypatch.setattr("kikimimi.inference.in_writing.WrittenLLM.answer", _never_cut(WrittenLLM.answer))
    for temperature in (0.0, 1.5):
        alone, together = (
            ask(tiny(tmp_path, batch_size=size, temperature=temperature, max_tokens=6), texts)
            for size in (1, 4)
        )
        assert [reply.text for reply in alone] == [reply.text for reply in together]
    again, other = (ask(tiny(tmp_path, temperature=1.5, max_tokens=6), texts, vote=vote) for vote in (0, 1))
    assert again == together != other


def _never_cut(whole: Any) -> Any:
    def answer(*arguments: Any) -> list[WrittenAnswer | str]:
        return [one if isinstance(one, str) else replace(one, cut=False) for one in whole(*arguments)]

    return answer


def test_what_leaves_no_room_is_a_failure(tmp_path: Path) -> None:
    llm = LocalJudge.example(tmp_path).llm
    assert llm is not None
    written = WrittenLLM.of(llm, "cpu")
    written._llm.context_length = 40
    said = [Conversation((Message("user", (TextPart(text),)),)) for text in ("x" * 500, "x")]
    long, short = written.answer(said, Generation(max_new_tokens=2), [0, 0])
    assert isinstance(long, str)
    assert "leaves no room in the LLM's context of 40" in long
    assert isinstance(short, WrittenAnswer)


def test_one_of_them_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="llm or run: one of them has to be given, and not both"):
        LocalJudge.Config()
    with pytest.raises(ValueError, match="llm or run: one of them has to be given, and not both"):
        tiny(tmp_path, run="runs/a")


def test_identity(tmp_path: Path) -> None:
    own = LocalJudge.identity(tiny(tmp_path))
    assert LocalJudge.identity(tiny(tmp_path, batch_size=1, device="auto")) == own
    assert LocalJudge.identity(tiny(tmp_path, max_tokens=3)) != own
    assert LocalJudge.identity(tiny(tmp_path, llm=Chosen.of("llm", "llama"))) != own
    with pytest.raises(RunError):
        LocalJudge.identity(LocalJudge.Config(run=str(tmp_path / "none")))


def test_the_llm_of_a_run_judges(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(shards=write_shard(tmp_path / "data", 2), metric="cer"), encoding="utf-8")
    run = RunFolder.create(tmp_path / "run", load_recipe(path))
    train(run)
    config = LocalJudge.Config(run=str(run.path), max_tokens=3, device="cpu")
    assert run.weights_identity() in LocalJudge.identity(config)
    first, second = ask(config, ["a", "b"])
    assert (first.tokens_out, second.tokens_out) == (3, 3)

from __future__ import annotations

import pytest

from kikimimi.contracts.metric import Score
from kikimimi.evaluation.print_scores import print_scores
from kikimimi.evaluation.score import score


def scores(system: str) -> dict[str, dict[str, Score]]:
    value = score(["あいう"] * 5, ["あい"] * 5, metric="cer", normaliser="none")
    return {"held_out": {system: value}}


def test_the_chains_table_stands_on_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    print_scores(scores("llm_jp_4_8b_ja_cpu@align"))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    rows = [line.split() for line in lines]
    assert rows[3:5] == [
        ["held_out"],
        ["llm_jp_4_8b_ja_cpu@align", "CER", "33.33", "%", "33.33-33.33", "0/5/0", "5"],
    ]
    assert lines[-1] == "95 %: interval by the bootstrap; normaliser: none 89928ca727e1"


def test_a_long_name_is_never_cut(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    name = "an-earlier-run-with-a-name-that-goes-on-and-on-and-on"
    print_scores(scores(name))
    out = capsys.readouterr().out
    column = [line[out.splitlines()[1].index("system") :] for line in out.splitlines()]
    assert name in "".join(line.split()[0] for line in column if line.split())
    assert "33.33 %" in out

import json
import sys
from pathlib import Path

import pytest

from kikimimi.cli import main

TABLE = Path(__file__).parents[1] / "evaluation" / "hand_scored.csv"


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["kikimimi", "score", *arguments])
    with pytest.raises(SystemExit) as exit_:
        main()
    captured = capsys.readouterr()
    return int(exit_.value.code or 0), captured.out, captured.err


def options(**changes: str) -> list[str]:
    chosen = {"reference": "said", "prediction": "heard", "normaliser": "whisper-basic-nospace"} | changes
    return [part for name, value in chosen.items() for part in (f"--{name}", value)]


def test_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(monkeypatch, capsys, str(TABLE), *options(), "--json")
    assert code == 0
    assert json.loads(out)["cer"] == 18.1818
    assert out.count("\n") == 1


def test_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(monkeypatch, capsys, str(TABLE), *options())
    assert code == 0
    assert [line.split(maxsplit=1) for line in out.splitlines()] == [
        ["CER", "18.1818 %"],
        ["normaliser", "whisper-basic-nospace"],
        ["pairs", "5"],
        ["skipped", "1 (reference empty after normalisation)"],
        ["characters", "22"],
        ["substitutions", "1"],
        ["deletions", "1"],
        ["insertions", "2"],
    ]


def test_words(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(monkeypatch, capsys, str(TABLE), *options(metric="wer", normaliser="none"))
    assert code == 0
    assert out.startswith("WER            100.0000 %\n")
    assert "words          6\n" in out


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("no.csv", {}, "no.csv: no such file."),
        (
            str(TABLE),
            {"reference": "sad"},
            "no column is called 'sad'. Did you mean 'said'? Columns: id, said, heard",
        ),
        (str(TABLE), {"normaliser": "nonee"}, "no normaliser is called 'nonee'. Did you mean 'none'?"),
        (str(TABLE), {"metric": "bleu"}, "no metric is called 'bleu'. Registered metrics: cer, wer"),
    ],
)
def test_a_wrong_request_exits_with_2(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    file: str,
    changes: dict[str, str],
    message: str,
) -> None:
    code, out, error = run(monkeypatch, capsys, file, *options(**changes))
    assert code == 2
    assert out == ""
    assert error.startswith("error: ")
    assert message in error


def test_an_empty_file_exits_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "empty.jsonl").touch()
    code, _, error = run(monkeypatch, capsys, str(tmp_path / "empty.jsonl"), *options())
    assert (code, error) == (2, f"error: {tmp_path / 'empty.jsonl'}: holds no rows\n")


def test_the_normaliser_has_to_be_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, error = run(monkeypatch, capsys, str(TABLE), "--reference", "said", "--prediction", "heard")
    assert code == 2
    assert "--normaliser" in error

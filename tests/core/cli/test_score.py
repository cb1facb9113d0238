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
    assert [[line[:15].strip(), line[15:]] for line in out.splitlines()] == [
        ["CER", "18.1818 %"],
        ["95 %", "3.45-50.00 (bootstrap)"],
        ["normaliser", "whisper-basic-nospace 4e726e9aff5a"],
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


def test_options_of_the_metric(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    table = tmp_path / "sum.csv"
    table.write_text("said,heard\n今日は良い天気ですね,今日は悪い天気ですね\n", encoding="utf-8")
    asked = [str(table), *options(metric="bleu", normaliser="none"), "--metric-option"]
    code, out, _ = run(monkeypatch, capsys, *asked, "tokenize=char", "--metric-option", "max_ngram_order=1")
    # 9 of 10 characters.
    assert (code, out.splitlines()[0]) == (0, "BLEU           90.0000")
    code, _, error = run(monkeypatch, capsys, *asked, "tokenise=char")
    assert (code, "metric 'bleu'" in error, "Did you mean 'tokenize'?" in error) == (2, True, True)
    code, _, error = run(monkeypatch, capsys, *asked, "char")
    assert (code, error) == (2, "error: 'char': expected an option of metric 'bleu' as KEY=VALUE\n")


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
        (
            str(TABLE),
            {"prediction": "said"},
            "reference and prediction are both column 'said': name two columns",
        ),
        (str(TABLE), {"metric": "blue"}, "no metric is called 'blue'."),
        (str(TABLE), {"normaliser": "none,nonee"}, "no normaliser is called 'nonee'."),
        (str(TABLE), {"key": "idd"}, "no column is called 'idd'. Did you mean 'id'?"),
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


def systems(folder: Path) -> tuple[str, str]:
    """Write what two systems made of 40 rows; the second lacks one, and has one of its own."""
    rows = [(f"k{number}", "a" if number % 2 else "b", "abcd") for number in range(40)]
    better = "".join(
        f"{key}\t{who}\t{said}\tabc{'d' if n % 4 else 'x'}\n" for n, (key, who, said) in enumerate(rows)
    )
    worse = "".join(
        f"{key}\t{who}\t{said}\tabxx\n" for key, who, said in [*rows[1:][::-1], ("own", "a", "abcd")]
    )
    for name, text in (("better.tsv", better), ("worse.tsv", worse)):
        (folder / name).write_text(f"key\tspeaker\tr\tp\n{text}")
    return str(folder / "better.tsv"), str(folder / "worse.tsv")


def test_two_files_are_compared_row_by_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    one, other = systems(tmp_path)
    chosen = options(reference="r", prediction="p", normaliser="none", key="key", by="speaker")
    code, out, _ = run(monkeypatch, capsys, one, other, *chosen, "--json")
    assert code == 0
    found = json.loads(out)
    assert [(score["system"], score["cer"]) for score in found["scores"]] == [(one, 6.25), (other, 50.0)]
    assert found["scores"][0]["by"]["speaker"]["b"]["value"] == 12.5
    (pair,) = found["comparisons"]
    assert (pair["one"], pair["other"], pair["count"], pair["differ"]) == (one, other, 39, 39)
    assert pair["difference"] == pytest.approx(100 * 9 / 156 - 50)  # of the rows that both have
    assert pair["high"] < 0
    assert found["missing"] == [
        f"1 row of {one} missing in {other}: not compared",
        f"1 row of {other} missing in {one}: not compared",
    ]
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = run(monkeypatch, capsys, one, other, *chosen)
    assert code == 0
    (line,) = [line.split() for line in out.splitlines() if line.strip().startswith(f"{other} ")][-1:]
    assert line[line.index("%") + 1 :][-3:] == ["*", "39", "39"]
    assert "by speaker" in out
    assert f"1 row of {one} missing in {other}: not compared" in out


def test_without_a_key_rows_go_by_their_order(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_text("r,p\nab,ab\ncd,cd\n")
    (tmp_path / "b.csv").write_text("r,p\nab,ab\nce,cd\n")
    files = [str(tmp_path / name) for name in ("a.csv", "b.csv")]
    code, _, error = run(
        monkeypatch, capsys, *files, *options(reference="r", prediction="p", normaliser="none")
    )
    assert code == 2
    assert "row 2 has different references. Rows go by their order: --key COLUMN tells them apart" in error


def test_columns_and_normalisers_beside_each_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"identity": "x"}\n' + '{"r": "はい。", "p": "はい", "q": "はい。", "n": 3}\n' * 3, encoding="utf-8"
    )
    chosen = options(reference="r", prediction="p", normaliser="none,whisper-basic-nospace", key="n")
    code, _, error = run(monkeypatch, capsys, str(tmp_path / "a.jsonl"), *chosen, "--prediction", "q")
    assert (code, "holds '3' more than once" in error) == (2, True)
    del chosen[chosen.index("--key") :]
    code, out, _ = run(monkeypatch, capsys, str(tmp_path / "a.jsonl"), *chosen, "--prediction", "q", "--json")
    assert code == 0
    scores = json.loads(out)["scores"]
    assert [(one["system"], one["normaliser"], round(one["cer"], 2)) for one in scores] == [
        ("p", "none", 33.33),
        ("q", "none", 0),
        ("p", "whisper-basic-nospace", 0),
        ("q", "whisper-basic-nospace", 0),
    ]


def test_parquet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"r": ["ab", "", None], "p": ["ax", "c", "d"], "n": [1, 2, 3]}), path)
    chosen = options(reference="r", prediction="p", normaliser="none")
    code, _, error = run(monkeypatch, capsys, str(path), *chosen)
    assert (code, "row 3: column 'r' holds null, not a text" in error) == (2, True)
    code, out, _ = run(monkeypatch, capsys, str(path), *chosen, "--bad-rows", "drop", "--json")
    found = json.loads(out)
    assert (code, found["cer"], found["count"], found["skipped"], found["malformed"]) == (0, 50, 1, 1, 1)
    path.write_bytes(path.read_bytes()[:-9])
    code, _, error = run(monkeypatch, capsys, str(path), *chosen)
    assert (code, "no parquet file, or a damaged one" in error) == (2, True)

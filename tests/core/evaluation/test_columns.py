import os
from pathlib import Path

import pytest

from kikimimi.errors import RequestError

from .tables import read_pairs


def written(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", 'id,p,r\n1,"あ, ""x""","1行\n2行"\n2,,い\n'),
        ("bom.csv", '\ufeffr,p\n"1行\n2行","あ, ""x"""\n\nい,\n'),
        ("a.jsonl", '{"r": "1行\\n2行", "p": "あ, \\"x\\"", "n": 3}\n\n{"r": "い", "p": ""}\n'),
    ],
)
def test_the_same_pairs_from_each_format(tmp_path: Path, name: str, text: str) -> None:
    assert read_pairs(written(tmp_path, name, text), "r", "p") == (["1行\n2行", "い"], ['あ, "x"', ""])


def test_a_key_of_json_may_hold_anything(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", '{"r": "a", "p": "b", "x\\r": 1}\n')
    assert read_pairs(path, "r", "p") == (["a"], ["b"])


def test_a_quotation_mark_in_a_tsv_is_a_character(tmp_path: Path) -> None:
    path = written(tmp_path, "a.TSV", 'r\tp\n"はい" と\tはい\n"\tい\n')
    assert read_pairs(path, "r", "p") == (['"はい" と', '"'], ["はい", "い"])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "", "a.csv: holds no rows"),
        ("a.csv", "r,p\n", "a.csv: holds no rows"),
        ("a.jsonl", "\n\n", "a.jsonl: holds no rows"),
        ("a.csv", "id,ref,p\n1,a,b\n", r"no column is called 'r'\. Columns: id, ref, p$"),
        ("a.csv", "r,pp\na,b\n", r"no column is called 'p'\. Did you mean 'pp'\? Columns: r, pp$"),
        ("a.csv", "r,p,r\na,b,c\n", "2 columns are called 'r'"),
        ("a.tsv", "r\tp\ra\tb\r", "its lines end in carriage returns; save it with line feeds"),
        ("a.csv", "r,p\na,b\nc\n", "line 2: of the lines 2 to 3 one has too few fields"),
        ("a.csv", "r,p,i\na,b,1\nc\n", "line 3: 1 values, but the header names 3 columns"),
        ("a.csv", "r,p\na,b,c\n", "line 2: 3 values, but the header names 2 columns"),
        ("a.csv", 'r,p\na,"b" c\n', "line 2: ',' expected after '\"'"),
        ("a.csv", "r,p\nあ,い\n".encode("cp932"), r"not UTF-8 \(byte 4 of a block is 0x82\)"),
        ("a.jsonl", '{"r": "a", "p": "b"}\n{"r"\n', r"line 2: not JSON: Expecting ':' delimiter at column"),
        ("a.jsonl", "[1]\n", "line 1: expected a JSON object, not list"),
        (
            "a.jsonl",
            '{"r": "a", "p": "b"}\n{"r": "a", "q": "b"}\n',
            r"line 2: no column is called 'p'.* Columns: r, q",
        ),
        ("a.jsonl", '{"r": "a", "p": null}\n', "line 1: column 'p' holds null, not a text"),
        ("a.txt", "r,p\na,b\n", r"a.txt: the name must end in \.csv, \.tsv, \.jsonl, \.parquet, not '\.txt'"),
    ],
)
def test_errors(tmp_path: Path, name: str, text: str | bytes, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        read_pairs(written(tmp_path, name, text), "r", "p")


def test_no_such_file(tmp_path: Path) -> None:
    written(tmp_path, "predictions.csv", "r,p\na,b\n")
    with pytest.raises(
        RequestError, match=r"prediction\.csv: no such file\. Did you mean 'predictions\.csv'\?"
    ):
        read_pairs(tmp_path / "prediction.csv", "r", "p")
    with pytest.raises(RequestError, match=r"a\.csv: no such file\.$"):
        read_pairs(tmp_path / "nowhere" / "a.csv", "r", "p")


def test_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(RequestError, match=r"a\.csv: cannot be read: Is a directory"):
        read_pairs(tmp_path / "a.csv", "r", "p")


@pytest.mark.fault(
    "Tables to score: a pipe, or a dead link, in their place", "refused; a pipe was waited for"
)
def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(RequestError, match=r"pipe\.csv: is a pipe; save what comes out of it in a file"):
        read_pairs(tmp_path / "pipe.csv", "a", "b")
    for name, target in (("dead.csv", "unmounted.csv"), ("loop.csv", "loop.csv")):
        (tmp_path / name).symlink_to(target)
        with pytest.raises(RequestError, match=rf"{name}: is a symbolic link that leads nowhere, or to its"):
            read_pairs(tmp_path / name, "a", "b")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "r,p\na,{long}\nb\rc\u2028,d\x85\n"),
        ("a.tsv", "r\tp\na\t{long}\nb\rc\u2028\td\x85\n"),
        ("a.jsonl", '{{"r": "a", "p": "{long}"}}\n{{"r": "b\\rc\u2028", "p": "d\x85"}}\n'),
    ],
)
def test_long_fields_and_rare_line_breaks(tmp_path: Path, name: str, text: str) -> None:
    long = "x" * 140_000
    path = written(tmp_path, name, text.format(long=long))
    assert read_pairs(path, "r", "p") == (["a", "b\rc\u2028"], [long, "d\x85"])


def test_malformed_rows_may_be_left_out(tmp_path: Path) -> None:
    path = written(tmp_path, "a.tsv", "r\tp\na\tb\n1\t2\t3\nc\td\n")
    left_out: list[str] = []
    assert read_pairs(path, "r", "p", left_out=left_out) == (["a", "c"], ["b", "d"])
    assert left_out == [f"{path}, line 3: 3 values, but the header names 2 columns"]
    path = written(tmp_path, "a.jsonl", '{"r": 1, "p": "b"}\n{\n')
    with pytest.raises(RequestError, match="line 1: column 'r' holds 1, not a text"):
        read_pairs(path, "r", "p", left_out=[])


def test_a_path_that_the_system_refuses(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no such file"):
        read_pairs(tmp_path / ("x" * 300 + ".csv"), "r", "p")

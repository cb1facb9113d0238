from __future__ import annotations

from pathlib import Path

import pytest

from kikimimi.data.manifest import ManifestRow, read_manifest
from kikimimi.errors import DataError, RequestError


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.csv", '\ufeffpath,text,language,speaker\na.wav,"こん,にちは",ja,1\n\nb.wav,,,2\n'),
        ("m.tsv", "path\ttext\tlanguage\tspeaker\na.wav\tこん,にちは\tja\t1\nb.wav\t\t\t2\n"),
        (
            "m.jsonl",
            '{"path": "a.wav", "text": "こん,にちは", "language": "ja", "speaker": "1"}\n'
            '{"path": "b.wav", "text": null, "speaker": "2"}\n\n',
        ),
    ],
)
def test_reads_three_kinds(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert read_manifest(tmp_path / name) == [
        ManifestRow(0, "a.wav", "こん,にちは", "ja", {"speaker": "1"}),
        ManifestRow(1, "b.wav", "", None, {"speaker": "2"}),
    ]


def test_quotation_marks_in_tsv_are_letters(tmp_path: Path) -> None:
    (tmp_path / "m.tsv").write_text('path\ttext\na.wav\t"hello\n', encoding="utf-8")
    assert read_manifest(tmp_path / "m.tsv")[0].text == '"hello'


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        (
            "m.csv",
            b"path,txt\na.wav,x\n",
            RequestError,
            r"m\.csv:2: no column 'text'\. Did you mean 'txt'\? Columns",
        ),
        ("m.csv", b"path,text\n", RequestError, r"m\.csv: holds no rows"),
        ("m.csv", b"", RequestError, r"m\.csv: holds no rows"),
        ("m.xlsx", b"", RequestError, r"a manifest is one of \.csv, \.jsonl, \.tsv, not '\.xlsx'"),
        ("m.csv", b"path,text\na.wav,x,y\n", DataError, r"m\.csv:2: 3 fields, but the header has 2"),
        ("m.csv", b"path,text,text\na.wav,x,y\n", DataError, r"m\.csv:1: column text is there twice"),
        ("m.csv", b'path,text\na.wav,"x\n', DataError, r"m\.csv:\d: unexpected end of data"),
        ("m.csv", b"path,text\na.wav,\xff\n", DataError, r"m\.csv: not UTF-8"),
        (
            "m.csv",
            b"path,text\n,x\n",
            DataError,
            r"m\.csv:2: path: expected the name of an audio file, not ''",
        ),
        ("m.jsonl", b"{\n", DataError, r"m\.jsonl:1: not JSON"),
        ("m.jsonl", b"[]\n", DataError, r"m\.jsonl:1: expected a mapping, not list"),
        ("m.jsonl", b'{"path": "a", "text": 3}\n', DataError, r"m\.jsonl:1: text: expected a text, not 3"),
    ],
)
def test_refuses(tmp_path: Path, name: str, content: bytes, error: type[Exception], message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=message):
        read_manifest(tmp_path / name)


def test_missing_manifest(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"gone\.csv: no such manifest"):
        read_manifest(tmp_path / "gone.csv")

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kikimimi.contracts.layout import BadRow, Layout, Row
from kikimimi.errors import DataError, RequestError
from kikimimi_layouts.jsut import JSUT

FILES = {
    "basic5000/transcript_utf8.txt": "BASIC5000_0001:水をマレーシアから買わなくてはならないのです。\n"
    "BASIC5000_0002:木曜日、停戦会談は:何の進展もないまま終了しました。\n",
    "basic5000/wav/BASIC5000_0001.wav": None,
    "travel1000/transcript_utf8.txt": "TRAVEL1000_0001:あなたの荷物は、ロサンゼルスに残っています。\n\n",
    "travel1000/wav/TRAVEL1000_0001.wav": None,
}


def test_rows(write: Callable[..., Path], read: Callable[[Layout], list[Row]]) -> None:
    folder = write(FILES)
    assert JSUT.matches(folder)
    first, second = read(JSUT(str(folder), JSUT.Config()))
    meta = {"license": "LicenseRef-JSUT", "source": "jsut", "subset": "basic5000"}
    assert first == Row(
        "basic5000/wav/BASIC5000_0001.wav",
        {"text": "水をマレーシアから買わなくてはならないのです。", "language": "ja", "meta": meta},
        (folder / "basic5000/wav/BASIC5000_0001.wav",),
    )
    assert second.record["text"] == "木曜日、停戦会談は:何の進展もないまま終了しました。"
    everything = read(JSUT(str(folder), JSUT.Config(subset="all")))
    assert [row.name for row in everything][2:] == ["travel1000/wav/TRAVEL1000_0001.wav"]


def test_refuses(write: Callable[..., Path], tmp_path: Path) -> None:
    folder = write(FILES)
    with pytest.raises(
        RequestError, match=r"no loanword128 \(.*subset=loanword128\).* is: basic5000, travel1000"
    ):
        JSUT(str(folder), JSUT.Config(subset="loanword128"))
    with pytest.raises(RequestError, match=r"no such folder; looked for basic5000"):
        JSUT(str(tmp_path / "gone"), JSUT.Config(subset="all"))
    with pytest.raises(ValueError, match=r"subset: 'basic500' .* Did you mean 'basic5000'\?"):
        JSUT.Config(subset="basic500")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match=r"basic5000: there is no transcript_utf8\.txt"):
        JSUT(str(write({"basic5000/wav/a.wav": None}, "bare")), JSUT.Config())
    broken = write({"basic5000/transcript_utf8.txt": "BASIC5000_0002\n"}, "broken")
    with pytest.raises(DataError, match=r"transcript_utf8\.txt:1: expected the name of a clip, ':' and"):
        JSUT(str(broken), JSUT.Config())
    (broken / "basic5000" / "transcript_utf8.txt").write_bytes(b"A:\xff\n")
    with pytest.raises(DataError, match=r"transcript_utf8\.txt:1: not UTF-8"):
        JSUT(str(broken), JSUT.Config())


def test_a_bad_line_ends_no_corpus(
    write: Callable[..., Path], read: Callable[[Layout], list[Row | BadRow]]
) -> None:
    folder = write({"basic5000/transcript_utf8.txt": "BASIC5000_0001:x\u2029y\nBASIC5000_0002\n"})
    good, bad = read(JSUT(str(folder), JSUT.Config()))
    assert isinstance(good, Row)
    assert good.record["text"] == "x\u2029y"
    assert isinstance(bad, BadRow)
    assert "transcript_utf8.txt:2: expected the name of a clip, ':' and its sentence" in bad.reason

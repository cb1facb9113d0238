from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kikimimi.contracts.layout import Layout, Row
from kikimimi.errors import RequestError
from kikimimi_layouts.manifest import Manifest
from kikimimi_layouts.reazonspeech import ReazonSpeech

TABLE = '000/0a1b.flac\t今日のニュースをお伝えします。\n001/2c3d.flac\t"はい\n'


def test_rows(write: Callable[..., Path], read: Callable[[Layout], list[Row]]) -> None:
    folder = write({"tiny.tsv": TABLE, "000/0a1b.flac": None})
    assert ReazonSpeech.matches(folder)
    assert not Manifest.matches(folder)
    first, second = read(ReazonSpeech(str(folder), ReazonSpeech.Config()))
    meta = {"license": "CDLA-Sharing-1.0", "source": "reazonspeech"}
    assert first == Row(
        "000/0a1b.flac",
        {"text": "今日のニュースをお伝えします。", "language": "ja", "meta": meta},
        (folder / "000/0a1b.flac",),
    )
    assert second.record["text"] == '"はい'


def test_several_tables_and_another_folder(
    write: Callable[..., Path], read: Callable[[Layout], list[Row]]
) -> None:
    folder = write({"tiny.tsv": TABLE, "all.tsv": TABLE + "001/4e.flac\t\n", "flac/000/0a1b.flac": None})
    with pytest.raises(RequestError, match=r"holds all\.tsv, tiny\.tsv; choose one with size=all"):
        ReazonSpeech(str(folder), ReazonSpeech.Config())
    rows = read(ReazonSpeech(str(folder), ReazonSpeech.Config(size="all", audio="flac")))
    assert rows[0].clips[0].is_file()  # type: ignore[union-attr]
    assert rows[2].record["text"] == ""


def test_refuses(write: Callable[..., Path], tmp_path: Path) -> None:
    folder = write({"tiny.tsv": TABLE, "000.tar": ""})
    with pytest.raises(RequestError, match=r"000\.tar: is not unpacked: there is no folder .*audio=FOLDER"):
        ReazonSpeech(str(folder), ReazonSpeech.Config())
    with pytest.raises(RequestError, match=r"no large\.tsv .* There is: 000\.tar, tiny\.tsv"):
        ReazonSpeech(str(folder), ReazonSpeech.Config(size="large"))
    with pytest.raises(RequestError, match=r"gone: no such folder; looked for tiny\.tsv or small\.tsv"):
        ReazonSpeech(str(tmp_path / "gone"), ReazonSpeech.Config())
    with pytest.raises(ValueError, match=r"size: 'huge' is not one of all, large, medium, small, tiny"):
        ReazonSpeech.Config(size="huge")  # type: ignore[arg-type]
    assert not ReazonSpeech.matches(write({"all.tsv": "path\ttext\na.wav\tx\n"}, "manifest"))

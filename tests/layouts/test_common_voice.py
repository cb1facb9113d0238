from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kikimimi.contracts.layout import Layout, Row
from kikimimi.errors import DataError, RequestError
from kikimimi_layouts.common_voice import CommonVoice

HEADER = (
    "client_id\tpath\tsentence_id\tsentence\tsentence_domain\tup_votes\tdown_votes\tage\tgender\taccents\t"
    "variant\tlocale\tsegment\n"
)
FILES = {
    "clips/common_voice_ja_1.mp3": None,
    "train.tsv": HEADER
    + 'abc\tcommon_voice_ja_1.mp3\ts1\t"では、危険だと？"と彼は\t\t2\t0\ttwenties\t\t\t\tja\t\n'
    + 'def\tcommon_voice_ja_2.mp3\ts2\t"閉じない\t\t2\t1\t\t\t\t\tja\t\n',
    "validated.tsv": HEADER + "abc\tcommon_voice_ja_1\ts1\t一\t\t2\t0\t\t\t\t\tzh-CN\t\n",
}


def layout(folder: Path, **options: Any) -> CommonVoice:
    return CommonVoice(str(folder), CommonVoice.Config(**options))


def test_rows(write: Callable[..., Path], read: Callable[[Layout], list[Row]]) -> None:
    folder = write(FILES)
    assert CommonVoice.matches(folder)
    first, second = read(layout(folder))
    assert first == Row(
        "common_voice_ja_1.mp3",
        {
            "text": '"では、危険だと？"と彼は',
            "language": "ja",
            "meta": {
                "client_id": "abc",
                "sentence_id": "s1",
                "up_votes": "2",
                "down_votes": "0",
                "age": "twenties",
                "locale": "ja",
                "license": "CC0-1.0",
                "source": "common_voice",
            },
        },
        (folder / "clips" / "common_voice_ja_1.mp3",),
    )
    # An unbalanced quotation mark swallows nothing; a clip that is not there is for the packer to count.
    assert second.record["text"] == '"閉じない'
    assert second.clips == (folder / "clips" / "common_voice_ja_2.mp3",)


def test_other_tables(write: Callable[..., Path], read: Callable[[Layout], list[Row]]) -> None:
    folder = write(FILES)
    (row,) = read(layout(folder, split="validated"))
    assert row.clips[0].is_file()  # type: ignore[union-attr]
    assert row.record["language"] == "zh"
    assert row.record["meta"]["locale"] == "zh-CN"


def test_refuses(write: Callable[..., Path], tmp_path: Path) -> None:
    folder = write(FILES)
    with pytest.raises(
        RequestError, match=r"no test\.tsv \(the clips of split=test\).* There is: clips, train"
    ):
        layout(folder, split="test")
    with pytest.raises(RequestError, match=r"no such folder; looked for clips in it"):
        layout(tmp_path / "gone")
    with pytest.raises(RequestError, match=r"there is no clips \(the audio of a language"):
        layout(write({"train.tsv": HEADER}, "bare"))
    with pytest.raises(ValueError, match=r"split: 'trian' is not one of .* Did you mean 'train'\?"):
        CommonVoice.Config(split="trian")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="language: must not be blank; null is allowed"):
        CommonVoice.Config(language="")
    old = write({"clips/a.mp3": None, "train.tsv": "client_id\tpath\tsentence\nx\ta.mp3\ty\n"}, "old")
    with pytest.raises(RequestError, match=r"train\.tsv:2: no column 'locale'; .* language=ja"):
        layout(old)
    row = next(layout(old, language="ja").rows(0, 1))
    assert isinstance(row, Row)
    assert row.record["language"] == "ja"
    other = write({"clips/a.mp3": None, "train.tsv": "path\ttext\na.mp3\ty\n"}, "other")
    with pytest.raises(
        RequestError, match=r"train\.tsv:2: no column 'sentence': not a table of Common Voice"
    ):
        layout(other)
    empty = write({"clips/a.mp3": None, "train.tsv": "path\tsentence\tlocale\n\ty\tja\n"}, "empty")
    with pytest.raises(DataError, match=r"train\.tsv:2: path: is empty"):
        layout(empty)

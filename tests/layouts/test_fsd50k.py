from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kikimimi.contracts.layout import Layout, Row
from kikimimi.errors import DataError, RequestError
from kikimimi_layouts.corpus_folder import licence_name
from kikimimi_layouts.fsd50k import FSD50K

INFO = {
    "63": {
        "title": "guitarras_63.wav",
        "description": "electric guitar",
        "tags": ["electric"],
        "license": "http://creativecommons.org/licenses/sampling+/1.0/",
        "uploader": "casualsamples",
    },
    "136": {"title": "b", "license": "http://creativecommons.org/publicdomain/zero/1.0/", "uploader": "u"},
}
FILES = {
    "FSD50K.dev_audio/63.wav": None,
    "FSD50K.ground_truth/dev.csv": "fname,labels,mids,split\n"
    '63,"Electric_guitar,Guitar,Music","/m/02sgy,/m/0342h,/m/04rlf",train\n'
    '136,"Bird,Animal","/m/015p6,/m/0jbk",val\n'
    "137,Rain,/m/06mb1,train\n",
    "FSD50K.metadata/dev_clips_info_FSD50K.json": json.dumps(INFO),
}


def layout(folder: Path, **options: Any) -> FSD50K:
    return FSD50K(str(folder), FSD50K.Config(**options))


def test_rows(write: Callable[..., Path], read: Callable[[Layout], list[Row]]) -> None:
    folder = write(FILES)
    assert FSD50K.matches(folder)
    rows = read(layout(folder))
    assert rows[0] == Row(
        "63.wav",
        {
            "text": "Electric guitar, Guitar, Music",
            "language": "en",
            "meta": {
                "source": "fsd50k",
                "labels": ["Electric_guitar", "Guitar", "Music"],
                "title": "guitarras_63.wav",
                "uploader": "casualsamples",
                "license": "LicenseRef-CC-Sampling-Plus-1.0",
            },
        },
        (folder / "FSD50K.dev_audio" / "63.wav",),
    )
    assert rows[1].record["meta"]["license"] == "CC0-1.0"
    assert "license" not in rows[2].record["meta"]


def test_parts(write: Callable[..., Path], read: Callable[[Layout], list[Row]]) -> None:
    folder = write(FILES)
    assert [row.name for row in read(layout(folder, part="train"))] == ["63.wav", "137.wav"]
    assert [row.name for row in read(layout(folder, part="val"))] == ["136.wav"]


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("http://creativecommons.org/licenses/by/3.0/", "CC-BY-3.0"),
        ("https://creativecommons.org/licenses/by-nc/4.0/", "CC-BY-NC-4.0"),
        ("http://creativecommons.org/publicdomain/zero/1.0/", "CC0-1.0"),
        ("http://creativecommons.org/licenses/sampling+/1.0/", "LicenseRef-CC-Sampling-Plus-1.0"),
        ("my own terms", "my own terms"),
    ],
)
def test_licences(address: str, name: str) -> None:
    assert licence_name(address) == name


def test_refuses(write: Callable[..., Path]) -> None:
    folder = write(FILES)
    with pytest.raises(
        RequestError, match=r"no FSD50K\.eval_audio \(the clips of split=eval\)\. Did you mean"
    ):
        layout(folder, split="eval")
    with pytest.raises(ValueError, match=r"part: only the development set has parts"):
        FSD50K.Config(split="eval", part="val")
    with pytest.raises(ValueError, match=r"split: 'test' is not one of dev, eval"):
        FSD50K.Config(split="test")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match=r"FSD50K\.ground_truth: no such folder; looked for dev\.csv"):
        layout(write({"FSD50K.dev_audio/63.wav": None}, "bare"))
    no_info = write({k: v for k, v in FILES.items() if "metadata" not in k}, "no_info")
    with pytest.raises(RequestError, match=r"looked for dev_clips_info_FSD50K\.json in it \(the licence"):
        layout(no_info)
    for content in ("[1]", "{", '{"63": 1}'):
        bad = write({**FILES, "FSD50K.metadata/dev_clips_info_FSD50K.json": content}, "bad")
        with pytest.raises(DataError, match=r"dev_clips_info_FSD50K\.json: not a table of clips by name"):
            layout(bad)
    other = write({**FILES, "FSD50K.ground_truth/dev.csv": "fname,label\n1,x\n"}, "other")
    with pytest.raises(RequestError, match=r"dev\.csv:2: no column 'labels': not the ground truth"):
        layout(other)

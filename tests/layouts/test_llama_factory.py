from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kikimimi.contracts.layout import BadRow, Row
from kikimimi.data.packing.pack import pack
from kikimimi.data.packing.source import PackSource
from kikimimi.errors import RequestError
from kikimimi_layouts.llama_factory import LlamaFactory
from kikimimi_layouts.manifest import Manifest

pytestmark = pytest.mark.fault("Rows: LLaMA-Factory's sets", "read, or the row is malformed")

Write = Callable[..., Path]
Read = Callable[[LlamaFactory], list[Row | BadRow]]
OPENAI_TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "system_tag": "system",
}
HEARD = [{"type": "audio", "audio": "0"}, {"type": "text", "text": "What's that sound?"}]
ASKED = [{"role": "user", "content": HEARD}, {"role": "assistant", "content": "Glass."}]
# The data set mllm_audio_demo of LLaMA-Factory has this form.
DEMO: dict[str, Any] = {
    "messages": [
        {"role": "user", "content": "<audio>What's that sound?"},
        {"role": "assistant", "content": "Glass."},
    ],
    "audios": ["demo/1.wav"],
}
DEMO_INFO = {
    "file_name": "demo.json",
    "formatting": "sharegpt",
    "columns": {"messages": "messages", "audios": "audios"},
    "tags": OPENAI_TAGS,
}


def corpus(write: Write, info: dict[str, Any], *rows: dict[str, Any]) -> Path:
    hub = {"hf_hub_url": "org/name"}
    return write(
        {"dataset_info.json": json.dumps({"mine": info, "far": hub}), info["file_name"]: json.dumps(rows)}
    )


def layout(folder: Path, **options: Any) -> LlamaFactory:
    return LlamaFactory(str(folder), LlamaFactory.Config(**options))


@pytest.mark.parametrize(
    ("info", "row"),
    [
        (DEMO_INFO, DEMO),
        ({"formatting": "openai", "columns": {"messages": "messages", "audios": "audios"}}, DEMO),
        (
            {"formatting": "sharegpt", "columns": {"audios": "sounds"}},
            {
                "conversations": [
                    {"from": "human", "value": "<audio>What's that sound?"},
                    {"from": "gpt", "value": "Glass."},
                ],
                "sounds": ["demo/1.wav"],
            },
        ),
        (
            {"columns": {"prompt": "q", "response": "a", "audios": "audios"}},
            {"q": "<audio>What's that sound?", "a": "Glass.", "audios": ["demo/1.wav"]},
        ),
        (
            {},
            {
                "instruction": "<audio>What's that sound?",
                "input": "",
                "output": "Glass.",
                "audios": "demo/1.wav",
            },
        ),
    ],
)
def test_formats(write: Write, read: Read, info: dict[str, Any], row: dict[str, Any]) -> None:
    folder = corpus(write, {"file_name": "demo.json", **info}, {**row, "topic": "t"})
    assert PackSource.open(folder).name == "llama_factory"
    assert not Manifest.matches(folder)
    (found,) = read(layout(folder, language="en", license="CC0-1.0"))
    assert found == Row(
        "demo/1.wav",
        {"messages": ASKED, "meta": {"topic": "t", "language": "en", "license": "CC0-1.0"}},
        (folder / "demo/1.wav",),
    )


def test_a_question_without_an_answer(write: Write, read: Read) -> None:
    rows = [{"instruction": "q", "output": "x"}, {"instruction": "q"}]
    good, bad = read(layout(corpus(write, {"file_name": "demo.json"}, *rows)))
    assert isinstance(good, Row)
    assert isinstance(bad, BadRow)
    assert "output: the answer is missing" in bad.reason


def test_preferences(write: Write, read: Read) -> None:
    info = {
        "file_name": "dpo.json",
        "formatting": "sharegpt",
        "ranking": True,
        "columns": {"messages": "conversations", "chosen": "good", "rejected": "bad", "audios": "audios"},
    }
    row = {
        "conversations": [{"from": "human", "value": "<audio>What's that sound?"}],
        "good": {"from": "gpt", "value": "x"},
        "bad": {"from": "gpt", "value": "y"},
        "audios": ["demo/1.wav"],
    }
    (found,) = read(layout(corpus(write, info, row)))
    assert isinstance(found, Row)
    assert found.record == {"messages": ASKED[:1], "chosen": "x", "rejected": "y", "meta": {}}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({**DEMO, "audios": []}, "1 place for one"),
        ({**DEMO, "audios": ["1.wav", "2.wav"]}, "audios has 2 clips"),
        (
            {**DEMO, "messages": [*DEMO["messages"], {"role": "observation", "content": "x"}]},
            "'observation' is not one of",
        ),
    ],
)
def test_bad_rows(write: Write, read: Read, row: dict[str, Any], reason: str) -> None:
    good, bad = read(layout(corpus(write, DEMO_INFO, DEMO, row)))
    assert isinstance(good, Row)
    assert isinstance(bad, BadRow)
    assert reason in bad.reason


def test_which_data_set(write: Write, tmp_path: Path) -> None:
    folder = corpus(write, DEMO_INFO, DEMO)
    with pytest.raises(
        RequestError, match=r"there is no data set 'min'\. Did you mean 'mine'\? Data sets: far"
    ):
        layout(folder, dataset="min")
    with pytest.raises(RequestError, match="far is on a hub, not in the folder: read it with --layout"):
        layout(folder, dataset="far")
    (folder / "demo.json").unlink()
    with pytest.raises(RequestError, match=r"choose one with dataset=NAME\. Data sets: far, mine"):
        layout(folder)
    with pytest.raises(RequestError, match=r"formatting: 'x' is not one of alpaca, openai, sharegpt"):
        layout(corpus(write, {**DEMO_INFO, "formatting": "x"}, DEMO))
    with pytest.raises(RequestError, match=r"columns: expected names, not \{'messages': 3\}"):
        layout(corpus(write, {**DEMO_INFO, "columns": {"messages": 3}}, DEMO))
    with pytest.raises(RequestError, match=r"holds no dataset_info\.json that says"):
        layout(tmp_path)


def test_the_file_of_that_name_of_datasets_is_another(write: Write) -> None:
    about = {"builder_name": "json", "citation": "", "features": {"text": {"dtype": "string"}}}
    assert not LlamaFactory.matches(write({"dataset_info.json": json.dumps(about)}))


def test_packed(write: Write, tmp_path: Path) -> None:
    folder = write(
        {
            "dataset_info.json": json.dumps({"demo": DEMO_INFO}),
            "demo.json": json.dumps([DEMO, {**DEMO, "audios": ["gone.wav"]}], indent=2),
            "demo/1.wav": None,
        }
    )
    report = pack(folder, tmp_path / "out")
    assert (report.records, report.rows) == (1, 2)
    assert report.seconds == pytest.approx(0.2)

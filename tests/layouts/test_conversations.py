from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kikimimi.contracts.layout import Clip, Segment
from kikimimi.data.packing.pack import pack
from kikimimi.data.shards.shards import Shards
from kikimimi.errors import DataError
from kikimimi_layouts.conversations import ConversationReader, holds_conversation, holds_question

pytestmark = pytest.mark.fault(
    "Rows: conversations whose audio stands elsewhere", "read, or the row is malformed; never text alone"
)

FOLDER = Path("/corpus")
A, B = FOLDER / "a.wav", FOLDER / "b.wav"
USER, ASSISTANT = {"role": "user", "content": "<audio>q"}, {"role": "assistant", "content": "x"}
HEARD = [{"type": "audio", "audio": "0"}, {"type": "text", "text": "q"}]
ASKED = [{"role": "user", "content": HEARD}, ASSISTANT]
DATA = base64.b64encode(b"RIFFclip").decode()
URL = f"data:audio/wav;base64,{DATA}"


def read(row: dict[str, Any], mark: str = "<audio>") -> tuple[dict[str, Any], list[Clip]]:
    assert holds_conversation(row) or holds_question(row)
    record, clips = ConversationReader(FOLDER, mark).read("m.jsonl:1", json.loads(json.dumps(row)))
    return record, [clip for _, clip in clips]


def asked(part: Any) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": [part, {"type": "text", "text": "q"}]}, ASSISTANT],
    }


@pytest.mark.parametrize(
    ("row", "clip"),
    [
        ({"messages": [USER, ASSISTANT], "audios": ["a.wav"]}, A),
        ({"messages": [USER, ASSISTANT], "audios": "a.wav"}, A),
        ({"messages": [USER, ASSISTANT], "audio": "a.wav"}, A),
        ({"messages": [USER, ASSISTANT], "Audio_Path": "a.wav"}, A),
        ({"messages": [USER, ASSISTANT], "audios": [{"path": "a.wav"}]}, A),
        ({"messages": [USER, ASSISTANT], "audios": [URL]}, b"RIFFclip"),
        ({"messages": [{"role": "user", "content": "<audio>a.wav</audio>q"}, ASSISTANT]}, A),
        (
            {"messages": [{"role": "user", "content": "<audio></audio>q"}, ASSISTANT], "audios": ["a.wav"]},
            A,
        ),
        (
            {
                "conversations": [{"from": "human", "value": "<audio>q"}, {"from": "gpt", "value": "x"}],
                "audios": ["a.wav"],
            },
            A,
        ),
        ({"conversation": [{"human": "<audio>q", "assistant": "x"}], "audios": ["a.wav"]}, A),
        ({"instruction": "<audio>q", "input": "", "output": "x", "audios": ["a.wav"]}, A),
        ({"query": "<audio>q", "response": "x", "audios": ["a.wav"]}, A),
        (asked({"type": "audio", "audio": "a.wav"}), A),
        (asked({"type": "audio", "path": "a.wav"}), A),
        (asked({"type": "audio", "url": "file:///corpus/a.wav"}), A),
        (asked({"type": "audio", "audio_url": "a.wav"}), A),
        (asked({"type": "audio", "audio": {"path": "a.wav"}}), A),
        (asked({"type": "audio_url", "audio_url": {"url": "a.wav"}}), A),
        (asked({"type": "audio_url", "audio_url": {"url": URL}}), b"RIFFclip"),
        (asked({"type": "input_audio", "input_audio": {"data": DATA, "format": "wav"}}), b"RIFFclip"),
        (asked({"audio": "a.wav"}), A),
        ({**asked({"type": "audio"}), "audios": ["a.wav"]}, A),
        ({**asked({"type": "audio", "audio": "a.wav"}), "audios": ["a.wav"]}, A),
        (asked({"type": "audio", "audio": "a.wav", "offset": 2.0, "duration": 1.5}), Segment(A, 2.0, 1.5)),
        (asked({"type": "audio", "audio": "a.wav", "start": 1, "end": 3}), Segment(A, 1.0, 2.0)),
        (asked({"type": "audio", "audio": "a.wav", "channel": 1}), Segment(A, 0.0, None, 1)),
        (asked({"type": "audio", "audio": {"path": "a.wav", "channel": 1}}), Segment(A, 0.0, None, 1)),
        (
            {"messages": [USER, ASSISTANT], "audios": [{"path": "a.wav", "offset": 1, "duration": 2}]},
            Segment(A, 1.0, 2.0),
        ),
        (
            {"messages": [{**USER, "start": 1, "end": 3}, ASSISTANT], "audios": ["a.wav"]},
            Segment(A, 1.0, 2.0),
        ),
        (asked({"type": "audio", "audio": "a.wav", "segment": [1.0, 3.0]}), Segment(A, 1.0, 2.0)),
        (asked({"type": "audio", "audio": {"path": "a.wav", "start": 1, "end": 3}}), Segment(A, 1.0, 2.0)),
        (
            {
                "messages": [
                    {**asked({"audio": "a.wav"})["messages"][0], "start": 1, "duration": 2},
                    ASSISTANT,
                ]
            },
            Segment(A, 1.0, 2.0),
        ),
        (
            {"messages": [USER, ASSISTANT], "audios": ["a.wav"], "offset": 1, "duration": 2},
            Segment(A, 1.0, 2.0),
        ),
    ],
)
def test_the_clip_is_taken_wherever_it_stands(row: dict[str, Any], clip: Clip) -> None:
    assert read(row) == ({"messages": ASKED}, [clip])


def test_marks_take_the_clips_in_order() -> None:
    turns = [
        {"from": "system", "value": "s"},
        {"from": "human", "value": "<audio>\n<audio>which?"},
        {"from": "gpt", "value": "the first"},
        {"from": "human", "value": "and now?<audio>"},
        {"from": "gpt", "value": "none"},
    ]
    record, clips = read({"conversations": turns, "audios": ["a.wav", "b.wav", "a.wav"]})
    assert clips == [A, B]
    assert record["messages"] == [
        {"role": "system", "content": "s"},
        {
            "role": "user",
            "content": [
                {"type": "audio", "audio": "0"},
                {"type": "text", "text": "\n"},
                {"type": "audio", "audio": "1"},
                {"type": "text", "text": "which?"},
            ],
        },
        {"role": "assistant", "content": "the first"},
        {
            "role": "user",
            "content": [{"type": "text", "text": "and now?"}, {"type": "audio", "audio": "0"}],
        },
        {"role": "assistant", "content": "none"},
    ]


def test_parts_of_one_file_are_clips_of_their_own() -> None:
    parts = [{"type": "audio", "audio": "a.wav", "start": start, "duration": 1} for start in (0, 2, 0)]
    record, clips = read({"messages": [{"role": "user", "content": parts}, ASSISTANT]})
    assert clips == [Segment(A, 0.0, 1.0), Segment(A, 2.0, 1.0)]
    assert [part["audio"] for part in record["messages"][0]["content"]] == ["0", "1", "0"]


def test_another_mark() -> None:
    row = {"messages": [{"role": "user", "content": "<|clip|>q"}, ASSISTANT], "audios": ["a.wav"]}
    assert read(row, "<|clip|>") == ({"messages": ASKED}, [A])


def test_what_stands_before() -> None:
    record, clips = read(
        {
            "instruction": "do",
            "input": "this",
            "output": "x",
            "system": "s",
            "history": [["<audio>", "heard"]],
            "audios": ["a.wav"],
        }
    )
    assert clips == [A]
    assert record["messages"] == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "audio", "audio": "0"}]},
        {"role": "assistant", "content": "heard"},
        {"role": "user", "content": "do\nthis"},
        ASSISTANT,
    ]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER], "chosen": "x", "rejected": "y"},
        {"messages": [USER], "chosen": ASSISTANT, "rejected": {"role": "assistant", "content": "y"}},
        {"conversations": [USER], "chosen": [ASSISTANT], "rejected": [{"from": "gpt", "value": "y"}]},
        {"instruction": "<audio>q", "input": None, "chosen": "x", "rejected": "y"},
    ],
)
def test_preferences(row: dict[str, Any]) -> None:
    record, clips = read({**row, "audios": ["a.wav"]})
    assert record == {"messages": ASKED[:1], "chosen": "x", "rejected": "y"}
    assert clips == [A]


def test_a_rejected_response() -> None:
    record, _ = read({"messages": [USER, ASSISTANT], "rejected_response": "y", "audios": ["a.wav"]})
    assert record == {"messages": ASKED, "rejected": "y"}


def test_text_alone() -> None:
    turns = [{"role": "user", "content": "q"}, ASSISTANT]
    assert read({"messages": turns, "audios": [], "images": None, "topic": "t"}) == ({"messages": turns}, [])


TEXT = [{"role": "user", "content": "q"}, ASSISTANT]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": [USER, ASSISTANT]}, r"no field audios, but the turns have 1 place for one"),
        ({"messages": TEXT, "audios": ["a.wav"]}, r"audios has 1 clip, but the turns have 0 places for one"),
        (
            {"messages": [USER, ASSISTANT], "audios": ["a.wav", "b.wav"]},
            r"audios has 2 clips, but .* 1 place",
        ),
        ({"messages": TEXT, "audio": "a.wav"}, r"audio has 1 clip, but the turns have 0 places"),
        ({"messages": [USER, ASSISTANT], "audio": "a.wav", "audios": ["a.wav"]}, r"each holds clips"),
        ({"messages": TEXT, "recording": "x/a.FLAC"}, r"recording: holds a clip, but no turn does"),
        ({"messages": TEXT, "path": ["my a.mp3"]}, r"path: holds a clip, but no turn does"),
        ({"messages": TEXT, "input": {"x": [{"uri": "a.mp3"}]}}, r"input: holds a clip, but no turn does"),
        ({"messages": TEXT, "clip": URL}, r"clip: holds a clip, but no turn does"),
        (
            {"messages": [{"role": "user", "content": "a.wav"}, ASSISTANT]},
            r"content: 'a.wav' is a clip, but would be read as text",
        ),
        (
            {"instruction": URL, "output": "x"},
            r"'data:audio/wav;base64,.* is a clip, but would be read as text",
        ),
        ({"messages": TEXT, "rejected": "https://x.org/a.wav"}, r"rejected: 'https.* is a clip"),
        (
            {"messages": [{**TEXT[0], "audio": "a.wav"}, ASSISTANT]},
            r"messages\[0\]\.audio: a clip stands in the content",
        ),
        (
            {"messages": [{"role": "user", "content": "<|AUDIO|>q"}, ASSISTANT]},
            r"messages\[0\]\.content: '<\|AUDIO\|>' stands for a clip .* mark=TEXT",
        ),
        ({"messages": [{"role": "user", "content": "<Audio>q"}, ASSISTANT]}, r"'<Audio>' stands for a clip"),
        (asked({"type": "text", "text": "<audio>"}), r"1 place for one"),
        ({**asked({"type": "audio"}), "audios": []}, r"1 place for one"),
        (asked({"type": "image", "image": "a.png"}), r"type: 'image' is not one of audio, text"),
        (asked({"type": "audio", "audio": "a.wav", "path": "b.wav"}), r"audio, path name different clips"),
        (asked({"type": "audio", "audio": "https://x.org/a.wav"}), r"is not on this machine: download it"),
        (asked({"type": "audio", "audio": "s3://x/a.wav"}), r"is not on this machine: download it"),
        (
            asked({"type": "audio", "audio": {"array": [0.0]}}),
            r"content\[0\]\.audio: names no audio file; one of audio, ",
        ),
        (asked({"type": "audio", "audio": 3}), r"audio: expected the path of an audio file, not 3"),
        (asked({"type": "audio", "audio": "A" * 9999}), r"expected the path of an audio file, not 'AAA"),
        (asked({"type": "input_audio", "input_audio": {"data": "?"}}), r"data: is not base64"),
        (asked({"type": "audio", "audio": "a.wav", "start": 3}), r"begins at 3 s, but nothing says where"),
        (
            asked({"type": "audio", "audio": "a.wav", "start": 3, "end": 2}),
            r"content\[0\]: the segment is -1 s",
        ),
        (asked({"type": "audio", "audio": "a.wav", "crop": [1, 2]}), r"content\[0\]\.crop: is not read so"),
        (asked({"type": "audio", "audio": "a.wav", "from": 1, "to": 2}), r"from: is not read so"),
        (
            asked({"type": "audio", "audio": "a.wav", "segments": [[1, 2], [3, 4]]}),
            r"segments: is not read so",
        ),
        (
            asked({"type": "audio", "audio": {"path": "a.wav", "seek_time": 2.5}}),
            r"seek_time: is not read so",
        ),
        (
            {
                "messages": [{"role": "user", "content": "<audio><audio>", "offset": 1, "end": 2}, ASSISTANT],
                "audios": ["a.wav", "b.wav"],
            },
            r"messages\[0\]: tells of a segment, but has 2 clips",
        ),
        ({"messages": TEXT, "images": ["a.png"]}, r"images: holds images, which is not read here"),
        ({"messages": TEXT, "image": "a.png"}, r"image: holds an image"),
        ({"messages": [USER, ASSISTANT], "audios": ["a.wav"], "from": 1, "to": 2}, r"from and to: may tell"),
        (
            {"messages": [{**USER, "t0": 1, "t1": 2}, ASSISTANT], "audios": ["a.wav"]},
            r"messages\[0\]: t0 and t1: may tell which part of its file a clip is",
        ),
        ({"messages": TEXT, "label": False}, r"label: is false: a bad answer"),
        (
            {"conversations": [{"from": "human", "value": "q"}, {"from": "observation", "value": "x"}]},
            r"conversations\[1\]\.role: 'observation' is not one of assistant, bot, chatgpt, gpt, human",
        ),
        ({"messages": TEXT, "conversations": TEXT}, r"both hold turns"),
        ({"messages": [{"role": "system", "content": "s"}, *TEXT], "system": "t"}, r"system: the first turn"),
        ({"messages": TEXT, "rejected": "<audio>y"}, r"rejected: '<audio>' stands for a clip"),
        ({"messages": TEXT, "rejected": "y", "rejected_response": "z"}, r"two names of one answer"),
        ({"messages": TEXT[:1], "chosen": TEXT, "rejected": TEXT}, r"chosen: expected a text"),
        ({"messages": TEXT, "rejected_messages": TEXT}, r"rejected_messages: holds a second conversation"),
        ({"instruction": "q", "output": None}, r"output: the answer is missing"),
        ({"query": "q", "response": ""}, r"response: the answer is missing"),
        ({"query": "q", "response": None, "rejected": "y"}, r"response: the answer is missing"),
        ({"instruction": "q", "output": "x", "history": ["a"]}, r"history: expected a list of pairs"),
        (
            {
                "messages": [{"role": "user", "content": "<audio><audio>"}, ASSISTANT],
                "audios": ["a.wav", "b.wav"],
                "offset": 1,
                "duration": 1,
            },
            r"tells of a segment, but has 2 clips",
        ),
    ],
)
def test_no_clip_is_lost(row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=rf"^m\.jsonl:1.*{message}"):
        read(row)


def test_what_is_nested_too_deeply_is_malformed() -> None:
    part: Any = []
    for _ in range(5000):
        part = [part]
    row = asked({"type": "audio", "audio": part})
    with pytest.raises(DataError, match=r"m\.jsonl:1: nested too deeply"):
        ConversationReader(FOLDER).read("m.jsonl:1", row)


def test_deeply_nested_clips() -> None:
    part: Any = "a.wav"
    for _ in range(400):
        part = {"audio": part}
    assert read(asked({"type": "audio", **part}))[1] == [A]


def test_packed(write: Callable[..., Path], tmp_path: Path, tone: bytes) -> None:
    clip = {"type": "input_audio", "input_audio": {"data": base64.b64encode(tone).decode()}}
    lines: list[Any] = [
        {"messages": [USER, ASSISTANT], "audios": ["a.wav"]},
        asked(clip),
        asked({"type": "audio", "audio": "a.wav", "start": 0.05, "duration": 0.1}),
    ]
    folder = write({"m.jsonl": "\n".join(map(json.dumps, lines)), "a.wav": None})
    report = pack(folder / "m.jsonl", tmp_path / "out")
    assert report.records == 3
    assert report.seconds == pytest.approx(0.2 + 0.2 + 0.1)
    shards = Shards("packed", report.pattern)
    assert [list(shards.read(row).audio) for row in range(3)] == [["0.flac"]] * 3

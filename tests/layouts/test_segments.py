from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from kikimimi.contracts.layout import Segment
from kikimimi.errors import DataError
from kikimimi_layouts.segments import SegmentFields, segment_of, unread_stretch

pytestmark = pytest.mark.fault("Rows: columns that tell of a segment", "cut, or the row is malformed")

FILE = Path("long.wav")


def segment(fields: dict[str, Any], **names: str) -> Path | bytes | Segment:
    return segment_of(fields, FILE, "m:1", SegmentFields(**names))


@pytest.mark.parametrize(
    "fields",
    [
        {"offset": 2.0, "duration": 2.5},
        {"offset": 2, "duration": "2.5"},
        {"start": 2, "end": 4.5},
        {"start": 2, "end": 4.5, "duration": 2.5},
        {"start": 2, "duration": 2.5},
        {"end": 4.5, "duration": 2.5},
        {"start": " 2.0 ", "end": "4.5"},
        {"begin": 2, "end": 4.5},
        {"begin_time": 2, "end_time": 4.5},
        {"start_time": 2, "end_time": 4.5},
        {"start_seconds": 2, "end_seconds": 4.5},
        {"Start Time": 2, "End-Time": 4.5},
        {"startTime": 2, "endTime": 4.5},
        {"segment_start": 2, "segment_end": 4.5},
        {"start_ms": 2000, "end_ms": 4500},
        {"offset": 2, "duration_ms": 2500},
        {"onset": 2, "offset": 4.5},
        {"timestamp": [2.0, 4.5]},
        {"timestamp": (2, 4.5)},
        {"timestamps": [2.0, 4.5]},
        {"segment": [2, 4.5]},
        {"segment_ms": [2000, 4500]},
        {"segment": {"start": 2, "end": 4.5}},
        {"interval": {"begin_time": 2, "duration": 2.5}},
        {"time": ["2.0", "0:04.5"]},
        {"timestamp": "00:00:02,000 --> 00:00:04,500"},
        {"audio_start": 2, "audio_end": 4.5},
        {"clip_start_s": 2, "clip_end_s": 4.5},
        {"utterance_start": 2, "utterance_end": 4.5},
        {"start_offset": 2, "end_offset": 4.5},
        {"time_begin": 2, "time_end": 4.5},
        {"startTimestamp": 2, "endTimestamp": 4.5},
        {"t_start": 2, "t_end": 4.5},
        {"tmin": 2, "tmax": 4.5},
        {"xmin": "2", "xmax": "4.5"},
        {"meta": {"offset": 2, "duration": 2.5}},
        {"offset": 2, "meta": {"duration": 2.5}},
        {"offset": 2, "duration": 2.5, "meta": {"duration": 3600}},
        {"start": 2, "dur": 2.5},
        {"offset_in_seconds": 2, "duration_in_seconds": 2.5},
        {"start": "00:02", "end": "0:00:04.500"},
        {"start": "00:00:02,000", "end": "00:00:04,500"},
        {"start": 2.0, "offset": 2.004, "end": 4.5},
        {"start": 2, "end": 4.5, "channel": None},
        {"start": 2, "end": 4.5, "channel": "TBS"},
        {"start": 2, "end": 4.5, "channel": math.nan},
    ],
)
def test_the_usual_names(fields: dict[str, Any]) -> None:
    before = dict(fields)
    assert segment(fields) == Segment(FILE, 2.0, 2.5)
    assert fields.keys() == before.keys()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"text": "x", "speaker": 3},
        {"offset": 0, "duration": None},
        {"start": 0.0},
        {"start": "", "end": " ", "duration": ""},
        {"start": math.nan, "end": math.nan},
        {"start_time": "2024-01-02T03:04:05", "end_time": "2024-01-02 04:00"},
        {"start": True, "end": False},
        {"channel": "Nippon TV", "channel_id": "UCx"},
        {"channels": 2, "num_frames": 16_000, "start_sample": 0, "frame_offset": 0},
        {"timestamp": "12:00:00"},
        {"timestamp": 1_700_000_000},
        {"timestamp": [None, None]},
        {"timestamps": [[0.0, 1.0], [1.0, 2.5]]},
        {"segments": [{"start": 1.0, "end": 2.0}, {"start": 2.0, "end": 3.0}]},
        {"segments": ["ab", "cd"], "times": [1, 2, 3]},
        {"segment": "Benchmark", "segment_id": 7, "client_id": 3},
        {"segment": {"segment": {"start": 1, "end": 2}}},
        {"answer_start": 12, "start_position": 12, "end_position": 15, "span": [12, 15]},
    ],
)
def test_what_tells_of_no_segment(fields: dict[str, Any]) -> None:
    assert segment(fields) is FILE


@pytest.mark.parametrize(
    ("value", "channel"),
    [(0, 0), (1, 1), ("1", 1), (1.0, 1), ([1], 1), (["0"], 0), ("A", 0), ("b", 1), ("left", 0), ("Right", 1)],
)
@pytest.mark.parametrize("name", ["channel", "Channel_ID", "channel_selector"])
def test_channels(value: Any, channel: int, name: str) -> None:
    assert segment({name: value}) == Segment(FILE, channel=channel)
    assert segment({name: value, "start": 1, "end": 2}) == Segment(FILE, 1.0, 1.0, channel)


@pytest.mark.parametrize(
    ("duration", "slack"), [(4.52, 0.1), ("4.52", 0.1), (4.0, 1.0), (4, 1.0), ("4", 1.0)]
)
def test_a_duration_that_stands_alone_is_that_of_the_file_as_a_rule(duration: Any, slack: float) -> None:
    assert segment({"duration": duration}) == Segment(FILE, 0.0, float(duration), None, slack)
    assert segment({"duration": duration, "offset": 0}) == Segment(FILE, 0.0, float(duration))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"start": 2}, "m:1: the segment begins at 2 s, but nothing says where it ends"),
        ({"end": 3}, "m:1: the segment ends at 3 s, but nothing says where it begins"),
        ({"start": 3, "end": 2}, "m:1: the segment is -1 s long"),
        ({"start": 3, "end": 3}, "the segment is 0 s long"),
        ({"duration": 0}, "the segment is 0 s long"),
        ({"duration": -1}, "the segment is -1 s long"),
        ({"offset": -1, "duration": 2}, "begins at -1 s, before the file does"),
        ({"end": 1, "duration": 2}, "begins at -1 s, before the file does"),
        ({"start": "x", "end": 2}, "start: 'x' is no number of seconds"),
        ({"start": "1,5", "end": 2}, "start: '1,5' is no number of seconds"),
        ({"start": [1], "end": 2}, "is no number of seconds"),
        ({"start": 1, "end": math.inf}, "end: is infinite"),
        ({"start": 1, "offset": 2, "end": 4}, r"start \(1\) and offset \(2\) tell of the same, and differ"),
        ({"start": 1, "end": 4, "duration": 1}, "from 1 to 4 s are 3 s, but the duration is 1 s"),
        ({"channel": -1}, "channel: channels are numbered from 0, not -1"),
        ({"channel": 0.5}, "channels are numbered from 0"),
        ({"channel": [0, 1]}, "channel: one channel is taken, not 2"),
        (
            {"start_sample": 16_000, "end_sample": 32_000},
            "start_sample: counts samples, but a segment is told",
        ),
        ({"frame_offset": "5"}, "frame_offset: counts samples"),
        ({"start_frame": 0, "end_frame": 32_000}, "end_frame: counts samples"),
        ({"segment": {"start": 3, "end": 2}}, "the segment is -1 s long"),
        ({"audio_start": 2}, "begins at 2 s, but nothing says where it ends"),
    ],
)
def test_refuses_what_would_be_the_whole_file_or_another_part(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        segment(fields)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"from": 2, "to": 3}, "from and to"),
        ({"from": "2.5", "to": "3"}, "from and to"),
        ({"Sentence_Start": 1, "Sentence_End": 2}, "Sentence_Start and Sentence_End"),
        ({"t0": 0, "x": 1, "t1": 2}, "t0 and t1"),
        ({"crop": [1, 2]}, "crop"),
        ({"audio_range": "1 --> 2"}, "audio_range"),
        ({"meta": {"from": 2, "to": 3}}, "from and to in meta"),
        ({"meta": {"from": "Tokyo", "to": "Osaka"}}, None),
        ({"from": "Tokyo", "to": "Osaka"}, None),
        ({"from": 2, "to": 2}, None),
        ({"sentence_start": 1, "word_end": 2}, None),
        ({"age_range": [20, 30], "crop": [], "range": "wide", "window": None}, None),
        ({"t0": [1], "t1": [2]}, None),
    ],
)
def test_what_may_tell_of_a_segment(fields: dict[str, Any], told: str | None) -> None:
    assert unread_stretch(fields) == told


def test_names_of_ones_own() -> None:
    fields = {"from": 1, "to": 3, "line": 1, "duration": 60, "start": 7}
    assert segment(fields, start="from", end="to") == Segment(FILE, 1.0, 2.0)
    assert segment(fields, channel="line") == Segment(FILE, channel=1)
    assert segment(
        {"from_ms": 1, "offset_ms": 1500, "duration": 2}, start="offset_ms", duration="duration"
    ) == (Segment(FILE, 1.5, 2.0))


@pytest.mark.parametrize("fields", [{"channels": [1]}, {"ch": 1}, {"meta": {"channels": ["1"]}}])
def test_channels_by_other_names(fields: dict[str, Any]) -> None:
    found = segment(fields)
    assert isinstance(found, Segment)
    assert found.channel == 1


def test_a_number_of_channels_is_no_channel() -> None:
    assert segment({"channels": 2, "meta": {"channels": 1}}) is FILE

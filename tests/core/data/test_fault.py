from __future__ import annotations

from pathlib import Path

import pytest

from kikimimi.contracts.batch import Fault
from kikimimi.data.fault import FaultLog, read_faults
from kikimimi.errors import DataError, StorageError
from kikimimi.recipe import Faults


def bad(number: int) -> Fault:
    return Fault("tones", f"a.tar, byte {number}, record '{number}'", f"record {number} is damaged")


def test_failing_is_the_default_and_says_how_to_go_on(tmp_path: Path) -> None:
    log = FaultLog(tmp_path / "asr.jsonl", Faults())
    log.judge([None, None])
    with pytest.raises(DataError, match=r"record 1 is damaged\. To go on .* faults: {policy: skip}"):
        log.judge([None, bad(1)])


def test_skipping_counts_and_lists_each_record_once(tmp_path: Path) -> None:
    path = tmp_path / "faults" / "asr.jsonl"
    log = FaultLog(path, Faults(policy="skip"))
    for _ in range(3):
        log.judge([None] * 500)
    log.judge([None, bad(7), None])
    assert (log.tried, log.skipped) == (1503, 1)
    again = FaultLog(path, Faults(policy="skip"))
    for _ in range(7):
        again.judge([None] * 500)
    again.judge([bad(7), bad(8), bad(8)])
    assert read_faults(path) == [bad(7), bad(8)]
    path.write_text(path.read_text() + '{"dataset": "cut off by a ki')
    assert read_faults(path) == [bad(7), bad(8)]


def test_too_many_in_a_row(tmp_path: Path) -> None:
    log = FaultLog(tmp_path / "asr.jsonl", Faults(policy="skip", in_a_row=3, share=1.0))
    log.judge([bad(1), bad(2), None, bad(3), bad(4)])
    with pytest.raises(DataError, match=r"3 records one after another cannot be read, .*asr\.jsonl"):
        log.judge([bad(5), None])
    log = FaultLog(tmp_path / "other.jsonl", Faults(policy="skip", share=1.0))
    log.judge([bad(n) for n in range(99)])
    with pytest.raises(DataError, match=r"100 records one after another"):
        log.judge([bad(99)])


def test_too_large_a_share(tmp_path: Path) -> None:
    log = FaultLog(tmp_path / "asr.jsonl", Faults(policy="skip"))
    log.judge([bad(1), bad(2), *[None] * 8])  # too few to judge by a thousandth
    log.judge([None] * 1990)
    log.judge([None] * 1000)
    log.judge([bad(3)])  # 3 of 3001
    with pytest.raises(DataError, match=r"4 of 3002 records cannot be read, more than .* \(0\.001\)"):
        log.judge([bad(4)])


def test_a_server_that_is_away_is_no_fault_of_the_record(tmp_path: Path) -> None:
    path = tmp_path / "asr.jsonl"
    log = FaultLog(path, Faults(policy="skip", share=1.0))
    with pytest.raises(StorageError, match="does not answer"):
        log.judge([None, Fault("tones", "https://x/a.tar, byte 0, record 'a'", "does not answer", True)])
    assert read_faults(path) == []


def test_a_place_is_said_once() -> None:
    where = "a.tar, byte 0, record 'a'"
    for place in (f"{where}: ", f"{where} 0.flac: ", ""):
        message = f"{place}the clip is empty."
        fault = Fault.of("tones", where, DataError(message))
        assert fault.message.count("a.tar") == 1
        assert fault.message.endswith("the clip is empty")


def test_counts_go_on_in_another_number_of_processes(tmp_path: Path) -> None:
    log = FaultLog(tmp_path / "a.jsonl", Faults(policy="skip"))
    log.restore([[100, 3, 1], [300, 5, 0]], 1, 2)
    assert log.state() == [300, 5, 0]
    log = FaultLog(tmp_path / "a.jsonl", Faults(policy="skip"))
    log.restore([[100, 3, 1], [300, 5, 0]], 0, 1)
    assert log.state() == [400, 8, 0]

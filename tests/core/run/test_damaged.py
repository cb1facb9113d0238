"""Whatever befalls a file of ours: it is read as it was written, or an error names file and remedy."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kikimimi.contracts.batch import Fault
from kikimimi.contracts.vocabulary import CharacterVocabulary
from kikimimi.data.fault import read_faults
from kikimimi.data.packing.pack import read_ledger
from kikimimi.errors import DamagedError, RunError
from kikimimi.evaluation.predictions import Predictions, read_predictions
from kikimimi.evaluation.record import RECORD, read_scorings, values_of
from kikimimi.evaluation.score import read_scores
from kikimimi.evaluation.similarity import FILE, read_similarities
from kikimimi.recipe import load_recipe
from kikimimi.recipe.show import digest
from kikimimi.run.folder import RunFolder
from kikimimi.run.lock_file import read_lock_file
from kikimimi.run.metrics import read_metrics

pytestmark = pytest.mark.fault(
    "Our files: empty, torn, of another type or encoding", "named, with what to do"
)

ROOT = Path(__file__).parents[3]
LEFT = ROOT / "tests" / "core" / "compat" / "data"
EVALUATION = LEFT / "stopped" / "evaluations" / "held_out"


def of_folder(path: Path) -> Any:
    return read_similarities(path.parent)


READERS: dict[str, tuple[Path | str, Callable[[Path], Any], str]] = {
    "lock.json": (
        LEFT / "stopped" / "lock.json",
        read_lock_file,
        "Restore",
    ),
    "scores.json": (EVALUATION / "scores.json", read_scores, "Delete it"),
    FILE: (EVALUATION / FILE, of_folder, "Delete the folder"),
    "ledger.json": (LEFT / "shards" / "clips" / "ledger.json", read_ledger, "Delete it"),
    "vocabulary.json": ('["a", "b"]', CharacterVocabulary.load, "Restore it"),
}
OTHERS = ["5", "null", '"text"', "[1]", '{"a": 1}', '[["ab"]]', '{"a": {"b": "c"}}', '{"stages": []}']


def damages(content: bytes) -> Iterator[bytes]:
    """Yield what a file may have become: empty, torn, of zeros, of another encoding or type."""
    content = content.rstrip()
    yield b""
    yield from (content[: len(content) * part // 10] for part in range(1, 10))
    yield content[:-1]
    yield b"\0" * len(content)
    yield content.decode().encode("utf-16")
    yield b"\xff" + content
    yield from (other.encode() for other in OTHERS)
    yield b"[" * 200_000


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_named_with_what_to_do(tmp_path: Path, name: str) -> None:
    source, read, remedy = READERS[name]
    content = source.read_bytes() if isinstance(source, Path) else source.encode()
    path = tmp_path / name
    path.write_bytes(content)
    read(path)
    for damaged in damages(content):
        path.write_bytes(damaged)
        with pytest.raises((DamagedError, RunError)) as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert remedy in str(caught.value)


@pytest.mark.parametrize("text", ["", "a: [", "a", "[]", "stages: 5", "\0\0", "\ud800", "{" * 3000])
def test_a_damaged_recipe_of_a_run_is_named(tmp_path: Path, text: str) -> None:
    recipe = load_recipe(ROOT / "recipes" / "quickstart.yaml", ["encoder.weights=random"])
    run = RunFolder.create(tmp_path / "run", recipe)
    run.metrics.touch()
    (run.path / "recipe.yaml").write_bytes(text.encode(errors="surrogatepass"))
    takes: list[Callable[[], object]] = [
        lambda: RunFolder.open(run.path),
        lambda: RunFolder.create(run.path, recipe),
    ]
    for take in takes:
        with pytest.raises(
            DamagedError, match=r"recipe\.yaml: .* Restore it from a copy; lock\.json has its"
        ):
            take()


METRICS = [{"stage": "asr", "step": step, "loss": step / 2, "lr/llm": 1e-3} for step in range(4)]
FAULTS: list[dict[str, Any]] = [
    {"dataset": "a", "where": f"a.tar, byte {n}", "reason": "は\u2028い", "transient": False} for n in "12"
]
PREDICTIONS: list[dict[str, Any]] = [{"identity": "x"}] + [
    {"key": key, "reference": "は\u2028い\x85", "prediction": "はい", "seconds": 0.5} for key in "abc"
]


def lines_of(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def faults_of(path: Path) -> list[dict[str, Any]]:
    return [vars(fault) for fault in read_faults(path)]


def predictions_of(path: Path) -> list[dict[str, Any]]:
    return [{**line} for line in read_predictions(path).values()]


@pytest.mark.parametrize(
    ("rows", "read"),
    [(METRICS, read_metrics), (FAULTS, faults_of), (PREDICTIONS, predictions_of)],
)
def test_a_last_line_that_a_kill_cut_short_is_left_out(
    tmp_path: Path, rows: list[dict[str, Any]], read: Callable[[Path], list[dict[str, Any]]]
) -> None:
    path = tmp_path / "lines.jsonl"
    assert read(path) == []
    content = lines_of(rows)
    wanted = [row for row in rows if "identity" not in row]
    for length in range(len(content) + 1):
        path.write_bytes(content[:length])
        found = read(path)
        assert found == wanted[: len(found)]
        ended = content[:length].count(b"\n") - (len(rows) - len(wanted))
        assert len(found) in (max(ended, 0), ended + 1)


@pytest.mark.parametrize("last", ["[]", "null", "5", "NaN", "[" * 9, "\0" * 9, '{"a": 1}'])
def test_a_last_line_that_no_kill_leaves_is_damaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], last: str
) -> None:
    """Also as the only one: a file of zeros, or of another JSON, was taken for one that has no line yet."""
    path = tmp_path / "lines.jsonl"
    for number in (1, 4):
        path.write_bytes(lines_of(METRICS[: number - 1]) + last.encode())
        with pytest.raises(DamagedError, match=rf"lines\.jsonl: line {number}: .* or delete that line"):
            read_metrics(path)
        path.write_bytes(lines_of(PREDICTIONS[: number - 1]) + last.encode())
        assert len(Predictions(path, "x").texts) == (2 if number == 4 else 0)
        assert f"1 damaged line left out, and answered again: line {number}: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "5",
        "[]",
        '{"stage": "asr"}',
        '{"stage": 1, "step": 1}',
        '{"stage": "a", "step": -1}',
        '{"stage": "a", "step": 1, "x": "y"}',
    ],
)
def test_a_damaged_line_amid_the_metrics_is_an_error(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(lines_of(METRICS[:2]) + line.encode() + b"\n" + lines_of(METRICS[2:]))
    with pytest.raises(
        DamagedError, match=r"metrics\.jsonl: line 3: .*Restore the file .*, or delete that line"
    ):
        read_metrics(path)
    path.write_bytes(lines_of(METRICS).decode().encode("utf-16"))
    with pytest.raises(DamagedError, match=r"metrics\.jsonl: line 1: "):
        read_metrics(path)


def test_a_folder_in_the_place_of_metrics_has_no_line_to_delete(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(DamagedError, match=r"not a file\. Restore it from a copy, or delete it: its values"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_a_damaged_line_amid_predictions_is_answered_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "p.jsonl"
    content = lines_of(PREDICTIONS)
    path.write_bytes(content.replace(b'"b"', b'"b', 1))
    with pytest.raises(
        DamagedError, match=r"p\.jsonl: line 3: .* Delete it: 'kikimimi evaluate' makes it again"
    ):
        read_predictions(path)
    assert set(Predictions(path, "x").texts) == {"a", "c"}
    assert "p.jsonl: 1 damaged line left out, and answered again: line 3: " in capsys.readouterr().err
    assert set(read_predictions(path)) == {"a", "c"}  # and so it was written again
    for spoilt in (content.decode().encode("utf-16"), content[14:], b"\0" * 9 + b"\n", content[24:]):
        path.write_bytes(spoilt)
        assert Predictions(path, "x").texts == {}
        assert read_predictions(path) == {}


def test_a_damaged_line_amid_faults_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "asr.jsonl"
    path.write_bytes(lines_of(FAULTS[:1]) + b'{"dataset": "cut by a ki\n5\n' + lines_of(FAULTS[1:]))
    assert read_faults(path) == [Fault(*fault.values()) for fault in FAULTS]
    assert "asr.jsonl: 2 damaged lines left out: line 2: is not JSON" in capsys.readouterr().err


@pytest.mark.parametrize("held", [{}, {"weights": None}, {"weights": [["a"]], "x": 1}, ""])
def test_predictions_that_do_not_say_of_which_weights_they_are_are_made_again(
    tmp_path: Path, held: Any
) -> None:
    path, identity = tmp_path / "small.jsonl", {"weights": "a", "data": "b"}
    path.write_bytes(lines_of([{"identity": held}, *PREDICTIONS[1:]]))
    assert not Predictions(path, identity).texts
    assert json.loads(path.read_text()) == {"identity": identity}


SCORE = {
    "metric": "cer",
    "cer": 50.0,
    "value": 50.0,
    "unit": "%",
    "better": "lower",
    "normaliser": "none",
    "count": 2,
    "skipped": 0,
    "truncated": 1,
    "substitutions": 1,
    "reference_length": 2,
    "seconds": 0.5,
}
NO_SCORES: list[tuple[str, Any]] = [
    ("metric", 5),
    ("normaliser", None),
    ("better", "faster"),
    ("value", float("nan")),
    ("value", "50"),
    ("count", 10**30),
    ("count", 0),
    ("count", 1.5),
    ("skipped", -1),
    ("truncated", True),
    ("substitutions", float("inf")),
    ("seconds", -1),
    ("seconds", float("nan")),
]


@pytest.mark.parametrize(("name", "value"), NO_SCORES)
def test_what_no_score_can_have_is_damage(tmp_path: Path, name: str, value: Any) -> None:
    settings = "metric: cer\n"
    scoring: dict[str, Any] = {
        "sha256": digest(settings),
        "settings": settings,
        "data": "d",
        "versions": {},
        "scored": "2026",
        "command": [],
        "systems": {"small": {"predictions": "", "score": SCORE}},
    }
    files = {"scores.json": {"small": SCORE}, RECORD: [scoring]}
    for file, content in files.items():
        (tmp_path / file).write_text(json.dumps(content))
    assert read_scores(tmp_path / "scores.json") == values_of(read_scorings(tmp_path)[0]) == {"small": SCORE}
    scoring["systems"]["small"]["score"] = {**SCORE, name: value}
    files["scores.json"] = {"small": {**SCORE, name: value}}
    for file, content in files.items():
        (tmp_path / file).write_text(json.dumps(content))
    with pytest.raises(DamagedError, match=r"scores\.json: .*small.* Delete it: 'kikimimi evaluate'"):
        read_scores(tmp_path / "scores.json")
    with pytest.raises(DamagedError, match=r"record\.json: .*small.* Restore it from a copy, or delete it"):
        read_scorings(tmp_path)

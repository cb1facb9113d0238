from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any, ClassVar, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from webdataset.writer import TarWriter

from kikimimi import Answer, Conversation, Generation, Recogniser, RecogniserConfig, TextPart
from kikimimi.contracts import registry
from kikimimi.contracts.metric import Score
from kikimimi.contracts.precision import DTYPES
from kikimimi.data.audio import encode_flac
from kikimimi.data.corpus import Corpus
from kikimimi.data.shards.indexing import build_index
from kikimimi.errors import DataError, RequestError, RunError
from kikimimi.evaluation.evaluate import evaluate, evaluate_stage
from kikimimi.evaluation.long_clips import joined
from kikimimi.evaluation.predictions import Predictions, held_identity, read_predictions
from kikimimi.evaluation.record import open_changed
from kikimimi.evaluation.score import read_scores, score
from kikimimi.inference.engine import Engine, Prompt
from kikimimi.inference.load import load_model
from kikimimi.model.lora import AudioGate
from kikimimi.model.speech_lm import SpeechLM
from kikimimi.recipe import Chosen, load_recipe
from kikimimi.run.folder import RunFolder
from kikimimi.testing import tiny_recipe, write_shard
from kikimimi.training.train import train

QUICKSTART = Path(__file__).parents[3] / "recipes" / "quickstart.yaml"
LOAD = "kikimimi.evaluation.evaluate.load_model"
Change = Callable[..., RunFolder]


class Echo(Recogniser):
    """Says the same of every clip; remembers what it was asked."""

    @dataclass(kw_only=True, frozen=True)
    class Config(RecogniserConfig):
        text: str = "はい"

    sample_rate = 8000
    max_seconds: float | None = None
    asked: ClassVar[list[tuple[list[int], str | None]]] = []

    def transcribe(self, clips: Sequence[NDArray[np.float32]], language: str | None) -> list[str]:
        self.asked.append(([len(clip) for clip in clips], language))
        return [self.config.text] * len(clips)


class Responder(Echo):
    """Repeats what is asked; remembers the prompts."""

    prompts: ClassVar[list[Conversation]] = []

    def respond(
        self, prompts: Sequence[Conversation], clips: Sequence[NDArray[np.float32]], language: str | None
    ) -> list[str]:
        self.prompts.extend(prompts)
        return [
            "".join(part.text for part in prompt.messages[-1].parts if isinstance(part, TextPart))
            for prompt in prompts
        ]


class Deaf(Echo):
    max_seconds = 0.31


class Monoglot(Echo):
    def transcribe(self, clips: Sequence[NDArray[np.float32]], language: str | None) -> list[str]:
        raise ValueError(f"it does not know the language '{language}'")


class Broken(Echo):
    def __init__(self, config: Any) -> None:
        raise ValueError("text must not be empty")


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for the plugins that an entry point would bring."""
    known = {"echo": Echo, "responder": Responder, "deaf": Deaf, "monoglot": Monoglot, "broken": Broken}
    whole = registry.load
    monkeypatch.setattr(registry, "load", lambda kind, name: known.get(name) or whole(kind, name))
    Echo.asked.clear()
    Responder.prompts.clear()


def baseline(name: str, **options: Any) -> Chosen:
    config = registry.load("recogniser", name).Config(**options)
    return Chosen(kind="recogniser", name=name, config=config)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("evaluate")
    shard = write_shard(folder / "data", 6)
    run = RunFolder.create(folder / "run", tiny_recipe(load_recipe(QUICKSTART), shard))
    train(run)
    return run


@pytest.fixture
def run(trained: RunFolder, tmp_path: Path) -> Change:
    """Copy the trained run; change its evaluation."""

    def make(**changes: Any) -> RunFolder:
        path = Path(shutil.copytree(trained.path, tmp_path / "run"))
        evaluations = {"held_out": replace(trained.recipe.evaluate["held_out"], **changes)}
        return RunFolder(path, replace(trained.recipe, evaluate=evaluations))

    return make


def wrong(score: Score) -> float:
    return score.details["substitutions"] + score.details["deletions"]


def predictions(run: RunFolder, system: str = "quickstart") -> Path:
    return run.evaluation("held_out") / f"{system}.jsonl"


def count_answers(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note how many rows are predicted from now on."""
    rows: list[int] = []
    whole = Predictions.add

    def add(self: Predictions, keys: Any, *rest: Any) -> None:
        keys = list(keys)
        rows.append(len(keys))
        whole(self, keys, *rest)

    monkeypatch.setattr(Predictions, "add", add)
    return rows


def test_scores_are_those_of_the_predictions(run: Change) -> None:
    folder = run(baselines={"echo": baseline("echo"), "other": baseline("echo", text="いいえ")})
    scores = evaluate(folder)["held_out"]
    written = folder.read_json("evaluations/held_out/scores.json")
    assert list(scores) == list(written) == ["quickstart", "echo", "other"]
    for system, value in scores.items():
        lines = list(read_predictions(predictions(folder, system)).values())
        expected = score(
            [line["reference"] for line in lines],
            [line["prediction"] for line in lines],
            metric="cer",
            normaliser="whisper-basic-nospace",
        )
        assert value == expected
        seconds = written[system].pop("seconds")
        assert seconds == pytest.approx(sum(line["seconds"] for line in lines), abs=1e-3)
        against = written[system].pop("against", {})
        assert list(against) == list(scores)[list(scores).index(system) + 1 :]  # each pair once
        assert written[system] == value.to_json()
        for other, compared in against.items():
            assert compared["difference"] == pytest.approx(value.value - scores[other].value)
    assert {line["prediction"] for line in read_predictions(predictions(folder, "other")).values()} == {
        "いいえ"
    }


def test_baselines_hear_the_clips_at_their_rate_and_in_their_language(run: Change) -> None:
    folder = run(baselines={"echo": baseline("echo")}, batch_seconds=2.0)
    evaluate(folder)
    lengths = [length for clips, _ in Echo.asked for length in clips]
    assert len(lengths) == 6
    assert all(0.3 * 8000 - 1 <= length <= 1.5 * 8000 + 1 for length in lengths)
    assert lengths == sorted(lengths, reverse=True)
    assert all(max(clips) * len(clips) <= 2.0 * 8000 + len(clips) for clips, _ in Echo.asked)
    assert {language for _, language in Echo.asked} == {"ja"}


def test_a_baseline_is_asked_what_the_task_asks_and_not_told_what_is_said(run: Change) -> None:
    task = Chosen.of("task", "asr", request="Write it down.")
    folder = run(baselines={"other": baseline("responder")}, task=task)
    evaluate(folder)
    lines = read_predictions(predictions(folder, "other")).values()
    assert [line["prediction"].strip() for line in lines] == ["Write it down."] * 6
    assert all(line["reference"] not in repr(prompt) for line in lines for prompt in Responder.prompts)
    assert all(len(prompt.clips()) == 1 and not prompt.meta for prompt in Responder.prompts)


def test_a_trained_run_as_baseline_says_what_the_run_says(run: Change, trained: RunFolder) -> None:
    folder = run(baselines={"earlier": baseline("run", folder=str(trained.path))})
    evaluate(folder)
    own, earlier = (
        {key: line["prediction"] for key, line in read_predictions(predictions(folder, system)).items()}
        for system in ("quickstart", "earlier")
    )
    assert own == earlier
    assert len(own) == 6


def test_nothing_is_predicted_twice(run: Change, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run(baselines={"echo": baseline("echo")})
    first = evaluate(folder)
    before = {path: path.read_bytes() for path in folder.evaluation("held_out").glob("*.jsonl")}
    rows = count_answers(monkeypatch)
    monkeypatch.setattr(LOAD, lambda *_: pytest.fail("the model was loaded"))
    assert evaluate(folder) == first
    assert rows == []
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("cut", [1, 3, 40, 120])
def test_an_interrupted_evaluation_goes_on(run: Change, monkeypatch: pytest.MonkeyPatch, cut: int) -> None:
    # The echo's answers and the references are Japanese: some cuts go through the middle of a character.
    folder = run(baselines={"echo": baseline("echo", text="は\u2028い")})
    first = evaluate(folder)
    path = predictions(folder, "echo")
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    rows = count_answers(monkeypatch)
    assert evaluate(folder) == first
    assert sum(rows) == (1 if cut < 120 else 2) - (cut == 1)
    assert set(read_predictions(path)) == {f"clips-{number:04d}" for number in range(6)}


def test_every_cut_of_a_predictions_file_is_survived(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    Predictions(path, "x").add(["a", "b"], ["はい", "いいえ"], ["はい", "はい"], 1.0)
    whole = path.read_bytes()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        held = Predictions(path, "x")
        assert held.texts in ({}, {"a": "はい"}, {"a": "はい", "b": "いいえ"})
        assert held.seconds == pytest.approx(0.5 * len(held.texts))
        held.add(["c"], ["は"], ["は"], 0.5)
        assert Predictions(path, "x").texts == {**held.texts}


@pytest.mark.fault("Our files: lines of predictions for other records, or twice", "left out, and said")
@pytest.mark.parametrize("system", ["quickstart", "quickstart@asr", "echo"])
def test_predictions_for_other_records_are_left_out(
    run: Change, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], system: str
) -> None:
    folder = run(baselines={"echo": baseline("echo")})
    evaluate_stage(folder, "asr", ["held_out"])
    first, path = evaluate(folder), predictions(folder, system)
    held = read_predictions(path)
    _, changed, *_, last = path.read_text(encoding="utf-8").splitlines(keepends=True)
    key = json.loads(changed)["key"]
    text = path.read_text(encoding="utf-8").replace(f'"{key}"', '"other"') + last
    path.write_text(text, encoding="utf-8")
    capsys.readouterr()
    rows = count_answers(monkeypatch)
    assert evaluate(folder) == first
    assert f"{path}: 1 line left out: the data has no record 'other'\n" in capsys.readouterr().err
    assert sum(rows) == (system != "quickstart@asr")
    if sum(rows):
        assert read_predictions(path).keys() == held.keys()
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) == 7
        shown = read_scores(folder.evaluation("held_out") / "scores.json")[system]["seconds"]
        assert shown == pytest.approx(sum(json.loads(line)["seconds"] for line in lines[1:]), abs=1e-3)


@pytest.mark.fault("Our files: scores that are damaged, or not those of the record", "said, and made again")
def test_scores_that_are_made_again_are_said(run: Change, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run()
    evaluate(folder)
    path = folder.evaluation("held_out") / "scores.json"
    whole = path.read_text(encoding="utf-8")
    number = json.loads(whole)["quickstart"]["substitutions"]
    for spoilt, said in (
        (whole[:-9], f"{path}: is not JSON: .* 'kikimimi evaluate' makes it again, now\n"),
        (whole.replace(f'"substitutions": {number}', '"substitutions": 98765'), f"{path} is not what record"),
    ):
        assert spoilt != whole
        path.write_text(spoilt, encoding="utf-8")
        capsys.readouterr()
        evaluate(folder)
        assert re.search(said, capsys.readouterr().err)
        assert path.read_text(encoding="utf-8") == whole
    evaluate(folder)
    assert capsys.readouterr().err == ""


def test_other_weights_or_other_data_begin_anew(run: Change, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run(baselines={"echo": baseline("echo")})
    evaluate(folder)
    rows = count_answers(monkeypatch)
    weights = folder.weights("asr")
    save_file({name: tensor + 1 for name, tensor in load_file(weights).items()}, weights)
    evaluate(folder)
    assert sum(rows) == 6  # the run's own; the baseline's stay
    other = write_shard(folder.path.parent / "other", 4, seed=9)
    changed = replace(folder.recipe.evaluate["held_out"], shards=other)
    rows.clear()
    evaluate(RunFolder(folder.path, replace(folder.recipe, evaluate={"held_out": changed})))
    assert sum(rows) == 8
    assert len(read_predictions(predictions(folder))) == 4


def test_a_copy_of_a_run_is_not_answered_again(run: Change, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copying keeps what files hold, and not their times."""
    folder = run()
    first = evaluate(folder)
    folder.weights("asr").touch()
    monkeypatch.setattr(LOAD, lambda *_: pytest.fail("the model was loaded"))
    assert evaluate(folder) == first


def test_a_baseline_of_the_run_beside_is_not_asked_again(
    run: Change, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Runs of a sweep have the same baselines; those of other weights, or that are not whole, are asked."""
    folder = run(baselines={"echo": baseline("echo")})
    first = evaluate(folder)["held_out"]["echo"]
    beside = RunFolder(folder.path.with_name("beside"), folder.recipe)
    shutil.copytree(folder.path, beside.path)
    shutil.rmtree(beside.path / "evaluations")
    rows = count_answers(monkeypatch)
    assert evaluate(beside)["held_out"]["echo"] == first
    assert sum(rows) == 6  # the run's own
    assert f"echo: taken from {predictions(folder, 'echo')}" in capsys.readouterr().out
    assert read_predictions(predictions(beside, "echo")) == read_predictions(predictions(folder, "echo"))

    for damaged in (
        "",
        "nonsense",
        "\n".join(predictions(folder, "echo").read_text().splitlines()[:3]) + "\n",
    ):
        shutil.rmtree(beside.path / "evaluations")
        predictions(folder, "echo").write_text(damaged)
        rows.clear()
        assert evaluate(beside)["held_out"]["echo"].value == first.value
        assert sum(rows) == 12

    held_out = replace(folder.recipe.evaluate["held_out"], baselines={"echo": baseline("echo", text="い")})
    other = RunFolder(folder.path.with_name("other"), replace(folder.recipe, evaluate={"held_out": held_out}))
    shutil.copytree(folder.path, other.path)
    shutil.rmtree(other.path / "evaluations")
    rows.clear()
    evaluate(other)
    assert sum(rows) == 12


def test_records_of_equal_key_are_all_scored(run: Change, tmp_path: Path) -> None:
    """Two sets that were packed apart number their records alike."""
    shards = [write_shard(tmp_path / name, 3, seed=seed) for seed, name in enumerate("ab")]
    folder = run(shards=f"{tmp_path}/{{a,b}}/clips-000000.tar", baselines={"echo": baseline("echo")})
    scores = evaluate(folder)["held_out"]
    assert {system: value.count for system, value in scores.items()} == {"quickstart": 6, "echo": 6}
    lines = read_predictions(predictions(folder))
    assert sorted(lines) == sorted(f"clips-000{number}{mark}" for number in range(3) for mark in ("", " (2)"))
    separate = [replace(folder.recipe.evaluate["held_out"], shards=shard, baselines={}) for shard in shards]
    parts = evaluate(
        RunFolder(folder.path, replace(folder.recipe, evaluate=dict(zip("ab", separate, strict=True))))
    )
    edits = [wrong(part["quickstart"]) for part in parts.values()]
    assert wrong(scores["quickstart"]) == sum(edits)


def test_batches_do_not_change_the_predictions(run: Change) -> None:
    folder = run(generate=Generation(max_new_tokens=8))
    evaluate(folder)
    together = {k: line["prediction"] for k, line in read_predictions(predictions(folder)).items()}
    predictions(folder).unlink()
    evaluation = replace(folder.recipe.evaluate["held_out"], batch_seconds=0.1)
    evaluate(RunFolder(folder.path, replace(folder.recipe, evaluate={"held_out": evaluation})))
    assert {k: line["prediction"] for k, line in read_predictions(predictions(folder)).items()} == together


def test_only_some(run: Change, trained: RunFolder) -> None:
    folder = run()
    evaluation = folder.recipe.evaluate["held_out"]
    both = RunFolder(folder.path, replace(folder.recipe, evaluate={"held_out": evaluation, "b": evaluation}))
    assert list(evaluate(both, ["b", "b"])) == ["b"]
    assert not both.evaluation("held_out").exists()
    assert list(evaluate(both)) == ["held_out", "b"]
    with pytest.raises(
        RequestError,
        match=r"the recipe has no evaluation 'heldout'\. Did you mean 'held_out'\? Evaluations: b, held_out",
    ):
        evaluate(both, ["heldout"])


def test_a_recipe_without_evaluations(run: Change) -> None:
    folder = run()
    with pytest.raises(RequestError, match=r"its recipe has no evaluation \(section 'evaluate'\)"):
        evaluate(RunFolder(folder.path, replace(folder.recipe, evaluate={})))


def test_a_run_that_is_not_trained(run: Change) -> None:
    folder = run()
    shutil.rmtree(folder.path / "weights")
    shutil.rmtree(folder.path / "checkpoints")
    with pytest.raises(RunError, match="nothing was trained yet"):
        evaluate(folder)


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        (
            "deaf",
            DataError,
            r"held_out: \d of 6 records hold a clip longer than evaluate\.held_out\.baselines\.x takes "
            r"\(0\.31 s\), the first is .*clips-000000\.tar.* Nothing is cut",
        ),
        ("monoglot", RequestError, r"evaluate\.held_out\.baselines\.x: it does not know the language 'ja'"),
        ("broken", RequestError, r"evaluate\.held_out\.baselines\.x: text must not be empty"),
    ],
)
def test_a_baseline_that_cannot(run: Change, name: str, kind: type[Exception], message: str) -> None:
    folder = run(baselines={"x": baseline(name)})
    with pytest.raises(kind, match=message):
        evaluate(folder)
    assert predictions(folder).is_file()  # the run's own predictions are kept for the next call


def test_a_baseline_of_the_runs_own_name(run: Change) -> None:
    folder = run(baselines={"quickstart": baseline("echo")})
    with pytest.raises(RequestError, match=r"evaluate\.held_out\.baselines\.quickstart: has the name"):
        evaluate(folder)


def test_a_clip_longer_than_the_encoders_window_is_named(
    run: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run()
    model = load_model(folder)
    model.encoder.max_seconds = 0.5
    monkeypatch.setattr(LOAD, lambda *_: model)
    with pytest.raises(DataError, match=r"of 6 records hold a clip longer than the encoder takes \(0\.5 s\)"):
        evaluate(folder)


class AllSpeech:
    """Hears speech all the time."""

    def __init__(self, sample_rate: int) -> None:
        self._chunk, self._samples, self._told = sample_rate * 4 // 125, 0, 0

    def push(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        self._samples += len(block)
        told, self._told = self._told, self._samples // self._chunk
        return np.ones(self._told - told, np.float32)

    def finish(self) -> NDArray[np.float32]:
        return np.ones(int(self._samples % self._chunk > 0), np.float32)


def test_long_clips_are_cut_where_that_is_asked_for(run: Change, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the model and by baselines; nothing is lost, and what is short stays whole."""
    monkeypatch.setattr("kikimimi.inference.speech_cutter.SpeechDetector", AllSpeech)
    folder = run(long_clips="cut", baselines={"x": baseline("deaf")})
    model = load_model(folder)
    model.encoder.max_seconds = 0.5
    monkeypatch.setattr(LOAD, lambda *_: model)
    heard: list[int] = []
    whole = Engine.answer

    def noted(self: Engine, prompts: Sequence[Prompt], *given: Any) -> list[Answer]:
        heard.extend(len(clip) for prompt in prompts for clip in prompt.clips)
        return whole(self, prompts, *given)

    monkeypatch.setattr(Engine, "answer", noted)
    scores = evaluate(folder)["held_out"]
    assert scores["quickstart"].count == scores["x"].count == 6
    held_out = Corpus.open("held_out", folder.recipe.evaluate["held_out"])
    seconds = held_out.shards.longest.tolist()
    assert max(heard) <= 0.5 * 16_000
    assert len(heard) > 6
    assert sum(heard) == pytest.approx(sum(seconds) * 16_000, abs=12)
    lengths = [length for asked, _ in Echo.asked for length in asked]
    assert max(lengths) <= 0.31 * 8_000
    assert sum(lengths) == pytest.approx(sum(seconds) * 8_000, abs=12)
    texts = [line["prediction"] for line in read_predictions(predictions(folder, "x")).values()]
    assert "".join(texts) == "はい" * len(lengths)


def test_several_clips_of_a_record_are_not_cut(
    run: Change, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = write_dialogues(tmp_path / "long.tar", (0.4, 0.6))
    folder = run(task=Chosen.of("task", "chat"), shards=shards, long_clips="cut")
    model = load_model(folder)
    model.encoder.max_seconds = 0.5
    monkeypatch.setattr(LOAD, lambda *_: model)
    with pytest.raises(DataError, match=r"talk-0.*: holds several clips, and one is longer than the encoder"):
        evaluate(folder)


def test_answers_to_pieces_are_joined() -> None:
    texts = [Answer("ab", cut=False), Answer("<think>x</think> cd", cut=True), "<think>y</think>ef"]
    found = joined(texts, [0, 0, 2], 3)
    assert found == ["ab cd", "", "<think>y</think>ef"]
    assert [answer.cut for answer in found] == [True, False, None]
    assert [answer.cut for answer in joined(["a", "b"], [0, 0], 1)] == [None]


def write_dialogues(shard: Path, *lengths: tuple[float, ...]) -> str:
    """Write conversations with clips of some lengths [s]."""
    with TarWriter(str(shard)) as writer:
        for number, seconds in enumerate(lengths):
            audio = [{"type": "audio", "audio": f"{i}.flac"} for i in range(len(seconds))]
            turns = [
                {"role": "user", "content": [*audio, {"type": "text", "text": "何？"}]},
                {"role": "assistant", "content": "はい"},
            ]
            clips = {
                f"{i}.flac": encode_flac(np.full(round(length * 16000), 0.1, np.float32), 16000)
                for i, length in enumerate(seconds)
            }
            record = json.dumps({"messages": turns}).encode()
            writer.write({"__key__": f"talk-{number}", "json": record, **clips})
    build_index(shard)
    return str(shard)


def test_each_clip_of_a_record_is_measured(
    run: Change, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run(task=Chosen.of("task", "chat"))
    model = load_model(folder)
    model.encoder.max_seconds = 0.5
    monkeypatch.setattr(LOAD, lambda *_: model)

    def over(shards: str) -> RunFolder:
        evaluation = replace(folder.recipe.evaluate["held_out"], shards=shards)
        return RunFolder(folder.path, replace(folder.recipe, evaluate={"held_out": evaluation}))

    assert evaluate(over(write_dialogues(tmp_path / "fit.tar", (0.4, 0.4))))["held_out"]["quickstart"].count
    with pytest.raises(
        DataError,
        match=r"1 of 2 records hold a clip longer than the encoder takes \(0\.5 s\), the first is "
        r".*talk-1.* \(0\.6 s\)",
    ):
        evaluate(over(write_dialogues(tmp_path / "long.tar", (0.4, 0.4), (0.3, 0.6))))


def test_a_prompt_that_leaves_no_room_is_named(run: Change, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run()
    model = load_model(folder)
    model.llm.context_length = 8
    monkeypatch.setattr(LOAD, lambda *_: model)
    with pytest.raises(
        DataError,
        match=r"clips-000000\.tar.*clips-000\d.*: too long for this run's LLM: a prompt of \d+ positions "
        r"leaves no room in the context of 8; it may have 7 at most\. Leave it out",
    ):
        evaluate(folder)


def test_a_metric_that_the_normaliser_does_not_leave_is_told_before_the_work(
    run: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LOAD, lambda *_: pytest.fail("the model was loaded"))
    folder = run(metric=Chosen.of("metric", "wer"), normaliser="whisper-basic-nospace")
    with pytest.raises(
        RequestError, match=r"metric 'wer' with normaliser 'whisper-basic-nospace': compares words, but"
    ):
        evaluate(folder)


def test_conversations(run: Change, tmp_path: Path) -> None:
    talk = write_shard(tmp_path / "talk", 2, form="conversations")
    chat = Chosen(kind="task", name="chat", config=registry.load("task", "chat").Config())
    folder = run(shards=talk, task=chat, baselines={"echo": baseline("echo")})
    assert evaluate(folder)["held_out"]["echo"].count == 2


def test_a_baseline_needs_a_clip(run: Change, tmp_path: Path) -> None:
    shard = tmp_path / "written.tar"
    turns = [{"role": "user", "content": "はい？"}, {"role": "assistant", "content": "はい"}]
    with TarWriter(str(shard)) as writer:
        writer.write({"__key__": "only-text", "json": json.dumps({"messages": turns}).encode()})
    build_index(shard)
    chat = Chosen(kind="task", name="chat", config=registry.load("task", "chat").Config())
    folder = run(shards=str(shard), task=chat, baselines={"echo": baseline("echo")})
    with pytest.raises(DataError, match=r"only-text.*: a recogniser takes one clip, and there are 0"):
        evaluate(folder)
    assert len(read_predictions(predictions(folder))) == 1  # the run answers in writing


def test_evaluations_keep_their_order(run: Change) -> None:
    folder = run()
    evaluations = dict.fromkeys(("z", "a", "m"), folder.recipe.evaluate["held_out"])
    assert list(evaluate(RunFolder(folder.path, replace(folder.recipe, evaluate=evaluations)))) == [
        "z",
        "a",
        "m",
    ]


def write_texts(shard: Path, count: int, length: int) -> str:
    """Write questions without audio, each with its answer of as many characters in all."""
    with TarWriter(str(shard)) as writer:
        for number in range(count):
            said = f"{number:04d}".ljust(length - 2, "？")
            turns = [{"role": "user", "content": said}, {"role": "assistant", "content": "はい"}]
            writer.write({"__key__": f"text-{number:04d}", "json": json.dumps({"messages": turns}).encode()})
    build_index(shard)
    return str(shard)


def note_batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note how many prompts are answered together from now on."""
    sizes: list[int] = []
    whole = Engine.answer

    def answer(self: Engine, prompts: Sequence[Prompt], *rest: Any) -> list[Answer]:
        sizes.append(len(prompts))
        return whole(self, prompts, *rest)

    monkeypatch.setattr(Engine, "answer", answer)
    return sizes


def test_texts_without_audio_are_batched_by_their_length(
    run: Change, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They hold no second of audio: all of them were one batch."""
    shards, chat = write_texts(tmp_path / "texts.tar", 30, 50), Chosen.of("task", "chat")
    folder = run(shards=shards, task=chat, generate=Generation(max_new_tokens=2), batch_seconds=32.0)
    sizes = note_batches(monkeypatch)
    assert evaluate(folder)["held_out"]["quickstart"].count == 30
    assert sizes == [8, 8, 8, 6]  # 50 characters count as 4 s


SAMPLED = Generation(max_new_tokens=12, temperature=1.0, top_p=0.9)


def texts(folder: RunFolder) -> dict[str, str]:
    return {key: line["prediction"] for key, line in read_predictions(predictions(folder)).items()}


@pytest.mark.parametrize("num_beams", [1, 3])
def test_sampling_comes_out_again_whatever_the_batches(run: Change, num_beams: int) -> None:
    folder = run(generate=replace(SAMPLED, num_beams=num_beams))
    found = []
    for seconds in (60.0, 60.0, 0.1):
        torch.rand(3)  # whatever was drawn before
        evaluation = replace(folder.recipe.evaluate["held_out"], batch_seconds=seconds)
        folder = RunFolder(folder.path, replace(folder.recipe, evaluate={"held_out": evaluation}))
        evaluate(folder)
        found.append(texts(folder))
        predictions(folder).unlink()
    assert found[0] == found[1] == found[2]
    other = RunFolder(folder.path, replace(folder.recipe, seed=folder.recipe.seed + 1))
    evaluate(other)
    assert texts(other) != found[0]


def test_sampling_where_rows_with_and_without_audio_are_generated_apart(
    run: Change, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with low-rank updates that act where audio is."""
    shards = write_dialogues(tmp_path / "mixed.tar", (0.4,), (), (0.5,), ())
    folder = run(shards=shards, task=Chosen.of("task", "chat"), generate=SAMPLED)
    model = load_model(folder)
    model.gate = AudioGate()
    monkeypatch.setattr(LOAD, lambda *_: model)
    evaluate(folder)
    together = texts(folder)
    predictions(folder).unlink()
    alone = replace(folder.recipe.evaluate["held_out"], batch_seconds=0.01)
    evaluate(RunFolder(folder.path, replace(folder.recipe, evaluate={"held_out": alone})))
    assert texts(folder) == together


@pytest.mark.parametrize(("own", "expected"), [(None, "bf16"), ("fp32", "fp32")])
def test_precision_is_the_trainers_unless_the_evaluation_has_its_own(
    run: Change, monkeypatch: pytest.MonkeyPatch, own: Any, expected: str
) -> None:
    folder = run(precision=own)
    trainer = replace(folder.recipe.trainer, precision="bf16")
    folder = RunFolder(folder.path, replace(folder.recipe, trainer=trainer))
    seen = []
    whole = SpeechLM.generate_ids

    def generate_ids(self: SpeechLM, batch: Any, generation: Any, packed: Any) -> Any:
        linear = next(m for m in self.llm.modules() if isinstance(m, torch.nn.Linear))
        seen.append(linear(packed.embeddings[:1]).dtype)
        return whole(self, batch, generation, packed)

    monkeypatch.setattr(SpeechLM, "generate_ids", generate_ids)
    evaluate(folder)
    assert set(seen) == {DTYPES[expected]}
    held = held_identity(predictions(folder))
    assert isinstance(held, dict)
    assert held["precision"] == expected


def test_a_run_that_began_before_evaluations_had_a_precision_is_scored_as_it_was(run: Change) -> None:
    folder = run()
    held = folder.path / "recipe.yaml"
    text = held.read_text(encoding="utf-8").replace("    precision: null\n", "")
    held.write_text(text.replace("  precision: fp32\n", "  precision: bf16\n"), encoding="utf-8")
    found = RunFolder.open(folder.path).recipe
    assert found.trainer.precision == "bf16"
    assert found.precision_of(found.evaluate["held_out"]) == "fp32"
    changed, _ = open_changed(folder.path, ["evaluate.held_out.precision=bf16"])
    assert changed.recipe.precision_of(changed.recipe.evaluate["held_out"]) == "bf16"


def test_references_that_the_metric_does_not_take_are_told_before_the_work(
    run: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a metric of numbers, where the data has sentences: only scoring would tell."""
    monkeypatch.setattr(LOAD, lambda *_: pytest.fail("the model was loaded"))

    def refuse(self: Any, references: Sequence[str], predictions: Sequence[str]) -> None:
        raise ValueError(f"{references[0]!r} is no number")

    monkeypatch.setattr(registry.load("metric", "cer"), "measure", refuse)
    with pytest.raises(RequestError, match=r"^evaluate\.held_out: metric 'cer': '.*' is no number"):
        evaluate(run())


def test_data_that_is_missing_is_told_before_the_work(run: Change, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LOAD, lambda *_: pytest.fail("the model was loaded"))
    folder = run()
    held_out = folder.recipe.evaluate["held_out"]
    both = {"held_out": held_out, "gone": replace(held_out, shards="gone/*.tar")}
    with pytest.raises(RequestError, match="nothing matches gone"):
        evaluate(RunFolder(folder.path, replace(folder.recipe, evaluate=both)))


def test_a_run_is_evaluated_by_one_process(run: Change) -> None:
    folder = run()
    with (
        folder.evaluating(),
        pytest.raises(RunError, match=r"is being evaluated by another process \(process \d+ on .*\)\. Wait"),
    ):
        evaluate(folder)
    evaluate(folder)


def test_a_stage_waits_until_the_run_is_evaluated(run: Change, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run()
    stage, _ = folder.newest_weights()
    # What pytest captures is not read here: a line that is written while it is emptied is lost.
    said: Queue[str] = Queue()
    monkeypatch.setattr("kikimimi.run.folder.say", lambda message, *, error: said.put(message))
    done: list[object] = []
    other = Thread(target=lambda: done.append(evaluate_stage(folder, stage, ["held_out"])))
    with folder.evaluating():
        other.start()
        assert "waiting for it" in said.get(timeout=240)
        assert not done
    other.join(timeout=240)
    assert done


def test_evaluating_a_run_that_trains(run: Change, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run()
    with folder.locked():
        evaluate(folder)
    said = capsys.readouterr().err
    assert "is being trained: scored is what it has reached, weights/asr.safetensors" in said


def test_white_space_at_the_ends_of_an_answer_is_not_scored(run: Change, monkeypatch: Any) -> None:
    """A blank that a template leaves before each answer cost 14 % CER on seven characters."""
    said = "あいうえおかき"
    (raw,) = [score([said], [f" {said}"], metric="cer", normaliser="none")]
    assert round(raw.value) == 14
    monkeypatch.setattr(Conversation, "reference", lambda _: f"{said}\n")
    systems = {
        "blank": baseline("echo", text=f" {said}\n"),
        "thinks": baseline("echo", text=f"<think>x</think> {said}"),
    }
    folder = run(normaliser="none", baselines=systems)
    monkeypatch.setattr("kikimimi.evaluation.evaluate.Engine.answer", lambda *_: [Answer(f" {said}")] * 6)
    found = evaluate(folder)["held_out"]
    assert {system: found[system].value for system in found} == dict.fromkeys(("quickstart", *systems), 0)
    assert found["thinks"].thoughts == 6
    (line, *_) = read_predictions(predictions(folder, "thinks")).values()
    assert line["prediction"] == f"<think>x</think> {said}"  # kept as it was written


def test_answers_that_are_cut_or_loop_are_counted(run: Change) -> None:
    loop = "はい、" * 7
    folder = run(baselines={"echo": baseline("echo"), "loops": baseline("echo", text=loop)})
    found = evaluate(folder)["held_out"]
    lines = read_predictions(predictions(folder)).values()
    cut = [line["cut"] for line in lines if "cut" in line]
    assert len(cut) == 6
    assert found["quickstart"].truncated == sum(cut)
    assert found["quickstart"].share("truncated") == sum(cut) / 6
    assert (found["echo"].truncated, found["echo"].looped) == (None, 0)  # a recogniser may not say
    assert (found["loops"].truncated, found["loops"].looped) == (None, 6)
    written = folder.read_json("evaluations/held_out/scores.json")
    assert written["quickstart"]["truncated"] == sum(cut)
    assert written["loops"]["looped"] == 6
    assert "truncated" not in written["loops"]
    again = Score.from_json(written["loops"])
    assert (again.looped, again.truncated, again.share("truncated")) == (6, None, None)


def test_predictions_and_scores_from_before_they_were_counted(run: Change) -> None:
    folder = run()
    evaluate(folder)
    path = predictions(folder)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text(
        "".join(json.dumps({k: v for k, v in line.items() if k != "cut"}) + "\n" for line in lines)
    )
    held = folder.read_json("evaluations/held_out/scores.json")
    for count in ("truncated", "looped"):
        del held["quickstart"][count]
    folder.write_json("evaluations/held_out/scores.json", held)
    assert read_scores(folder.path / "evaluations/held_out/scores.json") == held
    found = evaluate(folder)["held_out"]["quickstart"]
    assert found.truncated is None
    assert found.looped == 0


def test_a_loop_that_was_said_is_none() -> None:
    loop = "はい、" * 7
    counted = score([loop, "はい"], [Answer(loop), Answer(loop)], metric="cer", normaliser="none")
    assert (counted.looped, counted.truncated) == (1, None)
    cut = [Answer("あ", cut=True), Answer("い", cut=False)]
    assert score(["あ", "い"], cut, metric="cer", normaliser="none").truncated == 1


def test_thoughts_are_not_scored() -> None:
    """A perfect answer after Qwen3's empty thought had a character error rate of 173 %."""
    said = "今日は天気がいいですね"
    written = f"<think>\n\n</think>\n\n{said}"
    assert round(100 * (len(written) - len(said)) / len(said)) == 173
    found = score([said], [Answer(written, cut=False)], metric="cer", normaliser="none")
    assert (found.value, found.thoughts, found.to_json()["thoughts"]) == (0, 1, 1)


def test_the_llm_is_asked_in_writing_what_a_recogniser_hears_and_what_was_said(
    run: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Prompt] = []

    def answer(_: object, prompts: Sequence[Prompt], *__: object) -> list[Answer]:
        asked.extend(prompts)
        texts = [prompt.conversation.messages[-1].parts for prompt in prompts]
        return [Answer("".join(getattr(part, "text", None) or "" for part in parts)) for parts in texts]

    monkeypatch.setattr(Engine, "answer", answer)
    task = Chosen.of("task", "asr", request="Write it down.")
    folder = run(task=task, cascades={"heard": baseline("echo", text=" はい ")}, written=True)
    found = evaluate(folder)["held_out"]
    assert list(found) == ["quickstart", "quickstart+written", "heard"]
    assert len(asked) == 18
    assert [len(prompt.clips) for prompt in asked] == [1] * 6 + [0] * 12
    lines = read_predictions(predictions(folder, "heard"))
    assert {line["prediction"] for line in lines.values()} == {"はい\nWrite it down."}
    lines = read_predictions(predictions(folder, "quickstart+written"))
    assert all(line["prediction"] == f"{line['reference']}\nWrite it down." for line in lines.values())
    held = held_identity(predictions(folder, "heard"))
    assert isinstance(held, dict)
    assert held["heard_by"].startswith("echo ")
    assert held["weights"] == cast(dict[str, Any], held_identity(predictions(folder)))["weights"]
    asked.clear()
    assert evaluate(folder)["held_out"] == found
    assert not asked  # nothing is asked twice


def test_scores_are_broken_down_and_drawn_by_what_records_name(run: Change) -> None:
    folder = run(baselines={"echo": baseline("echo")}, interval_by="topic", groups=["length", "topic"])
    with pytest.raises(RequestError, match=r"evaluate\.held_out: no record names 'topic'"):
        evaluate(folder)
    field = "language"
    folder = RunFolder(
        folder.path,
        replace(
            folder.recipe,
            evaluate={
                "held_out": replace(
                    folder.recipe.evaluate["held_out"], interval_by=None, groups=["length", field]
                )
            },
        ),
    )
    found = evaluate(folder)["held_out"]["echo"]
    held = read_scores(folder.evaluation("held_out") / "scores.json")["echo"]
    assert found.interval == (held["low"], held["high"])
    assert field not in held.get("by", {})  # all of one language: no parts

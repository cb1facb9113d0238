from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from kikimimi import Generation
from kikimimi.contracts import registry
from kikimimi.contracts.answer import Answer
from kikimimi.errors import DataError, RequestError
from kikimimi.inference.engine import BATCH_SIZE, Prompt
from kikimimi.inference.transcriber import Transcriber
from kikimimi.recipe import Chosen, load_recipe
from kikimimi.run.folder import RunFolder
from kikimimi.testing import tiny_recipe, write_shard
from kikimimi.training.train import train

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("transcriber")
    recipe = tiny_recipe(load_recipe(ROOT / "recipes" / "quickstart.yaml"), write_shard(folder / "data", 4))
    run = RunFolder.create(folder / "run", recipe)
    train(run)
    return run


def noise(count: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 0.1, count).astype(np.float32)


def test_a_clip_is_heard_the_same_alone_and_in_company(run: RunFolder) -> None:
    transcriber = Transcriber(run)
    clips = [noise(4000 + 700 * i, seed=i) for i in range(BATCH_SIZE + 3)]
    together = transcriber.transcribe(clips)
    assert len(together) == len(clips)
    assert [transcriber.transcribe([clip])[0] for clip in clips] == together
    assert transcriber.transcribe([]) == []


def test_it_decodes_as_the_evaluation_does(run: RunFolder) -> None:
    evaluation = replace(run.recipe.evaluate["held_out"], generate=Generation(max_new_tokens=1))
    short = Transcriber(RunFolder(run.path, replace(run.recipe, evaluate={"held_out": evaluation})))
    assert short.generation.max_new_tokens == 1
    assert len(short.transcribe([noise(8000)])[0]) <= 1
    assert Transcriber(RunFolder(run.path, replace(run.recipe, evaluate={}))).generation == Generation()


def test_pieces_follow_the_encoders_window(run: RunFolder) -> None:
    transcriber = Transcriber(run)
    assert transcriber.max_seconds is not None
    window = round(16000 * transcriber.max_seconds)
    assert [len(piece.samples) for piece in transcriber.pieces([noise(window)])] == [window]
    pieces = list(transcriber.pieces([noise(window + 1)], cut="quietest"))
    assert len(pieces) == 2
    with pytest.raises(RequestError, match="pause: ends pieces where a recording is cut at silence"):
        list(transcriber.pieces([noise(window)], cut="quietest", pause=1))
    transcriber.max_seconds = None
    assert len(list(transcriber.pieces([noise(16000 * 100)]))) == 1


def test_a_last_stage_of_conversations_leaves_it_to_the_one_before(run: RunFolder) -> None:
    stage = run.recipe.stages["asr"]
    chat = {"talk": replace(next(iter(stage.data.values())), task=Chosen.of("task", "chat"))}
    stages = {"asr": stage, "dpo": replace(stage, data=chat)}
    recipe = replace(run.recipe, stages=stages, evaluate={})
    assert Transcriber(RunFolder(run.path, recipe)).task.transcribes


def test_a_task_that_asks_no_fixed_question(run: RunFolder) -> None:
    chat = Chosen(kind="task", name="chat", config=registry.load("task", "chat").Config())
    stage = run.recipe.stages["asr"]
    data = {name: replace(dataset, task=chat) for name, dataset in stage.data.items()}
    recipe = replace(run.recipe, stages={"asr": replace(stage, data=data)}, evaluate={})
    with pytest.raises(RequestError, match="none of its tasks asks a fixed question of a clip"):
        Transcriber(RunFolder(run.path, recipe))


def test_a_task_that_transcribes_goes_before_others(run: RunFolder) -> None:
    (evaluation,) = run.recipe.evaluate.values()
    others = {
        name: replace(evaluation, task=Chosen.of("task", name))
        for name in ("emotion", "caption", "transcribe")
    }
    recipe = replace(run.recipe, evaluate=others)
    assert type(Transcriber(RunFolder(run.path, recipe)).task).__name__ == "Transcribe"
    without = replace(recipe, evaluate={"emotion": others["emotion"]})
    assert type(Transcriber(RunFolder(run.path, without)).task).__name__ == "ASR"  # of the training data


def test_a_prompt_that_does_not_fit(run: RunFolder) -> None:
    transcriber = Transcriber(run)
    transcriber.engine.model.llm.context_length = 8
    with pytest.raises(
        DataError, match=r"too long for this run's LLM: a prompt of \d+ positions leaves no room"
    ):
        transcriber.transcribe([noise(16000)])


def test_pieces_of_a_long_file_share_little_memory(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU two windows are in the encoder at a time, however long the file is."""
    transcriber = Transcriber(run, torch.device("cpu"))
    longest = int((transcriber.max_seconds or 0) * transcriber.sample_rate)
    soundfile.write(tmp_path / "long.wav", noise(5 * longest), transcriber.sample_rate)
    asked: list[int] = []
    answer = transcriber.engine.answer

    def noted(prompts: Sequence[Prompt], *given: Any) -> list[Answer]:
        asked.append(len(prompts))
        return answer(prompts, *given)

    monkeypatch.setattr(transcriber.engine, "answer", noted)
    found = transcriber.transcribe_file(tmp_path / "long.wav", cut="quietest")
    assert sum(asked) == len(found.segments) >= 5
    assert max(asked) == 2


def test_a_language_that_changes_nothing_is_refused_but_a_records_is_no_fault(run: RunFolder) -> None:
    """A run that compares itself with this one says of each clip what it knows, whoever can use it."""
    (evaluation,) = run.recipe.evaluate.values()
    silent = {"held_out": replace(evaluation, task=Chosen.of("task", "transcribe"))}
    transcriber = Transcriber(RunFolder(run.path, replace(run.recipe, evaluate=silent)))
    with pytest.raises(RequestError, match="language: this model hears the language by itself"):
        transcriber.transcribe([noise(4000)], "ja")
    component = registry.load("recogniser", "run")
    recogniser = component(component.Config(folder=str(run.path)))
    recogniser._transcriber = transcriber
    assert recogniser.transcribe([noise(4000)], "ja") == transcriber.transcribe([noise(4000)])

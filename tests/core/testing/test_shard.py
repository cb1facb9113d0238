from __future__ import annotations

from pathlib import Path

import pytest

from kikimimi.contracts import registry
from kikimimi.data.corpus import Corpus
from kikimimi.data.shards.shards import Shards
from kikimimi.recipe import Chosen, Dataset
from kikimimi.testing import write_shard
from kikimimi.testing.records import LABELS


def test_a_shard_is_a_dataset_like_any_other(tmp_path: Path) -> None:
    pattern = write_shard(tmp_path / "new", 12, seed=1)
    shards = Shards("tones", pattern)
    assert len(shards) == 12
    assert ((shards.seconds >= 0.3) & (shards.seconds <= 1.5)).all()
    records = [shards.read(row) for row in range(12)]
    assert {record.json["text"] for record in records} <= set(LABELS)
    assert len({record.json["text"] for record in records}) > 3
    assert {record.json["language"] for record in records} == {"ja"}


def test_a_shard_depends_on_its_seed_alone(tmp_path: Path) -> None:
    first, again, other = (
        Path(write_shard(tmp_path / str(number), seed=seed)).read_bytes()
        for number, seed in enumerate((0, 0, 1))
    )
    assert first == again != other


@pytest.mark.parametrize(("form", "task"), [("clips", "asr"), ("conversations", "chat")])
def test_the_task_of_its_form_takes_it(tmp_path: Path, form: str, task: str) -> None:
    pattern = write_shard(tmp_path, 2, form=form)  # type: ignore[arg-type]
    chosen = Chosen(kind="task", name=task, config=registry.load("task", task).Config())
    corpus = Corpus.open("tones", Dataset(shards=pattern, task=chosen))
    conversation = corpus.conversation(corpus.shards.read(0))
    assert conversation.clips() == ["0.flac"]
    assert conversation.reference() in LABELS


def test_an_empty_shard_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="count: must be at least 1, not 0"):
        write_shard(tmp_path, 0)

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
import torch

from kikimimi import Rendered, Stretch, View
from kikimimi.contracts.batch import Batch, Sample, collate


def rendered(*ids: int, slots: tuple[int, ...] = ()) -> Rendered:
    return Rendered(list(ids), [i == ids[-1] for i in ids], list(slots))


def sample(**views: Rendered) -> Sample:
    return Sample("x/0", rendered(1, 0, 2, slots=(1,)), [torch.ones(4)], views=views)  # type: ignore[arg-type]


def test_views_travel_with_the_batch() -> None:
    pair = sample(rejected=rendered(1, 0, 3, 4, slots=(1,)), written=rendered(1, 7, 2))
    batch = collate([pair, pair])
    there = pickle.loads(pickle.dumps(batch.to(torch.device("meta"))))
    assert set(there.views) == {"rejected", "written"}
    for rows in (there, *there.views.values()):
        assert {rows.ids.device.type, rows.loss.device.type, rows.clips.device.type} == {"meta"}
    assert there.audio.values.device.type == "meta"
    pairs = batch.with_rejected()
    assert not pairs.views
    assert pairs.ids.tolist() == [1, 0, 2, 1, 0, 2, 1, 0, 3, 4, 1, 0, 3, 4]
    assert pairs.slots.tolist() == [1, 4, 7, 11]
    assert pairs.clips.tolist() == [0, 1, 0, 1]
    written = batch.in_writing()
    assert written.ids.tolist() == [1, 7, 2] * 2
    assert (written.audio, written.views, len(written.slots)) == (None, {}, 0)


def test_answers_take_the_place_of_the_last_ones() -> None:
    prompts: dict[str, Rendered] = {"prompt": rendered(1, 0, slots=(1,)), "written_prompt": rendered(1, 7)}
    batch: Batch = collate([sample(**prompts)]).answered([[5, 6]])
    assert batch.ids.tolist() == [1, 0, 5, 6]
    assert batch.loss.tolist() == [False, False, True, True]
    assert list(batch.views) == ["written"]
    assert batch.in_writing().ids.tolist() == [1, 7, 5, 6]


@pytest.mark.parametrize("view", ["rejected", "prompt"])
def test_spoken_views_hold_the_clips(view: View) -> None:
    with pytest.raises(ValueError, match="x/0: 1 clips for 0 audio parts"):
        sample(**{view: rendered(1, 2)})


def test_a_view_is_of_all_conversations() -> None:
    with pytest.raises(ValueError, match="1 of 2 samples have what is said in their clips: all or none"):
        collate([sample(written=rendered(1, 7, 2)), sample()])
    with pytest.raises(ValueError, match="the batch holds no rejected answers"):
        collate([sample()]).with_rejected()


def test_the_last_turn_of_an_answer() -> None:
    """Two answers, of which a template may write nothing between: spans tell them apart."""
    spoken: list[Stretch] = [
        ("text", "user", [1, 2], False),
        ("text", "assistant", [3, 4], True),
        ("template", None, [9], True),
    ]
    again: list[Stretch] = [("text", "assistant", [5], True), ("template", None, [9], True)]
    header: list[Stretch] = [("template", None, [8], False)]
    for between in ([], header):
        made = Rendered.of([*spoken, *between, *again])
        start = 5 + len(between)
        assert made.answer_start == start
        assert made.last_turn().loss == [place >= start for place in range(start + 2)]
        assert made.last_turn().ids == made.ids
    one = Rendered.of(spoken)
    assert (one.answer_start, one.last_turn()) == (2, one)
    asked = Rendered.of(spoken[:1])
    assert (asked.answer_start, asked.last_turn()) == (2, asked)
    # An LLM that tells no spans: the last run of targets.
    bare = Rendered([1, 2, 3, 4], [True, False, False, True], [])
    assert bare.last_turn().loss == [False, False, False, True]


def test_the_last_turns_of_a_batch() -> None:
    first = Rendered([1, 2, 3, 4], [False, True, False, True], [])
    second = Rendered([5, 6, 7], [False, True, True], [])
    samples = [Sample(f"x/{i}", first, [], views={"rejected": second}) for i in range(2)]
    pairs = collate(samples).with_rejected().last_turns()
    alone = [False, False, False, True]
    assert pairs.loss.tolist() == [*alone, *alone, *second.loss, *second.loss]
    assert pairs.to(torch.device("cpu")).answer_starts.tolist() == [3, 3, 1, 1]
    answers = collate(samples).continued([[8, 9], [8]])
    assert answers.last_turns().loss.tolist() == [False] * 4 + [True] * 2 + [False] * 4 + [True]
    unknown = replace(collate(samples), answer_starts=torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="not known where the last turns"):
        unknown.last_turns()

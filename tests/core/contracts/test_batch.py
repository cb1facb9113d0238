from __future__ import annotations

import pickle

import pytest
import torch

from kikimimi import Rendered, View
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

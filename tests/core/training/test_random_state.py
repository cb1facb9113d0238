"""Which numbers each rank draws, from the start of a stage and from a checkpoint."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from kikimimi.training.callbacks.checkpoints import KeepCheckpoints
from kikimimi.training.state.random_state import random_state, restore_random_state, seed_random_state

Drawn = tuple[float, float, float]


def draw() -> Drawn:
    return float(torch.rand(())), float(numpy.random.rand()), random.random()


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = random_state()
    yield
    restore_random_state(before)


def test_seeds_of_ranks_stages_and_steps_differ() -> None:
    drawn = []
    for given in [(0, "asr", 1, 0), (1, "asr", 1, 0), (0, "sft", 1, 0), (0, "asr", 2, 0), (0, "asr", 1, 5)]:
        seed_random_state(*given)
        drawn.append(draw())
    assert all(len({*numbers}) == 5 for numbers in zip(*drawn, strict=True))
    seed_random_state(0, "asr", 1, 0)
    assert draw() == drawn[0]


def begin(rank: int, world_size: int, step: int = 0, saved: list[dict[str, Any]] | None = None) -> Drawn:
    loader: Any = type("Loader", (), {})()
    keeper = KeepCheckpoints(Path("checkpoints/asr"), 1, 1, loader, 2, seed=3)
    keeper._random = saved
    torch.manual_seed(3)
    numpy.random.seed(3)
    random.seed(3)
    keeper._begin_drawing(rank, world_size, step)
    return draw()


def test_the_first_rank_draws_what_one_process_draws() -> None:
    """A stage that begins: what was seeded before holds, of one process and of the first of two."""
    alone = begin(0, 1)
    torch.manual_seed(3)
    assert alone[0] == float(torch.rand(()))
    assert begin(0, 2) == alone
    assert len({alone, begin(1, 2), begin(2, 4), begin(3, 4)}) == 4


def test_as_many_ranks_go_on_where_they_were() -> None:
    saved, expected = [], []
    for rank in range(2):
        begin(rank, 2)
        saved.append(random_state())
        expected.append(draw())
    assert [begin(rank, 2, 7, saved) for rank in range(2)] == expected


def test_another_number_of_ranks_draws_other_numbers() -> None:
    """Not those of the start of the stage, which each rank would draw a second time."""
    saved = [random_state()] * 2
    started = [begin(rank, 4) for rank in range(4)]
    resumed = [begin(rank, 4, 7, saved) for rank in range(4)]
    alone = begin(0, 1, 7, saved)
    assert len({*started, *resumed}) == 8
    assert alone == resumed[0]

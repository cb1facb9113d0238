"""Twenty thousand damaged files: none ends in a traceback, hangs, takes all memory, or is silently shorter.

The slow tests, which CI runs, try a slice; ``pytest -m fuzz`` tries all.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from .harness import Target, run
from .mutations import Unharmed
from .targets import TARGETS

SLICE = 40
"""The slow tests try one mutation of so many."""


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_what_is_not_damaged_is_taken(target: Target, tmp_path: Path) -> None:
    for name, seed in target.seeds(tmp_path).items():
        place = tmp_path / "taken" / name
        place.mkdir(parents=True)
        said = target.attempt(target.mutate(seed, Unharmed(0), place))
        assert said in ("taken whole", "read", "rows taken, others told"), name


def _try(target: Target, numbers: range, folder: Path) -> None:
    outcome = run(target, numbers, folder)
    assert not outcome.failures, "\n\n".join(outcome.failures[:5])
    assert sum(outcome.counts.values()) == len(numbers)
    # Not everything may be refused either: some of what is damaged a little is whole.
    assert len(numbers) < 500 or any(kind != "refused" for kind in outcome.counts)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_slice_of_the_damaged_files_is_taken_or_refused(target: Target, tmp_path: Path) -> None:
    _try(target, range(target.share // SLICE), tmp_path)


def _all(target: Target) -> object:
    mark = pytest.mark.fault(f"Fuzz: {target.name}", target.outcome, cases=target.share)
    return pytest.param(target, marks=mark, id=target.name)


@pytest.mark.fuzz
@pytest.mark.timeout(0)
@pytest.mark.parametrize("target", [_all(target) for target in TARGETS])
def test_every_damaged_file_is_taken_or_refused(target: Target, tmp_path: Path) -> None:
    _try(target, range(target.share), tmp_path)


def test_there_are_twenty_thousand() -> None:
    assert sum(target.share for target in TARGETS) >= 20_000

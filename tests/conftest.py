"""Settings and small parts that many tests share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kikimimi.contracts import registry

# Two cores: one thread per test process keeps runs side by side fast and repeatable.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture
def with_packages(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    """Make the packages of a folder installed in this process: to start another one takes long."""

    def add(site: Path) -> None:
        monkeypatch.syspath_prepend(site)
        registry.refresh()

    yield add
    monkeypatch.undo()
    registry.refresh()

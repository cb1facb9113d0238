"""Settings and small parts that many tests share."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from kikimimi.console.signals import STOP_SIGNALS
from kikimimi.contracts import registry

from .faults import FAULTS, count_faults, page_with, write_page

TESTS = Path(__file__).parent
# Two cores: one thread per test process keeps runs side by side fast and repeatable.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# No test asserts how long anything takes: on a busy machine an example is slow now and then.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-faults", action="store_true", help="write docs/robustness.md anew")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # All tests, before those that are not wanted are left out.
    config.stash[FAULTS] = count_faults(items)
    if config.getoption("--write-faults"):
        write_page(config.stash[FAULTS])
    # The module of a built-in is imported alone once, in test_builtins.py, and not for every config that some
    # other file checks: each test process that does so starts another one, which imports torch.
    alone = ("import_is_quiet]", "import_is_light]", "another_process_draws_the_same]")
    items[:] = [
        item
        for item in items
        if not (item.name.endswith(alone) and item.path.is_relative_to(TESTS))
        or item.path.name == "test_builtins.py"
    ]


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    """Put back what sees to signals: a command takes the process over that it runs in."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, handler in before.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)


@pytest.fixture
def page_of_faults(request: pytest.FixtureRequest) -> str:
    """Return docs/robustness.md as the tests that are collected make it."""
    return page_with(request.config.stash[FAULTS])


@pytest.fixture
def run_pytest(with_packages: Callable[[Path], None]) -> Callable[..., int]:
    """Run tests that have packages of a folder installed, in this process; return how many have passed."""

    def run(site: Path, *tests: Path) -> int:
        with_packages(site)
        count = Count()
        options = ["--import-mode=importlib", "-W", "error", "-p", "no:cacheprovider", "-q", "-c", os.devnull]
        assert pytest.main([*options, *map(str, tests)], plugins=[count]) == 0
        return count.passed

    return run


class Count:
    """Counts the tests that pass."""

    passed = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.passed += report.when == "call" and report.passed


@pytest.fixture
def with_packages(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    """Make the packages of a folder installed in this process: to start another one takes long."""

    def add(site: Path) -> None:
        monkeypatch.syspath_prepend(site)
        registry.refresh()

    yield add
    monkeypatch.undo()
    registry.refresh()

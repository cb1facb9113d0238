from __future__ import annotations

import signal
import sys
import time
import weakref

import pytest

from kikimimi.training.stop import STOPPED, stopping


class Node:
    pass


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGUSR1, SystemExit), (signal.SIGINT, KeyboardInterrupt)]
)
def test_a_signal_where_nothing_can_be_raised_stops_all_the_same(
    number: signal.Signals, error: type[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    heard = []

    def finalise(_: object) -> None:
        heard.append(number)
        signal.raise_signal(number)
        time.sleep(1)  # the signal is raised before

    def stop() -> None:
        node = Node()
        watch = weakref.ref(node, finalise)
        with stopping():
            del node
            assert watch() is None
            time.sleep(10)

    with pytest.raises(error) as raised:
        stop()
    assert heard == [number]
    assert getattr(raised.value, "code", STOPPED) == STOPPED
    assert "Traceback" not in capsys.readouterr().err


def test_what_else_is_lost_goes_to_the_hook_before(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[sys.UnraisableHookArgs] = []
    monkeypatch.setattr("sys.unraisablehook", told.append)

    def finalise(_: object) -> None:
        raise ValueError

    with stopping():
        node = Node()
        watch = weakref.ref(node, finalise)
        del node
        assert watch() is None
    assert [lost.exc_type for lost in told] == [ValueError]

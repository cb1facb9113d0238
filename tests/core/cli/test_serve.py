"""`kikimimi serve`, where it does not start."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]


def test_what_is_no_run(cli: Cli, tmp_path: Path) -> None:
    done = cli("serve", tmp_path)
    assert (done.code, done.out) == (2, "")
    assert done.err == f"error: {tmp_path} is not a run folder (it has no recipe.yaml)\n"


def test_a_network_needs_a_key(cli: Cli, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KIKIMIMI_API_KEY", raising=False)
    done = cli("serve", trained, "--host", "0.0.0.0")
    assert done.code == 2
    assert done.err.startswith(
        "error: --host 0.0.0.0: others can reach it, and anybody could use it: set a key"
    )


@pytest.mark.parametrize("key", ["", " s3cret", "s3cret\n", "\u9375"])
def test_a_key_that_no_client_can_send(
    cli: Cli, trained: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("KIKIMIMI_API_KEY", key)
    done = cli("serve", trained)
    assert done.code == 2
    assert done.err.startswith("error: KIKIMIMI_API_KEY: expected ASCII without white space around it")
    assert "s3cret" not in done.err


def test_a_port_that_is_taken(cli: Cli, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KIKIMIMI_API_KEY", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as other:
        done = cli("serve", trained, "--port", other.getsockname()[1])
    assert (done.code, done.out) == (2, "")
    assert re.fullmatch(
        r"error: --host 127\.0\.0\.1 --port \d+: cannot listen there: Address already in use\n", done.err
    )

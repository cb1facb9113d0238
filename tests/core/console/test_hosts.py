"""By which names a server lets itself be called."""

from __future__ import annotations

import socket

import pytest

from kikimimi.console.hosts import may_call

OWN = socket.gethostname()


@pytest.mark.parametrize(
    ("header", "host", "may"),
    [
        ("localhost:7860", "192.168.0.2", True),
        ("192.168.0.2:7860", "192.168.0.2", True),
        ("192.168.0.3", "192.168.0.2", False),
        ("evil.example", "192.168.0.2", False),
        ("Box.local:80", "box.LOCAL", True),
        ("192.168.0.2", "localhost", False),
        ("192.168.0.2:80", "0.0.0.0", True),
        ("[fe80::1]:80", "::", True),
        (OWN, "0.0.0.0", True),
        ("evil.example", "0.0.0.0", False),
        ("evil.example", "::", False),
        ("", "0.0.0.0", False),
        ("[", "0.0.0.0", False),
    ],
)
def test_who_may_call(header: str, host: str, may: bool) -> None:
    assert may_call(header, host) is may

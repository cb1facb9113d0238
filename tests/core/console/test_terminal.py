from __future__ import annotations

import pytest

from kikimimi.console.terminal import shortened, visible


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("聞き耳 ok - \u00e9 \u3000", "聞き耳 ok - \u00e9 \u3000"),
        ("\x1b[31mred\x07\r\n", "\\x1b[31mred\\x07\\r\\n"),
        ("a\u202eb\u200bc\u2028", "a\\u202eb\\u200bc\\u2028"),
        ("\ud800\U000e0041", "\\ud800\\U000e0041"),
        ("\U0001f600", "\U0001f600"),
    ],
)
def test_nothing_steers_the_terminal(text: str, seen: str) -> None:
    assert visible(text) == seen


def test_line_feeds_may_stay() -> None:
    assert visible("a\nb\r", lines=True) == "a\nb\\r"


def test_what_is_not_shown_is_counted() -> None:
    assert shortened("abc", 3) == "abc"
    assert shortened("a" * 1234, 3) == "aaa ... (1,231 more characters)"

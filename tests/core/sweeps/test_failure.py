from __future__ import annotations

from pathlib import Path

import pytest

from kikimimi.sweeps.failure import failure_cause

TRACE = """$ kikimimi train runs/a
Traceback (most recent call last):
  File "x.py", line 1, in <module>
    f()
ValueError: first
more of it
"""


@pytest.mark.parametrize(
    ("text", "code", "cause"),
    [
        ("$ kikimimi train a\nTraining\nerror: the shard\n  is damaged\n", 1, "the shard\n  is damaged"),
        ("$ kikimimi train a\nerror: old\n$ kikimimi train a\nTraining: 3/4 steps\n", 137, "memory was full"),
        (TRACE, 1, "ValueError: first\nmore of it"),
        ("$ kikimimi train a\n", 3, "exit code 3"),
        ("", 139, "SIGSEGV"),
    ],
)
def test_the_cause_is_the_error_of_the_newest_command(
    tmp_path: Path, text: str, code: int, cause: str
) -> None:
    (tmp_path / "log").write_text(text)
    assert cause in failure_cause(tmp_path / "log", code)


def test_without_a_log_the_exit_code_is_the_cause(tmp_path: Path) -> None:
    assert failure_cause(tmp_path / "log", 1) == "it ended with exit code 1"

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from kikimimi_command_judge import CommandJudge

from kikimimi import JudgePrompt, JudgeReply, RequestError
from kikimimi.testing import Check, parametrize_checks


@parametrize_checks(CommandJudge)
def test_contract(check: Check) -> None:
    check()


def ask(script: str, timeout: float = 60.0) -> JudgeReply:
    config = CommandJudge.Config(command=[sys.executable, "-I", "-S", "-c", script], timeout=timeout)
    ((number, reply),) = CommandJudge(config).ask([JudgePrompt(system="be fair", text="これは")])
    assert number == 0
    return reply


def test_the_program_reads_the_prompt() -> None:
    script = "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read())"
    assert ask(script) == JudgeReply(text="be fair\n\nこれは")


def test_what_goes_wrong_is_a_failure() -> None:
    assert ask("import sys; sys.exit('no model')").failure == "the program ended with 1: no model"
    assert ask("import time; time.sleep(9)", timeout=0.2).failure == "no answer within 0.2 s"


def test_no_such_program(tmp_path: Path) -> None:
    config = CommandJudge.Config(command=[str(tmp_path / "none")])
    with pytest.raises(RequestError, match="there is no program"):
        list(CommandJudge(config).ask([JudgePrompt(system="", text="")]))

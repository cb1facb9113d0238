"""A judge that asks a program."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import MinLen

from kikimimi import Judge, JudgeConfig, JudgePrompt, JudgeReply, PositiveFloat, RequestError


class CommandJudge(Judge):
    """Runs a program for each prompt: what it reads is the prompt, and what it writes the answer."""

    contract_version = 1

    @dataclass(kw_only=True, frozen=True)
    class Config(JudgeConfig):
        """Options of the `command` judge."""

        command: Annotated[list[str], MinLen(1)]
        """The program and its arguments. No shell reads them."""
        timeout: PositiveFloat = 300.0
        """Longest time that an answer may take [s]."""

    config: Config

    @classmethod
    def identity(cls, config: Config) -> str:
        """Return the command: an answer depends on nothing else."""
        return repr(config.command)

    @classmethod
    def example(cls, folder: Path) -> Config:
        """Choose Python as the program; it scores a prompt by its length."""
        script = "import sys; print(min(10, len(sys.stdin.buffer.read()) // 30))"
        return cls.Config(command=[sys.executable, "-I", "-S", "-c", script])

    def ask(self, prompts: Sequence[JudgePrompt]) -> Iterator[tuple[int, JudgeReply]]:
        """Yield the answers, one after the other.

        Raises:
            RequestError: There is no such program.
        """
        program = shutil.which(self.config.command[0])
        if program is None:
            raise RequestError(f"command: there is no program '{self.config.command[0]}'")
        for number, prompt in enumerate(prompts):
            text = f"{prompt.system}\n\n{prompt.text}".encode()
            try:
                done = subprocess.run(
                    [program, *self.config.command[1:]],
                    input=text,
                    capture_output=True,
                    timeout=self.config.timeout,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                yield number, JudgeReply(failure=f"no answer within {self.config.timeout:g} s")
                continue
            if done.returncode:
                said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
                yield number, JudgeReply(failure=f"the program ended with {done.returncode}: {said}")
            else:
                yield number, JudgeReply(text=done.stdout.decode(errors="replace").strip())

"""The contract of a judge: an LLM that is asked in writing how good an answer is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from kikimimi.contracts.options import Options


@dataclass(kw_only=True, frozen=True)
class JudgeConfig(Options):
    """Base of every judge's nested `Config`."""


@dataclass(kw_only=True, frozen=True)
class JudgePrompt:
    """What a judge is asked, in a request of its own.

    Attributes:
        system: What it is told to be.
        text: What the user's turn says.
        vote: Number of the vote. The same words with another number are to be answered anew, which a judge
            that draws its answers does.
    """

    system: str
    text: str
    vote: int = 0


@dataclass(kw_only=True, frozen=True)
class JudgeReply:
    """What came of a prompt.

    Attributes:
        text: What the judge wrote, whole; empty where it failed.
        tokens_in: Tokens of the prompt that were paid for; 0 where that is not known.
        tokens_out: Tokens of the answer.
        failure: Why there is no answer; None where there is one.
    """

    text: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    failure: str | None = None


class Judge(ABC):
    """Answers prompts about answers. Built as `Judge(config)`; what it needs is opened when it is asked.

    What it was asked before is not its affair: whoever asks keeps the replies.
    """

    Config: ClassVar[type[JudgeConfig]]

    def __init__(self, config: Any) -> None:
        self.config = config

    @classmethod
    def identity(cls, config: Any) -> str:
        """Return what its answers depend on; kept ones of another identity are asked for again. No secret is
        in it: it is written to disk. Default: all options.
        """
        return repr(config)

    @classmethod
    def example(cls, folder: Path) -> Any:
        """Make, in a folder, what a judge needs that answers without a network, for the checks of plugins.

        Returns:
            Its config; None, the default, where there is none: then its replies are not checked.
        """
        return None

    def ready(self) -> None:  # noqa: B027 - most need nothing
        """Check that it can be asked, before anything is predicted; it is not asked. Default: it can.

        Raises:
            KikimimiError: Something is missing, such as a key.
        """

    def cost(self, tokens_in: int, tokens_out: int) -> float | None:
        """Return what tokens cost, in the currency of the prices that its options give; None, the default,
        where they give none.
        """
        return None

    @abstractmethod
    def ask(self, prompts: Sequence[JudgePrompt]) -> Iterator[tuple[int, JudgeReply]]:
        """Ask prompts, each by itself; several may be under way at once.

        A caller may stop in the middle (`close`): then no more is asked.

        Args:
            prompts: What is asked.

        Yields:
            The number of a prompt and its reply, as they come: each prompt once, in any order. What goes
            wrong with one prompt is its reply's `failure`.

        Raises:
            KikimimiError: Nothing can be asked, or no more.
        """

"""Asking a judge, and keeping what it answered: an answer is paid for once.

Answers lie in ``$KIKIMIMI_CACHE/judges``, in a file for each judge (its name and identity), one JSON line
each, under the SHA-256 of that identity, of the whole prompt and of the number of the vote. They are written
as they come, so that an interrupted evaluation goes on. What failed, or could not be read, is not kept.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from typing_extensions import TypedDict

from kikimimi.console.progress import Progress
from kikimimi.console.terminal import json_text, say
from kikimimi.console.words import counted
from kikimimi.contracts.judge import Judge, JudgePrompt, JudgeReply
from kikimimi.errors import KikimimiError
from kikimimi.files.cache import cache_folder
from kikimimi.files.reading import file_there, read_json_lines
from kikimimi.files.writing import add_lines, check_target
from kikimimi.recipe.chosen import Chosen

MOST_FAILURES = 20
"""Prompts in a row without an answer after which no more is asked: the judge is not there."""


_Numbered = tuple[int, JudgeReply]


class _Line(TypedDict):
    key: str
    text: str
    tokens_in: int
    tokens_out: int


class Judging:
    """Asks a judge, and keeps what it answered.

    Args:
        judge: The judge, as a recipe chooses it.
        check: Reads an answer; raises a ValueError that says why it cannot be used.
    """

    def __init__(self, judge: Chosen, check: Callable[[str], object]) -> None:
        self._judge, self._check = judge, check

    @cached_property
    def _identity(self) -> str:
        return f"{self._judge.name} {self._judge.component.identity(self._judge.config)}"

    @cached_property
    def path(self) -> Path:
        """The file that the judge's answers are kept in."""
        return cache_folder("judges") / f"{_sha256(self._identity)[:32]}.jsonl"

    def ready(self) -> None:
        """Check that the judge can be asked, unless it was before: it may have answered everything.

        Raises:
            KikimimiError: It cannot.
        """
        if not file_there(self.path):
            self._judge.component(self._judge.config).ready()

    def known(self, prompts: Sequence[JudgePrompt]) -> list[JudgeReply | None]:
        """Return what was answered before; None where nothing was."""
        keys = [self._key(prompt) for prompt in prompts]
        held = self._held(set(keys))
        return [held.get(key) for key in keys]

    def ask(self, prompts: Sequence[JudgePrompt]) -> list[JudgeReply]:
        """Ask what was not answered before; of equal prompts one.

        Returns:
            A reply to each prompt, in order; one that cannot be used is a failure, with its tokens.

        Raises:
            KikimimiError: The judge cannot be asked, or does not answer any more; what it answered is kept.
        """
        keys = [self._key(prompt) for prompt in prompts]
        held = self._held(set(keys))
        missing = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in held}
        if missing:
            held |= self._ask(missing, total=len(set(keys)))
        return [held[key] for key in keys]

    def _ask(self, missing: dict[str, JudgePrompt], total: int) -> dict[str, JudgeReply]:
        check_target(self.path)  # before anything is paid for
        judge: Judge = self._judge.component(self._judge.config)
        keys, found, unanswered = list(missing), dict[str, JudgeReply](), 0
        title = f"Asking judge '{self._judge.name}'"
        with (
            Progress(title, total, "answers", done=total - len(missing)) as bar,
            _closing(judge.ask(list(missing.values()))) as replies,
        ):
            for number, reply in replies:
                unanswered = 0 if reply.failure is None else unanswered + 1
                found[keys[number]] = self._kept(keys[number], reply)
                bar.advance()
                if unanswered == MOST_FAILURES:
                    raise KikimimiError(
                        f"judge '{self._judge.name}' does not answer ({unanswered} prompts in a row; the "
                        f"last: {reply.failure}). What it answered is kept: run the same command again"
                    )
        self._tell(judge, list(found.values()))
        return found

    def _kept(self, key: str, reply: JudgeReply) -> JudgeReply:
        """Write down an answer that can be used; return another one as a failure."""
        if reply.failure is not None:
            return reply
        try:
            self._check(reply.text)
        except ValueError as error:
            return replace(reply, text="", failure=str(error))
        line = _Line(key=key, text=reply.text, tokens_in=reply.tokens_in, tokens_out=reply.tokens_out)
        add_lines(self.path, [json_text(line)])
        return reply

    def _tell(self, judge: Judge, replies: Sequence[JudgeReply]) -> None:
        tokens_in = sum(reply.tokens_in for reply in replies)
        tokens_out = sum(reply.tokens_out for reply in replies)
        cost = judge.cost(tokens_in, tokens_out)
        price = "" if cost is None else f", which cost {cost:.4g} by the prices given"
        say(
            f"judge '{self._judge.name}': asked {counted(len(replies), 'time')}: {tokens_in:,} tokens in, "
            f"{tokens_out:,} out{price}",
            error=True,
        )
        reasons = Counter(reply.failure for reply in replies if reply.failure is not None)
        for reason, number in reasons.most_common(3):
            say(f"judge '{self._judge.name}': {counted(number, 'failure')}: {reason}", error=True)

    def _held(self, keys: set[str]) -> dict[str, JudgeReply]:
        """Return what is kept of prompts, and can be used."""
        damaged: list[str] = []
        lines = read_json_lines(self.path, _Line, damaged_lines=damaged)
        if damaged:
            said = f"{counted(len(damaged), 'damaged line')} left out, the first: {damaged[0]}"
            say(f"{self.path}: {said}", error=True)
        held = {}
        for line in lines:
            if line["key"] in keys:
                with suppress(ValueError):  # it could be read when it was written, by other rules
                    self._check(line["text"])
                    held[line["key"]] = JudgeReply(
                        text=line["text"], tokens_in=line["tokens_in"], tokens_out=line["tokens_out"]
                    )
        return held

    def _key(self, prompt: JudgePrompt) -> str:
        return _sha256(json.dumps([self._identity, prompt.system, prompt.text, prompt.vote]))


@contextmanager
def _closing(replies: Iterator[_Numbered]) -> Iterator[Iterator[_Numbered]]:
    """Close a judge's replies at once, whatever happens: no more is asked, and paid for."""
    try:
        yield replies
    finally:
        if isinstance(replies, Generator):
            replies.close()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()

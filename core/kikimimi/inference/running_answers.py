"""Requests that are answered together, a token at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kikimimi.contracts.answer import Answer
from kikimimi.contracts.generation import Generation
from kikimimi.contracts.precision import autocast
from kikimimi.contracts.running_batch import RunningBatch
from kikimimi.inference.engine import Engine, Opened
from kikimimi.inference.growing_text import GrowingText
from kikimimi.inference.reply import Reply
from kikimimi.inference.sampling import choose


@dataclass
class _Row:
    """An answer that grows.

    Attributes:
        reply: Who waits for it.
        opened: The prompt.
        generator: What its ids are drawn from; None is greedy.
        ids: The ids so far.
        text: Their text.
    """

    reply: Reply
    opened: Opened
    generator: torch.Generator | None
    ids: list[int] = field(default_factory=list)
    text: GrowingText = field(default_factory=GrowingText)


class RunningAnswers:
    """A batch of answers: each step gives every one a token; who is done leaves.

    Args:
        engine: The engine, whose model continues them.
        batch: The LLM's rows, none of which is taken yet.
        hears: Whether low-rank updates that act only beside audio act here; None where there are none.
    """

    def __init__(self, engine: Engine, batch: RunningBatch, hears: bool | None) -> None:
        self._engine, self._batch, self._hears = engine, batch, hears
        self._rows: list[_Row] = []
        self._logits = torch.empty(0, 0)  # (B, V) of the tokens that come next

    def __len__(self) -> int:
        return len(self._rows)

    def takes(self, prompt: Opened, generation: Generation) -> bool:
        """Whether a prompt can be answered a token at a time."""
        return self._batch.takes(len(prompt.embeddings), generation)

    def enter(self, entering: Sequence[tuple[Reply, Opened]]) -> None:
        """Let requests in; there may be none."""
        if not entering:
            return
        logits = self._run(lambda: self._batch.enter([prompt.embeddings for _, prompt in entering]))
        self._logits = torch.cat([self._logits, logits]) if self._rows else logits
        for reply, prompt in entering:
            reply.prompt_tokens = len(prompt.embeddings)
            sampled = reply.generation.temperature > 0
            generator = torch.Generator(self._engine.device).manual_seed(prompt.seed) if sampled else None
            self._rows.append(_Row(reply, prompt, generator))

    def step(self) -> None:
        """Give every answer its next token, and let those go that end, or that nobody waits for."""
        self._keep([not row.reply.cancelled for row in self._rows])
        for row, logits in zip(self._rows, self._logits, strict=True):
            row.ids.append(choose(logits, row.reply.generation, row.generator))
            row.reply.tokens = len(row.ids)
        self._keep([not self._tell(row) for row in self._rows])
        if self._rows:
            last = torch.tensor([row.ids[-1] for row in self._rows], device=self._engine.device)
            self._logits = self._run(lambda: self._batch.step(last))

    def give_up(self, error: BaseException | None) -> None:
        """End all of them, with an error or cancelled."""
        for row in self._rows:
            if error is None:
                row.reply.cancel()
            else:
                row.reply.end(error=error)
        self._keep([False] * len(self._rows))

    def _tell(self, row: _Row) -> bool:
        """Hand on what is new of an answer; return whether that was all."""
        ended = self._batch.ended(row.ids)
        cut = ended is None and len(row.ids) >= row.opened.allowed
        written = self._engine.written(row.opened.asked, row.ids if ended is None else ended)
        if ended is None and not cut:
            if piece := row.text.grow(written):
                row.reply.give(piece)
            return False
        answer = Answer(written, cut=cut).spoken
        if piece := row.text.end(answer):
            row.reply.give(piece)
        row.reply.end(answer)
        return True

    def _keep(self, staying: Sequence[bool]) -> None:
        if all(staying):
            return
        numbers = [number for number, stays in enumerate(staying) if stays]
        self._rows = [self._rows[number] for number in numbers]
        self._logits = self._logits[torch.tensor(numbers, dtype=torch.int64, device=self._logits.device)]
        self._batch.keep(numbers)

    def _run(self, compute: Callable[[], Tensor]) -> Tensor:
        if self._hears is not None and self._engine.model.gate is not None:
            self._engine.model.gate.set(self._hears)
        with torch.inference_mode(), autocast(self._engine.precision, self._engine.device):
            return compute().float()

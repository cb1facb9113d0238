"""Models and engines whose answers a test knows."""

from __future__ import annotations

import threading
from typing import Any

import torch

from kikimimi import Generation
from kikimimi.contracts.answer import Answer
from kikimimi.inference.engine import Prompt
from kikimimi.inference.live import BusyError
from kikimimi.inference.reply import Reply
from kikimimi.serving.service import Service


def scatter(service: Service) -> Service:
    """Give adapter and LLM weights by which each clip has a text of its own."""
    generator = torch.Generator().manual_seed(0)
    for name, weight in service.engine.engine.model.named_parameters():
        if not name.startswith("encoder") and weight.dim() == 2:
            width = 1.0 if "embed" in name else weight.shape[1] ** -0.5
            weight.data.copy_(4 * width * torch.randn(weight.shape, generator=generator))
    return service


class ByHand:
    """An engine whose answers the test gives: `asked` are the replies that wait for them."""

    def __init__(self, of: Any, most: int = 100) -> None:
        self.engine, self._most = of, most
        self.asked: list[Reply] = []
        self._changed = threading.Condition()

    def submit(self, prompt: Prompt, generation: Generation, listener: Any = None) -> Reply:
        reply = Reply(prompt, generation, listener)
        with self._changed:
            if len(self.asked) >= self._most:
                raise BusyError("full")
            self.asked.append(reply)
            self._changed.notify_all()
        return reply

    def reply(self, number: int = 0) -> Reply:
        """Wait until so many were asked before, and return the next."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.asked) > number, 30)
            return self.asked[number]

    waiting = 0

    def close(self) -> None:
        pass


def answer(reply: Reply, *pieces: str, cut: bool = False) -> None:
    """Answer as the engine does."""
    reply.prompt_tokens, reply.tokens = 7, len(pieces)
    for piece in pieces:
        reply.give(piece)
    reply.end(Answer("".join(pieces), cut=cut))

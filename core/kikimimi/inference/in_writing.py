"""An LLM that is asked in writing alone, with no ears: of a run, or as recipes name LLMs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from kikimimi.contracts.answer import open_thought
from kikimimi.contracts.component import LLM, Rendered
from kikimimi.contracts.conversation import Conversation
from kikimimi.contracts.generation import Generation
from kikimimi.contracts.precision import autocast
from kikimimi.inference.load import load_model
from kikimimi.inference.sampling import drawn_by_row, prompt_seed
from kikimimi.model.assembly import pretrained_llm
from kikimimi.recipe.chosen import Chosen
from kikimimi.run.folder import RunFolder

_TAIL = 32  # tokens at the end of a prompt, in which a thought may be opened


@dataclass(frozen=True)
class WrittenAnswer:
    """What an LLM wrote.

    Attributes:
        text: The text, thoughts included, without white space around it.
        cut: Whether it ended because no more tokens were allowed.
        tokens_in: Tokens of the prompt.
        tokens_out: Tokens of the answer.
    """

    text: str
    cut: bool
    tokens_in: int
    tokens_out: int


class WrittenLLM:
    """An LLM that is asked in writing.

    Args:
        llm: The LLM, in eval mode; it is moved to the device.
        device: Where it runs; ``auto`` is a GPU if there is one.
        precision: Number format of computing, as a recipe spells it; that of fp32 is the weights' own.
    """

    def __init__(self, llm: LLM, device: Literal["auto", "cpu", "cuda"], precision: str = "fp32") -> None:
        found = "cuda" if torch.cuda.is_available() else "cpu"
        self._device = torch.device(found if device == "auto" else device)
        self._llm, self._precision = llm.to(self._device), precision

    @classmethod
    def of_run(cls, folder: Path, device: Literal["auto", "cpu", "cuda"] = "auto") -> WrittenLLM:
        """Take the LLM of a run folder with the weights that it was trained to.

        Raises:
            RunError: It is no run folder, or holds no trained weights.
        """
        run = RunFolder.open(folder)
        model = load_model(run)
        if model.gate is not None:
            model.gate.set(False)
        return cls(model.llm, device, run.recipe.trainer.precision)

    @classmethod
    def of(cls, chosen: Chosen, device: Literal["auto", "cpu", "cuda"] = "auto") -> WrittenLLM:
        """Take an LLM as recipes name it (section ``llm``).

        Raises:
            WeightsError: Its weights are missing or do not fit.
        """
        return cls(pretrained_llm(chosen, "llm"), device)

    def answer(
        self, prompts: Sequence[Conversation], generation: Generation, seeds: Sequence[int]
    ) -> list[WrittenAnswer | str]:
        """Answer prompts together.

        Args:
            prompts: Turns up to the user's last one, without audio.
            generation: How text is generated.
            seeds: What seeds the sampling of each, beside its own words.

        Returns:
            An answer to each, or why there is none.
        """
        rendered = [self._render(prompt) for prompt in prompts]
        rows = [row for row, one in enumerate(rendered) if isinstance(one, Rendered)]
        drawn = [prompt_seed(seeds[row], prompts[row], []) for row in rows]
        ids = [one.ids for one in rendered if isinstance(one, Rendered)]
        found: list[WrittenAnswer | str] = [one if isinstance(one, str) else "" for one in rendered]
        for row, own, new, allowed in zip(rows, ids, *self._continue(ids, generation, drawn), strict=True):
            thought = open_thought(self._llm.decode(own[-_TAIL:]))
            text = f"{thought or ''}{self._llm.decode(new).strip()}"
            found[row] = WrittenAnswer(text, len(new) >= allowed, len(own), len(new))
        return found

    def _render(self, prompt: Conversation) -> Rendered | str:
        try:
            found = self._llm.render(prompt, generate=True)
        except ValueError as error:
            return str(error)
        context, room = self._llm.context_length, 1 if self._llm.causal else 0
        if context is not None and len(found.ids) + room > context:
            return f"a prompt of {len(found.ids)} tokens leaves no room in the LLM's context of {context}"
        return found

    @torch.inference_mode()
    def _continue(
        self, ids: list[list[int]], generation: Generation, seeds: list[int]
    ) -> tuple[list[list[int]], list[int]]:
        """Return the new ids of each prompt, and how many it was allowed."""
        if not ids:
            return [], []
        context = self._llm.context_length if self._llm.causal else None
        room = generation.max_new_tokens if context is None else context - max(map(len, ids))
        allowed = min(generation.max_new_tokens, room)
        draws = drawn_by_row(seeds, self._device) if generation.temperature > 0 else nullcontext()
        with draws, autocast(self._precision, self._device):
            embedded = [self._llm.embed(torch.tensor(own, device=self._device)) for own in ids]
            return self._llm.generate(embedded, generation), [allowed] * len(ids)

"""LLM-jp's instruct models: LLM-jp-3 and LLM-jp-4, Llama-class decoders with templates of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from kikimimi import LLMContext
from kikimimi_llms.harmony import Harmony
from kikimimi_llms.llama import Llama
from kikimimi_llms.pretrained import PINNED, Pretrained


class LLMJP(Llama):
    """A Llama-class model of LLM-jp (LLM-jp 2024, arXiv 2407.03963).

    The chat template is the tokenizer's own: LLM-jp-3 asks and answers under `###` headings and prints one
    fixed system line, so that a system turn has to say just that or be left out; `chat_template: llm_jp_3`
    takes any. LLM-jp-4 writes messages with channels (OpenAI's Harmony): an answer is the message of the
    final channel, and what the model thinks before it, in other channels, is left out of the text.

    LLM-jp-4's tokenizer is Python code of its repository. It is run only where `remote_code` says so.
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(Llama.Config):
        """Options of the `llm_jp` LLM."""

        remote_code: bool = False
        """Whether the tokenizer's own code from the Hub may run, with all the rights of this process; then
        `weights` has to be a Hub id at one commit: org/name@COMMIT, 40 hexadecimal digits."""

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.remote_code and not PINNED.fullmatch(self.weights):
                raise ValueError(
                    f"remote_code: true runs code from the Hub, so weights has to name one commit of it "
                    f"(org/name@ and 40 hexadecimal digits), not {self.weights!r}"
                )

    def __init__(self, config: Config, context: LLMContext) -> None:
        super().__init__(config, context, name="llm_jp")
        self._harmony = Harmony.find(self.tokenizer)
        if self._harmony is not None:
            self.chat.stop_ids = self._harmony.stop_ids(self.chat.stop_ids)

    @classmethod
    def tiny_config(cls, config: Any | None = None) -> Any:
        """Return a from-scratch config of 2 layers x 64 with a byte tokenizer, tied as `config` is."""
        given = cls.Config() if config is None else config
        return super().tiny_config(replace(given, remote_code=False))

    def _find_pretrained(self) -> Pretrained:
        return Pretrained(self.config.weights, remote_code=self.config.remote_code)

    def _stopping(self) -> StoppingCriteriaList:
        return StoppingCriteriaList([] if self._harmony is None else [_FinalMessage(self._harmony)])

    def _until_stop(self, ids: list[int]) -> list[int]:
        ids = super()._until_stop(ids)
        return ids if self._harmony is None else self._harmony.until_answered(ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids without control tokens, and without the channels that are not the answer."""
        return super().decode(ids if self._harmony is None else self._harmony.answer(ids))


class _FinalMessage(StoppingCriteria):  # type: ignore[misc]
    """Stops where the message of the final channel is closed, which may look like any message's end."""

    def __init__(self, harmony: Harmony) -> None:
        self.harmony = harmony

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        done = [self.harmony.is_answered(row) for row in input_ids.tolist()]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)

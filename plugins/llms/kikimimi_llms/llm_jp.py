"""LLM-jp's instruct models, and the format that LLM-jp-4 writes: OpenAI's Harmony."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from kikimimi import LLMContext
from kikimimi_llms.decoder import Llama
from kikimimi_llms.pretrained import PINNED, Pretrained

FINAL = "final"


@dataclass(frozen=True)
class Piece:
    """Ids of a generated answer that belong together.

    Attributes:
        channel: The message's channel; None before any header.
        ids: The message's text.
        closed: Whether the message's end follows.
    """

    channel: str | None
    ids: list[int]
    closed: bool


class Harmony:
    """Reads messages with channels from ids that follow the header `<|start|>assistant`.

    A message is `<|start|>ROLE<|channel|>CHANNEL<|message|>TEXT` and ends with `<|end|>`, `<|return|>` or
    `<|call|>`. The parts are told apart by their ids, for text may spell the same tokens.

    Args:
        tokenizer: A tokenizer with Harmony's control tokens.
    """

    def __init__(self, tokenizer: Any) -> None:
        ids = tokenizer.get_vocab()
        self._tokenizer = tokenizer
        self._headers = {ids[token] for token in ("<|start|>", "<|channel|>") if token in ids}
        self._channel, self._message = ids["<|channel|>"], ids["<|message|>"]
        self._end = ids["<|end|>"]
        self._ends = {ids[token] for token in ("<|end|>", "<|return|>", "<|call|>") if token in ids}

    @classmethod
    def find(cls, tokenizer: Any) -> Self | None:
        """Return the format where a tokenizer has its control tokens, else None."""
        vocabulary = tokenizer.get_vocab()
        needed = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>")
        return cls(tokenizer) if all(token in vocabulary for token in needed) else None

    def stop_ids(self, given: Sequence[int]) -> list[int]:
        """Return the ids that end an answer wherever they stand: `<|end|>` ends a thought too."""
        return sorted((set(given) | self._ends) - {self._end})

    def is_answered(self, ids: Sequence[int]) -> bool:
        """Whether ids end where a message of the final channel, or of none, is closed."""
        if not ids or ids[-1] != self._end:
            return False
        *_, last = self.pieces(ids)
        return last.closed and last.channel in (FINAL, None)

    def until_answered(self, ids: Sequence[int]) -> list[int]:
        """Return the ids up to the end of the first message of the final channel, without that end."""
        for place, token in enumerate(ids):
            if token == self._end and self.is_answered(ids[: place + 1]):
                return list(ids[:place])
        return list(ids)

    def answer(self, ids: Sequence[int]) -> list[int]:
        """Return the ids of the text of the final channel, and of what stands in no message."""
        return [token for piece in self.pieces(ids) if piece.channel in (FINAL, None) for token in piece.ids]

    def pieces(self, ids: Sequence[int]) -> Iterator[Piece]:
        """Split ids into texts by the headers between them."""
        channel: str | None = None
        text: list[int] = []
        header: list[int] | None = None  # the ids since the last control token of a header
        for token in ids:
            if token in self._ends:
                yield Piece(channel, text, closed=True)
                channel, text, header = None, [], None
            elif token in self._headers:
                if header is None and text:
                    yield Piece(channel, text, closed=False)
                    text = []
                header = []
                if token != self._channel:
                    channel = None
            elif token == self._message:
                name = self._tokenizer.decode(header or []).split()
                channel = name[0] if name else channel
                header = None
            elif header is None:
                text.append(token)
            else:
                header.append(token)
        if text:
            yield Piece(channel, text, closed=False)


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
        `tokenizer`, or without it `weights`, has to be a Hub id at one commit: org/name@COMMIT, 40
        hexadecimal digits."""

        def __post_init__(self) -> None:
            super().__post_init__()
            option = "weights" if self.tokenizer is None else "tokenizer"
            source = str(getattr(self, option))
            if self.remote_code and not PINNED.fullmatch(source):
                raise ValueError(
                    f"remote_code: true runs code from the Hub, so {option} has to name one commit of it "
                    f"(org/name@ and 40 hexadecimal digits), not {source!r}"
                )

    name = "llm_jp"

    def __init__(self, config: Config, context: LLMContext) -> None:
        super().__init__(config, context)
        self._harmony = Harmony.find(self.tokenizer)
        if self._harmony is not None:
            self.chat.stop_ids = self._harmony.stop_ids(self.chat.stop_ids)

    @classmethod
    def tiny_config(cls, config: Any | None = None) -> Any:
        """Return a from-scratch config of 2 layers x 64 with a byte tokenizer, tied as `config` is."""
        given = cls.Config() if config is None else config
        return super().tiny_config(replace(given, remote_code=False))

    def _tokenizer_source(self) -> Pretrained:
        return Pretrained(self.config.tokenizer or self.config.weights, remote_code=self.config.remote_code)

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

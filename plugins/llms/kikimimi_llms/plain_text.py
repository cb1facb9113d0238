"""A conversation as an encoder-decoder reads it: the prompt as plain text, then the answer."""

from __future__ import annotations

from typing import Any

from kikimimi import Conversation, Rendered
from kikimimi.text import AUDIO_ID, SLOT_ID, GuardedTokenizer, check_fast, control_tokens, flatten, one_token


class PlainText:
    """A tokenizer that writes a prompt, the end-of-sequence token, an answer, and that token again.

    The turns of the prompt stand on lines of their own, earlier answers among them. No text can become a
    control token.

    Args:
        tokenizer: A fast tokenizer of transformers with an end-of-sequence token.
        source: What to call it in messages.
        audio_start: Control token to put before every slot, or None.
        audio_end: Control token to put after every slot, or None.

    Attributes:
        tokenizer: The tokenizer.
        end: The id that ends prompt and answer.

    Raises:
        ValueError: It is no fast tokenizer, or a token does not exist.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        source: str,
        audio_start: str | None = None,
        audio_end: str | None = None,
    ) -> None:
        check_fast(tokenizer, source=source)
        if tokenizer.eos_token_id is None:
            raise ValueError(f"{source}: the tokenizer has no end-of-sequence token")
        self.tokenizer = tokenizer
        self.end = int(tokenizer.eos_token_id)
        self._audio_start = one_token(tokenizer, audio_start, option="audio_start", source=source)
        self._audio_end = one_token(tokenizer, audio_end, option="audio_end", source=source)
        markers = [token for token in (audio_start, audio_end) if token is not None]
        self._guarded = GuardedTokenizer(tokenizer, control_tokens(tokenizer, markers), source=source)

    def render(self, conversation: Conversation, *, generate: bool = False) -> Rendered:
        """Render to ids, loss mask and slots.

        Args:
            conversation: The turns. The last one is what is learnt, where it is the assistant's.
            generate: All turns are the prompt.

        Raises:
            ValueError: An answer holds audio, or a text cannot be encoded without forming a control token.
        """
        asked = conversation if generate else conversation.prompt()
        rendered = Rendered([], [], [])
        self._append(rendered, "\n".join(flatten(message) for message in asked.messages), loss=False)
        answers = conversation.messages[len(asked.messages) :]
        for message in answers:
            before = len(rendered.slots)
            self._append(rendered, flatten(message), loss=True)
            if len(rendered.slots) > before:
                raise ValueError("an answer that is to be learnt holds audio")
        return rendered

    def _append(self, rendered: Rendered, text: str, *, loss: bool) -> None:
        for token in self._guarded.encode(text, [(0, len(text))]):
            if token.id == AUDIO_ID:
                rendered.ids.extend(self._audio_start)
                rendered.slots.append(len(rendered.ids))
                rendered.ids.extend([SLOT_ID, *self._audio_end])
            else:
                rendered.ids.append(token.id)
        rendered.ids.append(self.end)
        rendered.loss.extend([loss] * (len(rendered.ids) - len(rendered.loss)))

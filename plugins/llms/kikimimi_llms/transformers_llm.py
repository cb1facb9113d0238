"""What LLMs of transformers share: a model and a tokenizer, pretrained or from scratch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import AutoTokenizer
from transformers.initialization import no_init_weights

from kikimimi import LLM, LLMContext, TokenizerVocabulary, Vocabulary
from kikimimi_llms.pretrained import Pretrained
from kikimimi_llms.scratch_tokenizer import build_tokenizer

TOKENIZER_FOLDER = "tokenizer"


class TransformersLLM(LLM):
    """An LLM of transformers. A subclass sets `model`, by `_new_model`, and the sizes.

    Args:
        config: Options, with `weights`, `from_scratch`, `audio_start` and `audio_end`.
        context: What the assembly knows.

    Attributes:
        model: The model with its head.
        tokenizer: The tokenizer, which has no parameters and is no module.
    """

    model: Any
    fills_pieces = True

    def __init__(self, config: Any, context: LLMContext) -> None:
        super().__init__(config, context)
        self._pretrained = None if config.weights == "random" else self._find_pretrained()
        self.tokenizer = self._build_tokenizer()

    @abstractmethod
    def _build_model(self) -> Any:
        """Build the model with random or unspecified weights."""

    def _find_pretrained(self) -> Pretrained:
        return Pretrained(self.config.weights)

    def _new_model(self) -> Any:
        """Return the model, with random weights where `load_weights` brings none."""
        # What it overwrites need not be drawn at random first: minutes for 8 B parameters.
        with nullcontext() if self._pretrained is None else no_init_weights():
            model = self._build_model()
        model.tie_weights()
        return model

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokenizer's tokens."""
        return TokenizerVocabulary(self.tokenizer, self.vocab_size)

    def load_weights(self) -> None:
        """Fill the model from its files; from scratch there is nothing to load.

        Raises:
            WeightsError: The tensors do not fit the architecture.
        """
        if self._pretrained is not None:
            self._pretrained.load_into(self.model)

    def save_assets(self, folder: Path) -> None:
        """Save a tokenizer that was built from the training data."""
        if self._pretrained is None:
            self.tokenizer.save_pretrained(folder / TOKENIZER_FOLDER)

    def embed(self, ids: Tensor) -> Tensor:
        """Embed (L,) ids to (L, D), scaled where the model scales embeddings before its layers."""
        embedded: Tensor = self.model.get_input_embeddings()(ids)
        return embedded

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids without control tokens."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def _build_tokenizer(self) -> Any:
        scratch, assets = self.config.from_scratch, self.context.assets
        markers = [token for token in (self.config.audio_start, self.config.audio_end) if token is not None]
        if self._pretrained is not None and self.context.measured:
            return build_tokenizer("bytes", (), markers)
        if self._pretrained is not None:
            return self._pretrained.tokenizer()
        if assets is not None:
            return AutoTokenizer.from_pretrained(assets / TOKENIZER_FOLDER)
        if scratch.tokenizer == "characters" and self.context.texts is None:
            raise ValueError(
                "llm.scratch.tokenizer is 'characters', which is built from the training data, and there is "
                "none yet. Make the data first, or set llm.scratch.tokenizer=bytes."
            )
        texts = self.context.texts() if self.context.texts else ()
        return build_tokenizer(scratch.tokenizer, texts, markers)

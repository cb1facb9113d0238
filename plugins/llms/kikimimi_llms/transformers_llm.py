"""What LLMs of transformers share: a model and a tokenizer, pretrained or from scratch, and generation."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from itertools import takewhile
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, GenerationConfig
from transformers.initialization import no_init_weights

from kikimimi import LLM, DataError, Generation, LLMContext, TokenizerVocabulary, Vocabulary
from kikimimi_llms.pretrained import Pretrained
from kikimimi_llms.scratch import build_tokenizer

TOKENIZER_FOLDER = "tokenizer"


class TransformersLLM(LLM):
    """An LLM of transformers. A subclass sets `model`, by `_new_model`, and the sizes.

    Args:
        config: Options, with `weights`, `from_scratch`, `audio_start` and `audio_end`.
        context: What the assembly knows.

    Attributes:
        model_classes: transformers' class of the model by that of its configuration.
        model: The model with its head.
        tokenizer: The tokenizer, which has no parameters and is no module.
    """

    model_classes: ClassVar[Mapping[Any, Any]]
    model: Any
    fills_pieces = True

    def __init__(self, config: Any, context: LLMContext) -> None:
        super().__init__(config, context)
        self._pretrained = None if config.weights == "random" else self._find_pretrained()
        self.tokenizer = self._build_tokenizer()

    @abstractmethod
    def _scratch_config(self, scratch: Any) -> Any:
        """Return transformers' configuration of a model from scratch."""

    @abstractmethod
    def _checked_config(self, pretrained: Pretrained) -> Any:
        """Return transformers' configuration of a pretrained model.

        Raises:
            WeightsError: It is of another kind.
        """

    def _find_pretrained(self) -> Pretrained:
        return Pretrained(self.config.weights)

    def _tokenizer_source(self) -> Pretrained:
        """Return the files that the tokenizer is read from; default: those of the weights."""
        assert self._pretrained is not None
        return self._pretrained

    def _new_model(self) -> Any:
        """Return the model, with random weights where `load_weights` brings none."""
        # What it overwrites need not be drawn at random first: minutes for 8 B parameters.
        with nullcontext() if self._pretrained is None else no_init_weights():
            if self._pretrained is None:
                config = self._scratch_config(self.config.from_scratch)
            else:
                config = self._checked_config(self._pretrained)
            model = self.model_classes[type(config)](config)
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
            return self._tokenizer_source().tokenizer()
        if assets is not None:
            return _load_tokenizer(assets / TOKENIZER_FOLDER)
        if scratch.tokenizer == "characters" and self.context.texts is None:
            raise ValueError(
                "llm.scratch.tokenizer is 'characters', which is built from the training data, and there is "
                "none yet. Make the data first, or set llm.scratch.tokenizer=bytes."
            )
        texts = self.context.texts() if self.context.texts else ()
        return build_tokenizer(scratch.tokenizer, texts, markers)

    def _continue(
        self, prompts: Sequence[Tensor], generation: Generation, stop_ids: Sequence[int], **others: Any
    ) -> list[list[int]]:
        """Continue prompts (L_i, D), padded on the left, with transformers' `generate`.

        Nothing of a model's own generation_config.json is mixed in.

        Args:
            prompts: What is continued.
            generation: How.
            stop_ids: What ends an answer.
            others: Further arguments of `generate`.

        Returns:
            The ids of each answer, with what comes after its end.
        """
        longest = max(len(prompt) for prompt in prompts)
        embeddings = torch.stack([nn.functional.pad(p, (0, 0, longest - len(p), 0)) for p in prompts])
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=embeddings.device)
        mask = torch.arange(longest, device=embeddings.device) >= longest - lengths[:, None]
        drawn = {"temperature": generation.temperature, "top_p": generation.top_p, "top_k": 0}
        settings = GenerationConfig(
            max_new_tokens=generation.max_new_tokens,
            do_sample=generation.temperature > 0,
            num_beams=generation.num_beams,
            eos_token_id=list(stop_ids),
            pad_token_id=stop_ids[0],
            decoder_start_token_id=getattr(self.model.config, "decoder_start_token_id", None),
            **(drawn if generation.temperature > 0 else {}),
        )
        with torch.inference_mode():
            output = self.model.generate(
                inputs_embeds=embeddings, attention_mask=mask.long(), generation_config=settings, **others
            )
        answers: list[list[int]] = output.tolist()
        return answers


def until_stop(ids: list[int], stop_ids: Sequence[int]) -> list[int]:
    """Return the ids before the first one that ends an answer."""
    return list(takewhile(lambda token: token not in stop_ids, ids))


def _load_tokenizer(folder: Path) -> Any:
    try:
        return AutoTokenizer.from_pretrained(folder)
    except Exception as error:
        raise DataError(
            f"{folder}: the tokenizer cannot be read: {error}. Restore it from a copy of the run folder"
        ) from error

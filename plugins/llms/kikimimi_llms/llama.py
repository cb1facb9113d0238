"""Llama-class decoders, pretrained from any weights source or from scratch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
)
from transformers.initialization import no_init_weights
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from kikimimi import (
    LLM,
    ComponentConfig,
    Conversation,
    Generation,
    LLMContext,
    Rendered,
    TokenizerVocabulary,
    Vocabulary,
    WeightsError,
    WeightsFiles,
    find_weights,
)
from kikimimi.attention import install, packed_arguments
from kikimimi.chat_template import ChatTemplate
from kikimimi.errors import MissingExtraError
from kikimimi.weights import load_state
from kikimimi_llms.scratch_tokenizer import build_tokenizer

TOKENIZER_FOLDER = "tokenizer"


@dataclass(kw_only=True, frozen=True)
class Scratch:
    """Sizes of a Llama that is trained from scratch."""

    dim: int = 256
    """Width D of embeddings and residual stream."""
    num_layers: int = 4
    """Decoder layers."""
    num_heads: int = 4
    """Attention heads; they divide `dim`."""
    num_kv_heads: int | None = None
    """Key-value heads (grouped-query attention); None is as many as `num_heads`."""
    ffn_dim: int = 1024
    """Inner width of the gated feed-forward network."""
    context_length: int = 2048
    """Longest sequence [positions]."""
    tie_embeddings: bool = True
    """Whether the output head is the embedding table."""
    dropout: float = 0.0
    """Dropout of the attention weights while training [probability]."""
    tokenizer: Literal["characters", "bytes"] = "characters"
    """What a token is: a character of the training data, or a UTF-8 byte."""

    def __post_init__(self) -> None:
        if self.dim % self.num_heads:
            raise ValueError(f"num_heads ({self.num_heads}) must divide dim ({self.dim})")
        if self.num_kv_heads is not None and self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_kv_heads ({self.num_kv_heads}) must divide num_heads ({self.num_heads})")


class Llama(LLM):
    """A Llama decoder (Touvron et al. 2023, arXiv 2302.13971) through transformers' `LlamaForCausalLM`."""

    @dataclass(kw_only=True, frozen=True)
    class Config(ComponentConfig):
        """Options of the `llama` LLM."""

        weights: str = "random"
        """A Hub id, a folder, `package:...` (a GGUF file too), or `random` to train from scratch."""
        scratch: Scratch | None = None
        """Sizes and tokenizer; needed with `weights: random`, refused with any other."""

        def __post_init__(self) -> None:
            if self.weights == "random" and self.scratch is None:
                raise ValueError(
                    "weights is random, so the sizes are needed: set scratch, e.g. scratch: {dim: 256}"
                )
            if self.weights != "random" and self.scratch is not None:
                raise ValueError(f"scratch is read only with weights: random, not with {self.weights!r}")

    config: Config

    def __init__(self, config: Config, context: LLMContext) -> None:
        super().__init__(config, context)
        self._files = find_weights(config.weights)
        self._gguf = self._find_gguf()
        # An attribute that is not a module: the tokenizer has no parameters.
        self.chat = ChatTemplate(self._build_tokenizer(), source=f"llm 'llama' ({config.weights})")
        # What `load_weights` overwrites need not be drawn at random first: minutes for 8 B parameters.
        with nullcontext() if self._files is None else no_init_weights():
            self.model: Any = LlamaForCausalLM(self._model_config())
        self.model.tie_weights()
        self.model.set_attn_implementation(install())
        self.dim = self.model.config.hidden_size
        self.vocab_size = self.model.config.vocab_size
        self.context_length = self.model.config.max_position_embeddings

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokenizer's tokens."""
        return TokenizerVocabulary(self.chat.tokenizer, self.vocab_size)

    @classmethod
    def tiny_config(cls, config: Any | None = None) -> Config:
        """Return a from-scratch config of 2 layers x 64 with a byte tokenizer, tied as `config` is."""
        scratch = config.scratch if config is not None and config.scratch is not None else Scratch()
        return cls.Config(
            scratch=replace(
                scratch,
                dim=64,
                num_layers=2,
                num_heads=4,
                num_kv_heads=2 if scratch.num_kv_heads else None,
                ffn_dim=128,
                tokenizer="bytes",
            )
        )

    def load_weights(self) -> None:
        """Fill from safetensors or GGUF; from scratch there is nothing to load.

        Raises:
            WeightsError: The tensors do not fit the architecture.
        """
        if self._files is None:
            return
        if self._gguf is None:
            state = self._files.state_dict()
            if self.model.config.tie_word_embeddings:
                state.pop("lm_head.weight", None)
            load_state(self.model, state, source=self._files.source, ignore=self._tied())
            return
        loaded = AutoModelForCausalLM.from_pretrained(self._gguf.parent, gguf_file=self._gguf.name)
        load_state(self.model, loaded.state_dict(), source=str(self.config.weights))

    def _tied(self) -> tuple[str, ...]:
        return ("lm_head.weight",) if self.model.config.tie_word_embeddings else ()

    def shard_classes(self) -> set[type[nn.Module]]:
        """Return the decoder layer's class."""
        return {LlamaDecoderLayer}

    def save_assets(self, folder: Path) -> None:
        """Save a tokenizer that was built from the training data."""
        if self.config.scratch is not None:
            self.chat.tokenizer.save_pretrained(folder / TOKENIZER_FOLDER)

    def render(self, conversation: Conversation, *, generate: bool = False) -> Rendered:
        """Render through the tokenizer's chat template; see `ChatTemplate.render`."""
        return self.chat.render(conversation, generate=generate)

    def embed(self, ids: Tensor) -> Tensor:
        """Embed (L,) ids to (L, D)."""
        embedded: Tensor = self.model.get_input_embeddings()(ids)
        return embedded

    def forward(self, embeddings: Tensor, lengths: Tensor, select: Tensor) -> Tensor:
        """Run a pack (N, D); return (M, V) logits at the selected positions, formed nowhere else."""
        hidden = self.model.model(**packed_arguments(embeddings, lengths)).last_hidden_state[0]
        logits: Tensor = self.model.lm_head(hidden[select])
        return logits

    def generate(self, prompts: Sequence[Tensor], generation: Generation) -> list[list[int]]:
        """Continue prompts of (L_i, D) with transformers' `generate`, padded on the left.

        An answer ends at the latest where the context does, also before `max_new_tokens`.

        Raises:
            ValueError: A prompt leaves no room in the context.
        """
        longest = max(len(prompt) for prompt in prompts)
        room = (self.context_length or longest + generation.max_new_tokens) - longest
        if room < 1:
            raise ValueError(
                f"a prompt of {longest} positions leaves no room in the context of {self.context_length}"
            )
        embeddings = torch.stack([nn.functional.pad(p, (0, 0, longest - len(p), 0)) for p in prompts])
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=embeddings.device)
        mask = torch.arange(longest, device=embeddings.device) >= longest - lengths[:, None]
        sampling = generation.temperature > 0
        settings = GenerationConfig(
            max_new_tokens=min(generation.max_new_tokens, room),
            do_sample=sampling,
            num_beams=generation.num_beams,
            eos_token_id=self.chat.stop_ids,
            pad_token_id=self.chat.stop_ids[0],
            **(
                {"temperature": generation.temperature, "top_p": generation.top_p, "top_k": 0}
                if sampling
                else {}
            ),
        )
        with torch.inference_mode():
            output = self.model.generate(
                inputs_embeds=embeddings, attention_mask=mask.long(), generation_config=settings
            )
        return [self._until_stop(row) for row in output.tolist()]

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids without control tokens."""
        text: str = self.chat.tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def _until_stop(self, ids: list[int]) -> list[int]:
        for i, token_id in enumerate(ids):
            if token_id in self.chat.stop_ids:
                return ids[:i]
        return ids

    def _find_gguf(self) -> Path | None:
        if self._files is None:
            return None
        found = self._files.names("*.gguf")
        if not found or self._files.names("*.safetensors"):
            return None
        if len(found) > 1:
            raise WeightsError(
                f"{self.config.weights}: holds several GGUF files ({', '.join(found)}); name one of them"
            )
        try:
            import gguf  # noqa: F401 - transformers would fail later, with a message less clear
        except ImportError:
            raise MissingExtraError(f"{self.config.weights} (a GGUF file)", "gguf", "gguf") from None
        return self._files.path(found[0])

    def _build_tokenizer(self) -> Any:
        scratch, assets = self.config.scratch, self.context.assets
        if scratch is None:
            return _load_tokenizer(self._files, self._gguf)
        if assets is not None:
            return AutoTokenizer.from_pretrained(assets / TOKENIZER_FOLDER)
        if scratch.tokenizer == "characters" and self.context.texts is None:
            raise ValueError(
                "llm.scratch.tokenizer is 'characters', which is built from the training data, and there is "
                "none yet. Make the data first, or set llm.scratch.tokenizer=bytes."
            )
        return build_tokenizer(scratch.tokenizer, self.context.texts() if self.context.texts else ())

    def _model_config(self) -> LlamaConfig:
        scratch = self.config.scratch
        if scratch is not None:
            tokenizer = self.chat.tokenizer
            return LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=scratch.dim,
                intermediate_size=scratch.ffn_dim,
                num_hidden_layers=scratch.num_layers,
                num_attention_heads=scratch.num_heads,
                num_key_value_heads=scratch.num_kv_heads or scratch.num_heads,
                max_position_embeddings=scratch.context_length,
                tie_word_embeddings=scratch.tie_embeddings,
                attention_dropout=scratch.dropout,
                bos_token_id=None,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=None,
            )
        assert self._files is not None
        if self._gguf is not None:
            config = AutoConfig.from_pretrained(self._gguf.parent, gguf_file=self._gguf.name)
        else:
            config = AutoConfig.from_pretrained(self._files.folder)
        if config.model_type != "llama":
            raise WeightsError(
                f"{self.config.weights}: is a {config.model_type!r} model; "
                "llm 'llama' takes Llama-class models"
            )
        return LlamaConfig(**{k: v for k, v in config.to_dict().items() if k != "quantization_config"})


def _load_tokenizer(files: WeightsFiles | None, gguf: Path | None) -> Any:
    assert files is not None
    if gguf is not None:
        return AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    return AutoTokenizer.from_pretrained(files.folder)

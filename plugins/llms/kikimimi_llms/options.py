"""Options that LLMs share: where the weights come from, and how a conversation is written down for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from kikimimi import ComponentConfig
from kikimimi.text import TEMPLATES, find_template


@dataclass(kw_only=True, frozen=True)
class Scratch:
    """Sizes of a decoder that is trained from scratch."""

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
        check_scratch(self)
        if self.context_length < 1:
            raise ValueError(f"context_length must be at least 1, not {self.context_length}")
        if self.num_kv_heads is not None and self.num_kv_heads < 1:
            raise ValueError(f"num_kv_heads must be at least 1, not {self.num_kv_heads}")
        if self.num_kv_heads is not None and self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_kv_heads ({self.num_kv_heads}) must divide num_heads ({self.num_heads})")


def check_scratch(scratch: Any) -> None:
    """Check the sizes that all models have that are trained from scratch.

    Raises:
        ValueError: One is out of range.
    """
    for name in ("dim", "num_layers", "num_heads", "ffn_dim"):
        if getattr(scratch, name) < 1:
            raise ValueError(f"{name} must be at least 1, not {getattr(scratch, name)}")
    if scratch.dim % scratch.num_heads:
        raise ValueError(f"num_heads ({scratch.num_heads}) must divide dim ({scratch.dim})")
    if not 0 <= scratch.dropout < 1:
        raise ValueError(f"dropout must be at least 0 and below 1, not {scratch.dropout}")


@dataclass(kw_only=True, frozen=True)
class DecoderConfig(ComponentConfig):
    """Options of every decoder."""

    weights: str = "random"
    """A Hub id, a folder, `package:...` (a GGUF file too), or `random` to train from scratch."""
    scratch: Scratch | None = None
    """Sizes and tokenizer with `weights: random`; None is their defaults. Refused with other weights."""
    chat_template: str | None = None
    """Jinja, or the name of a shipped template (plain, vicuna, alpaca, ...), in place of the tokenizer's own,
    which base models lack; None is the tokenizer's own."""
    template_variables: dict[str, bool | str] = field(default_factory=dict)
    """Further variables of the chat template, such as `enable_thinking: false` of Qwen3."""
    audio_start: str | None = None
    """Control token of the tokenizer before every clip (Qwen2-Audio: `<|audio_bos|>`); None is none."""
    audio_end: str | None = None
    """Control token of the tokenizer after every clip (Qwen2-Audio: `<|audio_eos|>`); None is none."""

    def __post_init__(self) -> None:
        if self.weights != "random" and self.scratch is not None:
            raise ValueError(f"scratch is read only with weights: random, not with {self.weights!r}")
        if self.chat_template is not None:
            find_template(self.chat_template)

    @property
    def from_scratch(self) -> Scratch | None:
        """The sizes of a decoder from scratch, or None for a pretrained one."""
        return (self.scratch or Scratch()) if self.weights == "random" else None

    def tiny_template(self) -> str | None:
        """Return the chat template where it is a shipped one: no other is sure to fit another tokenizer."""
        shipped = {path.stem for path in TEMPLATES.glob("*.jinja")}
        return self.chat_template if self.chat_template in shipped else None

"""A decoder that is trained from scratch: its sizes, transformers' configuration of it, and its tokenizer."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE, WordLevel
from transformers import AutoConfig, PreTrainedTokenizerFast

from kikimimi import LayerCount, Options, PositiveInt, Probability

Tokens = Literal["characters", "bytes"]

PAD, _UNKNOWN, END = "<|pad|>", "<|unk|>", "<|end|>"
CONTROL = [PAD, _UNKNOWN, END, "<|system|>", "<|user|>", "<|assistant|>"]

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@dataclass(kw_only=True, frozen=True)
class Scratch(Options):
    """Sizes of a decoder that is trained from scratch."""

    dim: PositiveInt = 256
    """Width D of embeddings and residual stream."""
    num_layers: LayerCount = 4
    """Decoder layers."""
    num_heads: PositiveInt = 4
    """Attention heads; they divide `dim`."""
    num_kv_heads: PositiveInt | None = None
    """Key-value heads (grouped-query attention); None is as many as `num_heads`."""
    ffn_dim: PositiveInt = 1024
    """Inner width of the gated feed-forward network."""
    context_length: PositiveInt = 2048
    """Longest sequence [positions]."""
    tie_embeddings: bool = True
    """Whether the output head is the embedding table."""
    dropout: Probability = 0.0
    """Dropout of the attention weights while training [probability]."""
    tokenizer: Tokens = "characters"
    """What a token is: a character of the training data, or a UTF-8 byte."""

    def __post_init__(self) -> None:
        check_heads(self.dim, self.num_heads)
        if self.num_kv_heads is not None and self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_kv_heads ({self.num_kv_heads}) must divide num_heads ({self.num_heads})")


def check_heads(dim: int, num_heads: int) -> None:
    """Raise a ValueError if the heads do not divide the width."""
    if dim % num_heads:
        raise ValueError(f"num_heads ({num_heads}) must divide dim ({dim})")


def scratch_config(model_type: str, scratch: Scratch, tokenizer: Any) -> Any:
    """Return the configuration of a decoder that is trained from scratch.

    Args:
        model_type: The architecture's name in transformers.
        scratch: Its sizes.
        tokenizer: Its tokenizer, which says how many tokens there are and which one ends an answer.

    Raises:
        ValueError: The architecture cannot have such sizes.
    """
    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": scratch.dim,
        "num_hidden_layers": scratch.num_layers,
        "num_attention_heads": scratch.num_heads,
        "max_position_embeddings": scratch.context_length,
        "tie_word_embeddings": scratch.tie_embeddings,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": None,
    }
    if model_type == "gpt2":
        if scratch.num_kv_heads not in (None, scratch.num_heads):
            raise ValueError("scratch.num_kv_heads: gpt2 has as many key-value heads as heads")
        dropout = scratch.dropout
        sizes |= {"n_inner": scratch.ffn_dim, "attn_pdrop": dropout, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
    else:
        head_dim = scratch.dim // scratch.num_heads
        sizes |= {
            "intermediate_size": scratch.ffn_dim,
            "num_key_value_heads": scratch.num_kv_heads or scratch.num_heads,
            "head_dim": head_dim,
            "attention_dropout": scratch.dropout,
        }
        if model_type.startswith("gemma"):
            sizes["query_pre_attn_scalar"] = head_dim
        if model_type == "granite":
            sizes["attention_multiplier"] = head_dim**-0.5  # which otherwise is 1
    return AutoConfig.for_model(model_type, **sizes)


def build_tokenizer(kind: Tokens, texts: Iterable[str], markers: Sequence[str] = ()) -> Any:
    """Build a fast tokenizer with a chat template.

    Args:
        kind: ``characters``: one token per character of `texts`, others become the unknown token;
            ``bytes``: one token per UTF-8 byte, and `texts` is not read.
        texts: Everything that the tokenizer has to spell.
        markers: Further control tokens, which stand around clips.

    Raises:
        ValueError: `characters` was asked for and `texts` holds none.
    """
    control = [*CONTROL, *(marker for marker in markers if marker not in CONTROL)]
    if kind == "bytes":
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocabulary = {token: i for i, token in enumerate([*control, *alphabet])}
        backend = Tokenizer(BPE(vocab=vocabulary, merges=[], unk_token=_UNKNOWN))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.decoder = decoders.ByteLevel()
    else:
        characters = sorted({character for text in texts for character in text})
        if not characters:
            raise ValueError("a character tokenizer is built from the training texts, and there are none")
        vocabulary = {token: i for i, token in enumerate([*control, *characters])}
        backend = Tokenizer(WordLevel(vocab=vocabulary, unk_token=_UNKNOWN))
        # (?m) is how this engine spells that a line feed is a character like any other.
        backend.pre_tokenizer = pre_tokenizers.Split(Regex("(?m)."), "isolated")
        backend.decoder = decoders.Fuse()
    backend.add_special_tokens(control)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        unk_token=_UNKNOWN,
        eos_token=END,
        additional_special_tokens=control[3:],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )

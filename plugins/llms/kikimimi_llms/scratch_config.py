"""The configuration, as transformers has it, of a decoder that is trained from scratch."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig

from kikimimi_llms.options import Scratch


def scratch_config(model_type: str, scratch: Scratch, tokenizer: Any) -> Any:
    """Return the configuration of a decoder that is trained from scratch.

    Args:
        model_type: As transformers calls the architecture.
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
    return AutoConfig.for_model(model_type, **sizes)

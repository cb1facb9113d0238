"""Tokenizers for an LLM that is trained from scratch: characters of the training data, or bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE, WordLevel
from transformers import PreTrainedTokenizerFast

PAD, UNKNOWN, END = "<|pad|>", "<|unk|>", "<|end|>"
CONTROL = [PAD, UNKNOWN, END, "<|system|>", "<|user|>", "<|assistant|>"]

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def build_tokenizer(
    kind: Literal["characters", "bytes"], texts: Iterable[str], markers: Sequence[str] = ()
) -> Any:
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
        backend = Tokenizer(BPE(vocab=vocabulary, merges=[], unk_token=UNKNOWN))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.decoder = decoders.ByteLevel()
    else:
        characters = sorted({character for text in texts for character in text})
        if not characters:
            raise ValueError("a character tokenizer is built from the training texts, and there are none")
        vocabulary = {token: i for i, token in enumerate([*control, *characters])}
        backend = Tokenizer(WordLevel(vocab=vocabulary, unk_token=UNKNOWN))
        # (?m) is how this engine spells that a line feed is a character like any other.
        backend.pre_tokenizer = pre_tokenizers.Split(Regex("(?m)."), "isolated")
        backend.decoder = decoders.Fuse()
    backend.add_special_tokens(control)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        unk_token=UNKNOWN,
        eos_token=END,
        additional_special_tokens=control[3:],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )

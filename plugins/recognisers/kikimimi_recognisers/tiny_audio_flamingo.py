"""A tiny Audio Flamingo 3 with random weights, as it is published: for checks and tests."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import (
    AudioFlamingo3Config,
    AudioFlamingo3ForConditionalGeneration,
    AudioFlamingo3Processor,
    GenerationConfig,
    PreTrainedTokenizerFast,
    WhisperFeatureExtractor,
)

_MARKS = ("<|im_end|>", "<|im_start|>", "<sound>")
_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% for c in m['content'] if c['type'] == 'audio' %}<sound>{% endfor %}"
    "{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] }}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TINY_LLM = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "initializer_range": 0.5,
}
"""The sizes of an LLM whose answers differ from clip to clip."""


def byte_tokenizer(*marks: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer of the 256 bytes and of control tokens, of which the first ends texts and pads."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE({letter: number for number, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(mark, special=True) for mark in marks])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=marks[0], pad_token=marks[0])


def write_tiny_audio_flamingo(folder: Path) -> None:
    """Write one into a folder that is not there or empty."""
    tokenizer = byte_tokenizer(*_MARKS)
    tower = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "num_mel_bins": 16,
    }
    sound: Any = tokenizer.convert_tokens_to_ids("<sound>")
    config = AudioFlamingo3Config(
        audio_config=tower,
        text_config={"model_type": "qwen2", "vocab_size": len(tokenizer), **TINY_LLM},
        audio_token_id=sound,
    )
    torch.manual_seed(0)
    model: Any = AudioFlamingo3ForConditionalGeneration(config)
    end = tokenizer.eos_token_id
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=end)
    model.save_pretrained(folder)
    features = WhisperFeatureExtractor(feature_size=16)
    AudioFlamingo3Processor(features, tokenizer, chat_template=_TEMPLATE).save_pretrained(folder)

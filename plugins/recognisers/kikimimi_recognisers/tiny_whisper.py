"""A tiny Whisper with random weights, in the format of transformers: for checks and tests."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from transformers import WhisperConfig, WhisperForConditionalGeneration

WORDS = [f"w{i}" for i in range(20)]
"""The words that it knows."""
_SPECIAL = [
    "<|endoftext|>",
    "<|startoftranscript|>",
    "<|en|>",
    "<|ja|>",
    "<|translate|>",
    "<|transcribe|>",
    "<|notimestamps|>",
]
IDS = {token: number for number, token in enumerate([*WORDS, *_SPECIAL])}
"""The ids of words and control tokens."""


def write_tiny_whisper(folder: Path, *, multilingual: bool = True) -> None:
    """Write one, with a vocabulary of words that mean nothing, into a folder that is not there or empty."""
    end, start = IDS["<|endoftext|>"], IDS["<|startoftranscript|>"]
    special: dict[str, Any] = {
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
        "decoder_start_token_id": start,
    }
    config = WhisperConfig(
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        vocab_size=len(IDS),
        **special,
    )
    torch.manual_seed(0)
    model: Any = WhisperForConditionalGeneration(config)
    folder.mkdir(exist_ok=True)
    state = {name: value for name, value in model.state_dict().items() if name != "proj_out.weight"}
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(config.to_json_string(use_diff=False))
    settings: dict[str, Any] = {
        **special,
        "is_multilingual": multilingual,
        "no_timestamps_token_id": IDS["<|notimestamps|>"],
        "forced_decoder_ids": [[1, None], [2, IDS["<|transcribe|>"]]],
        "max_length": 448,
        "suppress_tokens": [end],
        "begin_suppress_tokens": [IDS["w0"]],
    }
    if multilingual:
        settings["lang_to_id"] = {token: IDS[token] for token in ("<|en|>", "<|ja|>")}
        settings["task_to_id"] = {task: IDS[f"<|{task}|>"] for task in ("transcribe", "translate")}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    tokenizer = Tokenizer(WordLevel(IDS, unk_token="w0"))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in _SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))

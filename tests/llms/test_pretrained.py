"""What is fetched from the Hub, and when."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from kikimimi import LLMContext
from kikimimi_llms.decoder import CausalLM, Llama
from kikimimi_llms.scratch import build_tokenizer
from kikimimi_llms.seq2seq import Seq2Seq


class Hub:
    """A repository `org/model` in a folder, of which only what is asked for is copied."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fetched: set[str] = set()

    def snapshot_download(self, repo: str, *, allow_patterns: Sequence[str], **options: Any) -> str:
        assert repo == "org/model"
        snapshot = self.folder.with_name("snapshot")
        snapshot.mkdir(exist_ok=True)
        for path in self.folder.iterdir():
            if any(fnmatch(path.name, pattern) for pattern in allow_patterns):
                shutil.copy(path, snapshot / path.name)
                self.fetched.add(path.name)
        return str(snapshot)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub(tmp_path / "hub")
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub.snapshot_download)
    return hub


def publish(hub: Hub, model: Any, **options: Any) -> None:
    model.save_pretrained(hub.folder, **options)
    build_tokenizer("bytes", ()).save_pretrained(hub.folder)


def llama_model() -> Any:
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 32}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, vocab_size=262))


@pytest.mark.parametrize("cls", [Llama, CausalLM])
def test_tensors_are_fetched_when_they_are_read(hub: Hub, cls: Any) -> None:
    model = llama_model()
    publish(hub, model)
    config = cls.Config(weights="org/model")
    with torch.device("meta"):
        assert cls(config, LLMContext()).dim == 32
    assert "config.json" in hub.fetched
    assert not [name for name in hub.fetched if name.endswith(".safetensors")]
    llm: Any = cls(config, LLMContext())
    llm.load_weights()
    assert "model.safetensors" in hub.fetched
    for name, value in model.state_dict().items():
        assert torch.equal(llm.model.state_dict()[name], value)


def test_the_index_says_whether_a_t5_has_a_head(hub: Hub) -> None:
    sizes: dict[str, Any] = {"d_model": 32, "d_kv": 16, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    sizes["decoder_start_token_id"] = 0
    model = T5ForConditionalGeneration(T5Config(**sizes, vocab_size=262))
    head = torch.nn.Parameter(torch.randn(262, 32))
    model.lm_head.weight = head
    publish(hub, model, max_shard_size="20KB")
    with torch.device("meta"):
        llm: Any = Seq2Seq(Seq2Seq.Config(weights="org/model"), LLMContext())
    assert "model.safetensors.index.json" in hub.fetched
    assert not [name for name in hub.fetched if name.endswith(".safetensors")]
    names = {name for name, _ in llm.model.named_parameters()}
    assert "lm_head.weight" in names

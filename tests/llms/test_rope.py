"""A sequence in a pack has the logits that it has alone, where rotary frequencies depend on lengths too."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModelForCausalLM

from kikimimi import Generation, LLMContext
from kikimimi_llms.decoder import CausalLM
from kikimimi_llms.rope import switching_length
from kikimimi_llms.scratch import build_tokenizer

SIZES = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": None,
}
SHORT, LONG = [1.0, 1.0, 2.0, 2.0], [1.0, 4.0, 16.0, 64.0]
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": SHORT,
    "long_factor": LONG,
    "original_max_position_embeddings": 16,
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
PLAIN = {"rope_type": "default", "rope_theta": 10000.0}
MODELS: dict[str, dict[str, Any]] = {
    # run as a pack
    "phi3": {
        "rope_parameters": LONGROPE,
        "max_position_embeddings": 64,
        "original_max_position_embeddings": 16,
        "sliding_window": 64,
    },
    "llama": {"rope_parameters": DYNAMIC, "max_position_embeddings": 16},
    "gemma3_text": {
        "rope_parameters": {"full_attention": LONGROPE, "sliding_attention": DYNAMIC},
        "layer_types": ["full_attention", "sliding_attention"],
        "max_position_embeddings": 16,
        "query_pre_attn_scalar": 8,
    },
    # run as a padded batch
    "granite": {"rope_parameters": LONGROPE, "max_position_embeddings": 64},
    "gpt_neox": {"rope_parameters": {**DYNAMIC, "partial_rotary_factor": 1.0}, "max_position_embeddings": 16},
}
LENGTHS = (5, 40, 16, 17, 1, 23, 9)
"""Sequences on both sides of 16 positions, the longest of them neither first nor last."""


def saved(folder: Path, model_type: str) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **SIZES, **copy.deepcopy(MODELS[model_type]))
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_((0.3 if "proj" in name or "query" in name else 0.05) * torch.randn_like(parameter))
    model.save_pretrained(folder)
    build_tokenizer("bytes", ()).save_pretrained(folder)
    return model


def loaded(folder: Path) -> CausalLM:
    llm = CausalLM(CausalLM.Config(weights=str(folder)), LLMContext())
    llm.load_weights()
    return llm.eval()


def alone(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """transformers' own logits of one sequence, by a model that has seen no other."""
    logits: torch.Tensor = copy.deepcopy(model)(ids[None], use_cache=False).logits[0]
    return logits


@pytest.mark.parametrize("model_type", MODELS)
@torch.no_grad()
def test_a_sequence_has_the_logits_that_it_has_alone(model_type: str, tmp_path: Path) -> None:
    model = saved(tmp_path, model_type)
    llm = loaded(tmp_path)
    sequences = [torch.randint(3, 300, (length,)) for length in LENGTHS]
    expected = torch.cat([alone(model, ids) for ids in sequences])
    packed = torch.cat([llm.embed(ids) for ids in sequences])
    for model in (llm, llm, copy.deepcopy(llm), pickle.loads(pickle.dumps(llm))):  # nothing is left behind
        found = model(packed, torch.tensor(LENGTHS), torch.arange(len(packed)))
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)
    short = sequences[0]
    one = llm(llm.embed(short), torch.tensor([len(short)]), torch.arange(len(short)))
    torch.testing.assert_close(one, expected[: len(short)], atol=2e-5, rtol=0)


@torch.no_grad()
def test_in_transformers_a_long_neighbour_changes_it(tmp_path: Path) -> None:
    """Otherwise the test above would say nothing."""
    model = saved(tmp_path, "phi3")
    short, long = torch.randint(3, 300, (5,)), torch.randint(3, 300, (40,))
    both = pad_sequence([short, long], batch_first=True)
    mask = torch.arange(40) < torch.tensor([[5], [40]])
    beside = model(both, attention_mask=mask.long(), use_cache=False).logits[0, :5]
    assert (beside - alone(model, short)).abs().max() > 0.01


def greedy(model: Any, ids: torch.Tensor, number: int) -> list[int]:
    """Answers without a cache: every token is chosen by the sequence before it, as training reads it."""
    answer: list[int] = []
    for _ in range(number):
        token = int(alone(model, ids)[-1].argmax())
        if token == 2:
            break
        answer.append(token)
        ids = torch.cat([ids, torch.tensor([token])])
    return answer


@pytest.mark.parametrize("model_type", ["phi3", "granite"])
@torch.no_grad()
def test_generation_switches_with_the_sequence(model_type: str, tmp_path: Path) -> None:
    """Prompts before, at and after the switch, in one batch; some answers grow past it."""
    model = saved(tmp_path, model_type)
    llm = loaded(tmp_path)
    assert switching_length(llm.model) == 16
    prompts = [torch.randint(3, 300, (length,)) for length in (3, 12, 16, 17, 30)]
    expected = [greedy(model, ids, 8) for ids in prompts]
    assert len(set(map(len, expected))) < 3  # they do not just end
    assert llm.generate([llm.embed(ids) for ids in prompts], Generation(max_new_tokens=8)) == expected
    with pytest.raises(
        ValueError, match=r"followed past 16 positions.* a prompt of 12 .*max_new_tokens to at"
    ):
        llm.generate([llm.embed(prompts[1])], Generation(max_new_tokens=8, num_beams=2))
    assert len(llm.generate([llm.embed(prompts[1])], Generation(max_new_tokens=5, num_beams=2))) == 1


def test_others_are_left_alone(tmp_path: Path) -> None:
    llm = CausalLM(CausalLM.tiny_config(CausalLM.Config(architecture="qwen2")), LLMContext())
    assert switching_length(llm.model) is None
    assert not any("forward" in vars(module) for module in llm.modules())


def test_it_runs_where_operations_are_counted(tmp_path: Path) -> None:
    saved(tmp_path, "llama")
    with torch.device("meta"):
        llm = CausalLM(CausalLM.Config(weights=str(tmp_path)), LLMContext(measured=True))
    made = torch.empty(40, 32, device="meta")
    assert llm(made, torch.tensor([40]), torch.arange(39, 40)).shape == (1, 300)

"""A mixture of experts in `causal_lm`: how it is read, what trains in it, and what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, Qwen3MoeConfig

from kikimimi import LLMContext
from kikimimi.costs.meta_pass import measure_pass
from kikimimi.errors import RecipeError
from kikimimi.model.lora import add_lora
from kikimimi.recipe import LoRA
from kikimimi_llms.decoder import CausalLM
from kikimimi_llms.pretrained import Pretrained
from kikimimi_llms.scratch import build_tokenizer

CONFIG = Qwen3MoeConfig(
    vocab_size=300,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    num_experts=6,
    num_experts_per_tok=2,
    moe_intermediate_size=16,
    mlp_only_layers=[1],
)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(CONFIG).save_pretrained(tmp_path)
    build_tokenizer("bytes", ()).save_pretrained(tmp_path)
    return tmp_path


def loaded(folder: Path) -> CausalLM:
    llm = CausalLM(CausalLM.Config(weights=str(folder)), LLMContext())
    llm.load_weights()
    return llm


def test_a_file_with_one_tensor_for_each_expert_is_read(saved: Path) -> None:
    state = load_file(saved / "model.safetensors")
    experts = loaded(saved).model.model.layers[2].mlp.experts
    for number in range(6):
        place = f"model.layers.2.mlp.experts.{number}."
        gate_up = torch.cat([state[f"{place}gate_proj.weight"], state[f"{place}up_proj.weight"]])
        assert torch.equal(experts.gate_up_proj[number], gate_up)
        assert torch.equal(experts.down_proj[number], state[f"{place}down_proj.weight"])


def test_other_names_are_told_from_the_tensors_given_alone(saved: Path, monkeypatch: Any) -> None:
    """They may be part of a larger file, whose other names say nothing of the model."""
    llm = loaded(saved)
    pretrained = Pretrained(str(saved))
    state = {name: value.bfloat16() for name, value in pretrained.tensors.state_dict().items()}
    monkeypatch.setattr(Pretrained, "tensors", None)
    named = pretrained._named_as(llm.model, state)
    assert named.keys() == llm.model.state_dict().keys()
    assert {value.dtype for value in named.values()} == {torch.bfloat16}


def test_routers_stay_as_they_were_trained(saved: Path) -> None:
    frozen = {name for name, parameter in loaded(saved).named_parameters() if not parameter.requires_grad}
    assert frozen == {f"model.model.layers.{layer}.mlp.gate.weight" for layer in (0, 2)}


def test_updates_reach_attention_and_dense_layers_but_no_expert(saved: Path) -> None:
    llm = loaded(saved)
    add_lora(llm, LoRA(rank=2, targets=["q_proj", "v_proj"]), where="llm")
    updated = {name.split(".lora_")[0] for name, _ in llm.named_parameters() if ".lora_" in name}
    assert updated == {
        f"model.model.layers.{layer}.self_attn.{which}_proj" for layer in range(3) for which in "qv"
    }
    with pytest.raises(RecipeError, match=r"no linear layer is called gate_up_proj, gate\. Layers: .*q_proj"):
        add_lora(loaded(saved), LoRA(rank=2, targets=["gate_up_proj", "gate"]), where="llm")


def test_every_layer_is_one_block_to_shard(saved: Path) -> None:
    llm = loaded(saved)
    (block,) = llm.shard_classes()
    blocks = [module for module in llm.modules() if type(module) is block]
    assert len(blocks) == 3
    experts = llm.model.model.layers[0].mlp.experts.gate_up_proj
    assert any(parameter is experts for parameter in blocks[0].parameters())


@pytest.mark.parametrize("half", [None, torch.bfloat16])
def test_operations_are_those_of_the_experts_that_are_chosen(saved: Path, half: Any) -> None:
    llm = loaded(saved)
    positions = 40
    arguments = (torch.tensor([positions]), torch.arange(positions))
    embeddings = torch.empty(positions, 32, device="meta", requires_grad=True)
    found = measure_pass(llm, embeddings, *arguments, half=half)
    llm.model.set_experts_implementation("eager")
    # Plain forms: torch counts neither fused attention nor grouped products on the CPU.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        llm(torch.randn(positions, 32, requires_grad=True), *arguments).sum().backward()
    assert found.forward + found.backward == pytest.approx(counter.get_total_flops(), rel=0.01)

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, BertConfig

from kikimimi import Conversation, Generation, LLMContext, Message, TextPart
from kikimimi.errors import WeightsError
from kikimimi.testing import parametrize_checks
from kikimimi_llms.decoder import PACKED, CausalLM
from kikimimi_llms.scratch import Scratch, build_tokenizer

COMMON = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": None,
}
GEMMA2 = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": True},
    "qwen2": {"tie_word_embeddings": False},
    "qwen3": {},
    "gemma": {},
    "gemma2": {"sliding_window": 4, "query_pre_attn_scalar": 8, **GEMMA2},
    "gemma3_text": {"sliding_window": 4, "query_pre_attn_scalar": 8},
    "mistral": {"sliding_window": 4},
    "phi3": {"sliding_window": 4},
    "olmo2": {},
    "smollm3": {},
    "granite": {
        "logits_scaling": 2.0,
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.6,
        "attention_multiplier": 0.2,
        "tie_word_embeddings": True,
    },
    "qwen3_moe": {
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "norm_topk_prob": True,
    },
    "gpt2": {"num_key_value_heads": None, "head_dim": None, "intermediate_size": None, "n_inner": 48},
    # padded batches
    "gpt_neox": {},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
}
LENGTHS = (11, 1, 7)


def saved(folder: Path, model_type: str) -> Any:
    """Save a tiny model of transformers with a tokenizer; return it."""
    torch.manual_seed(0)
    sizes = {
        k: v for k, v in {**COMMON, **ARCHITECTURES[model_type]}.items() if v is not None or "token" in k
    }
    config = AutoConfig.for_model(model_type, **sizes)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    build_tokenizer("bytes", ()).save_pretrained(folder)
    return model


def loaded(folder: Path) -> CausalLM:
    llm = CausalLM(CausalLM.Config(weights=str(folder)), LLMContext())
    llm.load_weights()
    return llm.eval()


@pytest.mark.parametrize("model_type", list(ARCHITECTURES))
def test_equals_transformers(model_type: str, tmp_path: Path) -> None:
    reference = saved(tmp_path, model_type)
    llm = loaded(tmp_path)
    sequences = [torch.randint(0, 300, (length,)) for length in LENGTHS]
    lengths = torch.tensor(LENGTHS)
    select = torch.tensor([0, 3, 10, 11, 12, 18])
    with torch.no_grad():
        ours = llm(torch.cat([llm.embed(ids) for ids in sequences]), lengths, select)
        theirs = torch.cat([reference(ids[None], use_cache=False).logits[0] for ids in sequences])
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs[select], atol=1e-5, rtol=0)
    prompts = [llm.embed(ids) for ids in sequences]
    for found, ids in zip(llm.generate(prompts, Generation(max_new_tokens=8)), sequences, strict=True):
        whole = reference.generate(
            ids[None],
            attention_mask=torch.ones_like(ids[None]),
            max_new_tokens=8,
            do_sample=False,
            eos_token_id=2,
            pad_token_id=2,
        )
        new = whole[0, len(ids) :].tolist()
        assert found == (new[: new.index(2)] if 2 in new else new)


def test_every_packed_model_type_is_tested() -> None:
    assert set(ARCHITECTURES) >= PACKED


@parametrize_checks(
    CausalLM,
    gemma2=CausalLM.Config(architecture="gemma2", scratch=Scratch(num_kv_heads=2)),
    gpt2=CausalLM.Config(
        architecture="gpt2",
        chat_template="vicuna",
        audio_start="<|a|>",
        audio_end="<|b|>",
    ),
)
def test_contract(check: Any) -> None:
    check()


@pytest.mark.parametrize(
    "architecture", ["qwen2", "qwen3", "gemma2", "gemma3_text", "mistral", "phi3", "gpt2", "granite"]
)
def test_scratch_sizes_reach_the_architecture(architecture: Any) -> None:
    scratch = Scratch(
        dim=32,
        num_layers=3,
        num_heads=2,
        num_kv_heads=None if architecture == "gpt2" else 1,
        ffn_dim=40,
        context_length=50,
        tie_embeddings=False,
        dropout=0.25,
        tokenizer="bytes",
    )
    with torch.device("meta"):
        llm = CausalLM(CausalLM.Config(architecture=architecture, scratch=scratch), LLMContext())
    shapes = {tuple(p.shape) for p in llm.parameters()}
    config = llm.model.config
    assert (llm.dim, llm.vocab_size, llm.context_length) == (32, 262, 50)
    assert len([m for m in llm.modules() if type(m) in llm.shard_classes()]) == 3
    assert any(40 in shape or 80 in shape for shape in shapes)
    assert config.num_attention_heads == 2
    scales = {module.scaling for module in llm.modules() if hasattr(module, "scaling")}
    assert scales == {16**-0.5}
    assert getattr(config, "num_key_value_heads", None) in (1, None)
    assert getattr(config, "attention_dropout", getattr(config, "attn_pdrop", None)) == 0.25
    assert llm.model.get_output_embeddings().weight is not llm.model.get_input_embeddings().weight


def test_rotary_frequencies_stay_float32() -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        llms = [
            CausalLM(
                CausalLM.tiny_config(CausalLM.Config(architecture=a)),
                LLMContext(),
            )
            for a in ("qwen2", "gemma3_text", "phi3")
        ]
    finally:
        torch.set_default_dtype(before)
    for llm in llms:
        assert {p.dtype for p in llm.parameters()} == {torch.bfloat16}
        rotary = {name: b.dtype for name, b in llm.named_buffers() if "inv_freq" in name}
        assert rotary
        assert set(rotary.values()) == {torch.float32}
        logits = llm(llm.embed(torch.arange(5)), torch.tensor([5]), torch.arange(5))
        assert logits.dtype == torch.bfloat16
        assert logits.isfinite().all()


def test_checkpoints_of_the_bare_model_load(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    reference = saved(tmp_path, "gpt2")
    state = load_file(tmp_path / "model.safetensors")
    bare = {name.removeprefix("transformer."): value for name, value in state.items()}
    bare["h.0.attn.bias"] = torch.ones(1, 1, 4, 4)
    assert bare.keys() & {"wte.weight"}
    save_file(bare, tmp_path / "model.safetensors", {"format": "pt"})
    llm = loaded(tmp_path)
    ids = torch.arange(6)
    ours = llm(llm.embed(ids), torch.tensor([6]), torch.arange(6))
    torch.testing.assert_close(ours, reference(ids[None]).logits[0], atol=1e-5, rtol=0)


def test_the_architecture_has_to_be_that_of_the_weights(tmp_path: Path) -> None:
    saved(tmp_path, "phi3")
    config = CausalLM.Config(weights=str(tmp_path), architecture="phi3")
    assert CausalLM(config, LLMContext()).model.config.model_type == "phi3"
    tiny = CausalLM(CausalLM.tiny_config(config), LLMContext())
    assert any(name.endswith("qkv_proj") for name, _ in tiny.named_modules())
    with pytest.raises(WeightsError, match="is a 'phi3' model, and architecture says 'qwen2'"):
        CausalLM(CausalLM.Config(weights=str(tmp_path), architecture="qwen2"), LLMContext())


def test_missing_tensors(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    saved(tmp_path, "qwen2")
    state = load_file(tmp_path / "model.safetensors")
    del state["model.layers.0.mlp.up_proj.weight"]
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError, match=r"1 missing: model\.layers\.0\.mlp\.up_proj\.weight"):
        loaded(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "t5"}, "is a 't5' model, which is no decoder.*llm 'seq2seq'"),
        (BertConfig(hidden_size=32).to_dict(), "that reads in both directions"),
        ({"model_type": "mixtral", "num_local_experts": 4}, "with several experts"),
        ({"model_type": "qwen2_vl"}, "holds more than a text model|no decoder"),
        ({"model_type": "invented"}, "names no architecture of transformers"),
        (
            {"model_type": "invented", "auto_map": {"AutoConfig": "c.C"}},
            "names no architecture of transformers",
        ),
        (
            {"model_type": "qwen2", "quantization_config": {"quant_method": "gptq"}},
            r"quantised weights \(gptq\)",
        ),
    ],
)
def test_models_that_are_refused(config: dict[str, Any], message: str, tmp_path: Path) -> None:
    build_tokenizer("bytes", ()).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=message):
        CausalLM(CausalLM.Config(weights=str(tmp_path)), LLMContext())


def test_a_tokenizer_with_code_of_its_own_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, "qwen2")
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "Invented", "auto_map": {"AutoTokenizer": ["t.Invented", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "t.py").write_text("raise SystemExit('remote code was run')")
    with pytest.raises(WeightsError, match=r"its tokenizer is code of its own.*llm_jp.*remote_code: true"):
        CausalLM(CausalLM.Config(weights=str(tmp_path)), LLMContext())


def test_a_base_model_gets_a_template(tmp_path: Path) -> None:
    saved(tmp_path, "gpt2")
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(
        ValueError, match=r"no chat template.*set chat_template to one of alpaca, alpaca_short"
    ):
        CausalLM(CausalLM.Config(weights=str(tmp_path)), LLMContext())
    llm = CausalLM(CausalLM.Config(weights=str(tmp_path), chat_template="vicuna"), LLMContext())
    turns = Conversation((Message("user", (TextPart("Hi"),)), Message("assistant", (TextPart("Yo"),))))
    assert llm.decode(llm.render(turns).ids) == "USER: Hi\nASSISTANT: Yo"


def test_tiny_configs_need_no_download() -> None:
    config = CausalLM.Config(
        weights="org/name",
        chat_template="{{ special }}",
        template_variables={"special": "a"},
        audio_start="<|a|>",
    )
    tiny = CausalLM.tiny_config(config)
    assert tiny.weights == "random"
    assert CausalLM(tiny, LLMContext()).model.config.model_type == "qwen2"
    assert tiny.chat_template is None
    assert CausalLM(tiny, LLMContext()).chat.tokenizer.convert_tokens_to_ids("<|a|>") == 6


def test_config_errors() -> None:
    with pytest.raises(ValueError, match="scratch is read only with weights: random"):
        CausalLM.Config(weights="org/name", scratch=Scratch())
    with pytest.raises(ValueError, match="'plane' is neither Jinja"):
        CausalLM.Config(chat_template="plane")
    with pytest.raises(ValueError, match="gpt2 has as many key-value heads as heads"):
        CausalLM(
            CausalLM.Config(architecture="gpt2", scratch=Scratch(num_kv_heads=2, tokenizer="bytes")),
            LLMContext(),
        )


def test_thinking_is_an_option(tmp_path: Path) -> None:
    saved(tmp_path, "qwen3")
    template = (
        "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}"
        "{{ '<think>\n\n</think>\n\n' if enable_thinking is false }}{% endif %}"
    )
    turns = Conversation((Message("user", (TextPart("Hi"),)),))
    for thinking, prompt in ((False, "Hi<think>\n\n</think>\n\n"), (True, "Hi")):
        config = CausalLM.Config(weights=str(tmp_path), chat_template=template, thinking=thinking)
        llm = CausalLM(config, LLMContext())
        assert llm.decode(llm.render(turns, generate=True).ids) == prompt
        assert CausalLM.tiny_config(config).thinking is False

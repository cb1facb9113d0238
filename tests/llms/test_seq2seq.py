from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    MT5Config,
    MT5ForConditionalGeneration,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    UMT5Config,
    UMT5ForConditionalGeneration,
)

from kikimimi import AudioPart, Conversation, Generation, LLMContext, Message, TextPart
from kikimimi.errors import WeightsError
from kikimimi.testing import parametrize_checks
from kikimimi_llms.scratch import build_tokenizer
from kikimimi_llms.seq2seq import Seq2Seq, T5Scratch

SIZES = {
    "vocab_size": 270,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "pad_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 0,
}
MODELS: dict[str, tuple[Any, Any, bool]] = {
    "t5": (T5Config, T5ForConditionalGeneration, True),
    "flan-t5": (T5Config, T5ForConditionalGeneration, False),
    "mt5": (MT5Config, MT5ForConditionalGeneration, False),
    "umt5": (UMT5Config, UMT5ForConditionalGeneration, False),
}
PROMPTS, ANSWERS = (7, 1, 12), (3, 5, 1)


def saved(folder: Path, name: str) -> Any:
    """Write a tiny checkpoint with a tokenizer, as the Hub has them; return transformers' reading of it."""
    torch.manual_seed(0)
    config_class, model_class, tied = MODELS[name]
    activation = {} if name == "t5" else {"feed_forward_proj": "gated-gelu"}
    config = config_class(**SIZES, **activation, tie_word_embeddings=tied)
    tensors = {key: 0.3 * torch.randn_like(value) for key, value in model_class(config).state_dict().items()}
    for copy_of_shared in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"):
        del tensors[copy_of_shared]
    if tied:
        del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    settings = {**config.to_dict(), "tie_word_embeddings": tied}
    (folder / "config.json").write_text(json.dumps(settings))
    build_tokenizer("bytes", ()).save_pretrained(folder)
    model = model_class.from_pretrained(folder).eval()
    assert (model.lm_head.weight is model.shared.weight) == tied
    return model


def loaded(folder: Path) -> Seq2Seq:
    llm = Seq2Seq(Seq2Seq.Config(weights=str(folder)), LLMContext())
    llm.load_weights()
    return llm.eval()


@pytest.mark.parametrize("name", list(MODELS))
def test_teacher_forced_logits_equal_transformers(name: str, tmp_path: Path) -> None:
    reference, llm = saved(tmp_path, name), loaded(tmp_path)
    pairs = [
        (torch.randint(3, 270, (p,)), torch.randint(3, 270, (a,)))
        for p, a in zip(PROMPTS, ANSWERS, strict=True)
    ]
    lengths = torch.tensor([p + a for p, a in zip(PROMPTS, ANSWERS, strict=True)])
    starts = (lengths.cumsum(0) - lengths).tolist()
    select = torch.cat(
        [torch.arange(s + p - 1, s + p - 1 + a) for s, p, a in zip(starts, PROMPTS, ANSWERS, strict=True)]
    )
    with torch.no_grad():
        ours = llm(torch.cat([llm.embed(torch.cat(pair)) for pair in pairs]), lengths, select)
        theirs = torch.cat([reference(input_ids=p[None], labels=a[None]).logits[0] for p, a in pairs])
    assert theirs.std() > 0.05
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", list(MODELS))
def test_generation_equals_transformers(name: str, tmp_path: Path) -> None:
    reference, llm = saved(tmp_path, name), loaded(tmp_path)
    prompts = [torch.randint(3, 270, (length,)) for length in PROMPTS]
    for beams in (1, 3):
        settings = Generation(max_new_tokens=8, num_beams=beams)
        found = llm.generate([llm.embed(ids) for ids in prompts], settings)
        for ours, ids in zip(found, prompts, strict=True):
            whole = reference.generate(ids[None], max_new_tokens=8, do_sample=False, num_beams=beams)
            new = whole[0, 1:].tolist()
            assert ours == (new[: new.index(2)] if 2 in new else new)
        assert len({tuple(ids) for ids in found}) > 1


def test_sampling_follows_the_seed(tmp_path: Path) -> None:
    saved(tmp_path, "flan-t5")
    llm = loaded(tmp_path)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(
            llm.generate([llm.embed(torch.arange(4))], Generation(max_new_tokens=8, temperature=3.0))
        )
    assert drawn[0] == drawn[1] != drawn[2]


def test_sequences_without_a_selected_position_are_left_out(tmp_path: Path) -> None:
    saved(tmp_path, "t5")
    llm = loaded(tmp_path)
    embeddings = llm.embed(torch.arange(15))
    whole = llm(embeddings, torch.tensor([5, 4, 6]), torch.tensor([2, 3, 10, 14]))
    alone = llm(
        torch.cat([embeddings[:5], embeddings[9:]]), torch.tensor([5, 6]), torch.tensor([2, 3, 6, 10])
    )
    torch.testing.assert_close(whole, alone, atol=1e-5, rtol=0)


def test_the_prompt_is_read_in_both_directions_and_the_answer_in_one(tmp_path: Path) -> None:
    saved(tmp_path, "flan-t5")
    llm = loaded(tmp_path)
    embeddings, select = llm.embed(torch.arange(9)), torch.arange(4, 9)
    before = llm(embeddings, torch.tensor([9]), select)
    changed = embeddings.clone()
    changed[0] += 1
    assert not torch.isclose(llm(changed, torch.tensor([9]), select), before).all(dim=1).any()
    changed = embeddings.clone()
    changed[7] += 1
    after = llm(changed, torch.tensor([9]), select)
    torch.testing.assert_close(after[:3], before[:3], atol=1e-5, rtol=0)
    assert not torch.isclose(after[3:], before[3:]).all(dim=1).any()


@parametrize_checks(
    Seq2Seq,
    tied=Seq2Seq.Config(scratch=T5Scratch(tie_embeddings=True), audio_start="<|a|>", audio_end="<|b|>"),
)
def test_contract(check: Any) -> None:
    check()


def test_rendering_is_plain_text() -> None:
    llm = Seq2Seq(Seq2Seq.tiny_config(), LLMContext())
    tokenizer = llm.text.tokenizer
    talk = Conversation(
        (
            Message("system", (TextPart("S"),)),
            Message("user", (TextPart("a"), AudioPart("0.flac"), TextPart("b"))),
            Message("assistant", (TextPart("c"),)),
            Message("user", (AudioPart("1.flac"), TextPart("d"))),
            Message("assistant", (TextPart("はい"),)),
        )
    )
    rendered = llm.render(talk)
    assert tokenizer.decode(rendered.ids[: rendered.slots[0]]) == "S\na"
    assert tokenizer.decode(rendered.ids[rendered.slots[0] + 1 : rendered.slots[1]]) == "b\nc\n"
    start = rendered.loss.index(True)
    assert tokenizer.decode(rendered.ids[rendered.slots[1] + 1 : start]) == "d<|end|>"
    assert tokenizer.decode(rendered.ids[start:]) == "はい<|end|>"
    assert all(rendered.loss[start:])
    said = [(s.kind, s.role, tokenizer.decode(rendered.ids[s.start : s.end])) for s in rendered.spans]
    assert [(role, text) for kind, role, text in said if kind == "text"] == [
        ("system", "S"),
        ("user", "a"),
        ("user", "b"),
        ("assistant", "c"),
        ("user", "d"),
        ("assistant", "はい"),
    ]
    assert [text for kind, _, text in said if kind == "template"] == ["\n", "\n", "\n", "<|end|>", "<|end|>"]
    assert llm.render(talk.prompt(), generate=True).ids == rendered.ids[:start]


def test_ids_are_the_tokenizer_s_own() -> None:
    llm = Seq2Seq(Seq2Seq.tiny_config(), LLMContext())
    tokenizer = llm.text.tokenizer
    asked = Conversation((Message("user", (TextPart("translate: はい"),)),))
    assert llm.render(asked, generate=True).ids == [
        *tokenizer.encode("translate: はい", add_special_tokens=False),
        tokenizer.eos_token_id,
    ]


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="scratch is read only with weights: random"):
        Seq2Seq.Config(weights="org/name", scratch=T5Scratch())
    with pytest.raises(ValueError, match=r"num_heads \(3\) must divide dim \(64\)"):
        T5Scratch(dim=64, num_heads=3)
    with pytest.raises(ValueError, match="num_heads: must be at least 1, not 0"):
        T5Scratch(num_heads=0)
    with pytest.raises(ValueError, match=r"built from the training data.*llm\.scratch\.tokenizer=bytes"):
        Seq2Seq(Seq2Seq.Config(), LLMContext())
    llm = Seq2Seq(Seq2Seq.tiny_config(), LLMContext())
    spoken = Conversation((Message("user", (TextPart("a"),)), Message("assistant", (AudioPart("0.flac"),))))
    with pytest.raises(ValueError, match="an answer that is to be learnt holds audio"):
        llm.render(spoken)
    build_tokenizer("bytes", ()).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(WeightsError, match=r"is a 'gpt2' model; llm 'seq2seq' takes mt5, t5, umt5"):
        Seq2Seq(Seq2Seq.Config(weights=str(tmp_path)), LLMContext())
    bare = PreTrainedTokenizerFast(tokenizer_object=build_tokenizer("bytes", ()).backend_tokenizer)
    bare.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="the tokenizer has no end-of-sequence token"):
        Seq2Seq(Seq2Seq.Config(weights=str(tmp_path)), LLMContext())


def test_sizes_of_flan_t5_xl() -> None:
    """2.85 G parameters, with a head of their own."""
    scratch = T5Scratch(dim=2048, ffn_dim=5120, num_layers=24, num_heads=32, tokenizer="bytes")
    with torch.device("meta"):
        llm = Seq2Seq(Seq2Seq.Config(scratch=scratch), LLMContext())
    other_tokens = 2 * 2048 * (32128 - llm.vocab_size)
    assert sum(p.numel() for p in llm.parameters()) + other_tokens == 2_849_757_184

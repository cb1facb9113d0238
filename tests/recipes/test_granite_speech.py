"""A whole Granite-Speech of parts, against transformers' own class with the same small random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    GraniteConfig,
    GraniteForCausalLM,
    GraniteSpeechConfig,
    GraniteSpeechFeatureExtractor,
    GraniteSpeechForConditionalGeneration,
)

from kikimimi import AdapterContext, Generation, LLMContext, Rendered
from kikimimi.contracts.batch import Batch, Sample, collate
from kikimimi.model.lora import add_lora
from kikimimi.model.speech_lm import SpeechLM
from kikimimi.recipe.chosen import LoRA
from kikimimi_adapters.qformer import QFormerAdapter
from kikimimi_encoders.granite_speech import GraniteSpeechEncoder
from kikimimi_llms.decoder import CausalLM
from kikimimi_llms.scratch import build_tokenizer

VOCABULARY, END = 262, 2
AUDIO = 262
"""The audio token, which has no row in the embedding, as in published models."""
TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
    "attention_multiplier": 0.3,
    "logits_scaling": 2.0,
    "tie_word_embeddings": True,
    "bos_token_id": None,
    "eos_token_id": END,
    "pad_token_id": None,
}
ENCODER: dict[str, Any] = {
    "num_layers": 2,
    "hidden_dim": 32,
    "feedforward_mult": 2,
    "num_heads": 2,
    "output_dim": 12,
    "conv_kernel_size": 5,
}
PROJECTOR: dict[str, Any] = {
    "model_type": "blip_2_qformer",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "encoder_hidden_size": 32,
    "cross_attention_frequency": 1,
}
CLIPS = (9_000, 16_000, 48_160)
BEFORE, AFTER = [5, 70, 90], [101, 7, 44, 61]


def noise(length: int) -> Tensor:
    return torch.randn(length, generator=torch.Generator().manual_seed(length)) * 0.1


def published() -> Any:
    torch.manual_seed(0)
    config = GraniteSpeechConfig(
        text_config={"model_type": "granite", **TEXT},
        encoder_config=ENCODER,
        projector_config=PROJECTOR,
        audio_token_index=AUDIO,
        has_lora_adapter=False,
    )
    model: Any = GraniteSpeechForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return model.eval()


def save(folder: Path, model: Any) -> None:
    """Save the model as published, and its LLM once more by itself, as it is published, too."""
    model.save_pretrained(folder / "speech")
    GraniteSpeechFeatureExtractor().save_pretrained(folder / "speech")
    text = GraniteForCausalLM(GraniteConfig(**TEXT))
    text.model.load_state_dict(model.model.language_model.state_dict())
    text.save_pretrained(folder / "text")
    build_tokenizer("bytes", ()).save_pretrained(folder / "text")


def assembled(folder: Path, lora: LoRA | None = None) -> SpeechLM:
    encoder = GraniteSpeechEncoder(GraniteSpeechEncoder.Config(weights=str(folder / "speech")))
    llm = CausalLM(CausalLM.Config(weights=str(folder / "text"), architecture="granite"), LLMContext())
    context = AdapterContext(in_dim=encoder.dim, out_dim=llm.dim, frame_rate=encoder.frame_rate)
    config = QFormerAdapter.Config(
        weights=str(folder / "speech"),
        num_queries=3,
        window_seconds=0.3,
        remainder="pad",
        num_layers=2,
        hidden_dim=32,
        num_heads=4,
        ffn_dim=64,
    )
    adapter = QFormerAdapter(config, context)
    for part in (encoder, adapter, llm):
        part.load_weights()
    gate = None if lora is None else add_lora(llm, lora, where="llm")
    return SpeechLM(encoder, adapter, llm, gate=gate).eval()


def rendered(*, audio: bool, answer: bool) -> Rendered:
    """Return ids with a slot; with an answer, all but the first are targets: their logits are wanted."""
    ids = [*BEFORE, *([0] if audio else []), *AFTER]
    slots = [len(BEFORE)] if audio else []
    return Rendered(ids, [answer and place not in (0, *slots) for place in range(len(ids))], slots)


def batch_of(clips: list[Tensor], *, answer: bool = True) -> Batch:
    samples = [Sample(str(len(clip)), rendered(audio=True, answer=answer), [clip]) for clip in clips]
    return collate([*samples, Sample("text", rendered(audio=False, answer=answer), [])])


def theirs(clip: Tensor | None) -> tuple[dict[str, Tensor], list[int]]:
    """Return the arguments of transformers' model, and the positions whose logits are wanted."""
    features = GraniteSpeechFeatureExtractor()([clip]) if clip is not None else {}
    tokens = features["audio_embed_sizes"][0] if features else 0
    ids = torch.tensor([[*BEFORE, *[AUDIO] * tokens, *AFTER]])
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if features:
        given["input_features"] = features["input_features"]
        given["input_features_mask"] = features["input_features_mask"]
    targets = [*range(1, len(BEFORE)), *range(len(BEFORE) + tokens, ids.shape[1])]
    return given, [place - 1 for place in targets]


def expected_logits(model: Any, clip: Tensor | None) -> Tensor:
    """Return the logits of transformers' model as its LLM would scale them.

    The LLM was trained so, in `GraniteForCausalLM`; the head of this class leaves `logits_scaling` out.
    """
    given, places = theirs(clip)
    with torch.inference_mode():
        logits: Tensor = model(**given).logits[0, places] / TEXT["logits_scaling"]
    return logits


def test_the_head_of_the_reference_leaves_the_scale_out(tmp_path: Path) -> None:
    """Where this fails, transformers has mended it, and `expected_logits` may be plain."""
    reference = published()
    save(tmp_path, reference)
    text = GraniteForCausalLM.from_pretrained(tmp_path / "text").eval()
    given, places = theirs(None)
    with torch.inference_mode():
        scaled = text(**given).logits[0, places]
    torch.testing.assert_close(expected_logits(reference, None), scaled, rtol=0, atol=1e-5)


def expected_answer(model: Any, clip: Tensor | None) -> list[int]:
    given, _ = theirs(clip)
    length = given["input_ids"].shape[1]
    with torch.inference_mode():
        out = model.generate(**given, max_new_tokens=12, do_sample=False, eos_token_id=END, pad_token_id=END)
    new: list[int] = out[0, length:].tolist()
    return new[: new.index(END)] if END in new else new


@pytest.mark.parametrize("clips", [CLIPS[:1], CLIPS])
def test_equals_transformers(tmp_path: Path, clips: tuple[int, ...]) -> None:
    reference = published()
    save(tmp_path, reference)
    model = assembled(tmp_path)
    waves = [noise(length) for length in clips]
    with torch.inference_mode():
        found = model(batch_of(waves)).logits
    # One by one: in a batch the reference lets clips see padding.
    expected = torch.cat([expected_logits(reference, wave) for wave in (*waves, None)])
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    answers = model.generate_ids(batch_of(waves, answer=False), Generation(max_new_tokens=12))
    assert answers == [expected_answer(reference, wave) for wave in (*waves, None)]


def test_low_rank_updates_act_only_where_audio_is_present(tmp_path: Path) -> None:
    reference = published()
    save(tmp_path, reference)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])
    inject_adapter_in_model(config, reference)
    reference.eval()
    text = reference.model.language_model
    with torch.no_grad():
        for name, parameter in text.named_parameters():
            if ".lora_" in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape))
    model = assembled(tmp_path, LoRA(rank=4, alpha=8, targets=["q_proj", "v_proj"], modality="audio"))
    assert isinstance(model.llm, CausalLM)
    model.llm.model.model.load_state_dict(text.state_dict())
    wave = noise(CLIPS[1])
    with torch.inference_mode():
        found = model(batch_of([wave])).logits
    heard, answers = expected_logits(reference, wave), [expected_answer(reference, wave)]
    # As `generate` of the class does for text alone.
    for module in text.modules():
        if isinstance(module, BaseTunerLayer):
            module.enable_adapters(False)
    assert (expected_logits(reference, wave) - heard).abs().max() > 1e-2
    expected = torch.cat([heard, expected_logits(reference, None)])
    answers.append(expected_answer(reference, None))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert model.generate_ids(batch_of([wave], answer=False), Generation(max_new_tokens=12)) == answers


def test_names_of_the_file_are_those_of_the_parts(tmp_path: Path) -> None:
    save(tmp_path, published())
    names = set(load_file(tmp_path / "speech" / "model.safetensors"))
    assert {name.split(".")[0] for name in names} == {"encoder", "projector", "language_model"}

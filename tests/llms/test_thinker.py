"""The thinkers of Qwen2.5-Omni and Qwen3-Omni in parts: transformers' own class against ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen3OmniMoeThinkerConfig,
    Qwen3OmniMoeThinkerForConditionalGeneration,
    WhisperFeatureExtractor,
)

from kikimimi import AdapterContext, Generation, LLMContext, Padded, find_weights, published_part
from kikimimi.errors import WeightsError
from kikimimi_adapters.mlp import MLPAdapter
from kikimimi_encoders.qwen_omni.qwen2_5 import Qwen2_5OmniEncoder
from kikimimi_encoders.qwen_omni.qwen3 import Qwen3OmniEncoder
from kikimimi_llms.decoder import CausalLM
from kikimimi_llms.pretrained import Pretrained
from kikimimi_llms.scratch import build_tokenizer
from kikimimi_llms.text_config import text_config
from kikimimi_llms.transformers_llm import until_stop

AUDIO, START, END, VOCABULARY, WIDTH = 290, 291, 292, 300, 32
FAMILIES = ("qwen2_5_omni", "qwen3_omni_moe")
LENGTHS = (16_000, 33_333, 1_000)
TEXT: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
}
AUDIO_SIZES: dict[str, Any] = {
    "d_model": 16,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "output_dim": WIDTH,
}
VISION = {"depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16, "out_hidden_size": WIDTH}
MOE = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8}
ROPE: dict[str, dict[str, Any]] = {
    "qwen2_5_omni": {"mrope_section": [2, 1, 1], "rope_type": "default", "type": "default"},
    "qwen3_omni_moe": {
        "interleaved": True,
        "mrope_interleaved": True,
        "mrope_section": [2, 1, 1],
        "rope_type": "default",
        "type": "default",
    },
}


def thinker_of(family: str) -> Any:
    torch.manual_seed(0)
    text = {**TEXT, "rope_scaling": dict(ROPE[family]), "rope_theta": 10_000.0}
    audio = dict(AUDIO_SIZES)
    model: Any
    if family == "qwen2_5_omni":
        config: Any = Qwen2_5OmniThinkerConfig(
            audio_config=audio,
            text_config=text,
            vision_config=VISION,
            audio_token_index=AUDIO,
            audio_start_token_id=START,
            audio_end_token_id=END,
            vision_start_token_id=293,
        )
        model = Qwen2_5OmniThinkerForConditionalGeneration(config)
    else:
        config = Qwen3OmniMoeThinkerConfig(
            audio_config={**audio, "downsample_hidden_size": 8},
            text_config={**text, **MOE},
            vision_config={**VISION, "deepstack_visual_indexes": [0]},
            audio_token_id=AUDIO,
            audio_start_token_id=START,
            vision_start_token_id=293,
        )
        model = Qwen3OmniMoeThinkerForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def noise(length: int) -> Tensor:
    return torch.randn(length, generator=torch.Generator().manual_seed(length)) * 0.1


def heard(family: str, clip: Tensor) -> dict[str, Tensor]:
    """Return what the processor of the family makes of a clip."""
    found = WhisperFeatureExtractor(feature_size=128, chunk_length=300)(
        [clip.numpy()],
        sampling_rate=16_000,
        padding="max_length" if family == "qwen2_5_omni" else True,
        truncation=False,
        return_attention_mask=True,
        return_tensors="pt",
    )
    return {
        "input_features": found["input_features"],
        "feature_attention_mask": found["attention_mask"],
    }


def ids_of(num_tokens: int) -> tuple[list[int], list[int], list[int]]:
    """Return the ids before the clip's placeholders, those and the ids behind them."""
    return [70, 71, START], [AUDIO] * num_tokens, [END, 80, 81, 82, 83]


def num_placeholders(family: str, features: dict[str, Tensor]) -> int:
    """Return how many the processor of the family places, by its own words (`_get_feat_extract_...`)."""
    mels = int(features["feature_attention_mask"].sum())
    if family == "qwen2_5_omni":
        return ((mels - 1) // 2 + 1 - 2) // 2 + 1
    rest = mels % 100
    for _ in range(3):
        rest = (rest - 1) // 2 + 1
    return rest + mels // 100 * 13


@pytest.mark.parametrize("family", FAMILIES)
def test_on_text_and_audio_a_thinker_is_its_plain_decoder(family: str, tmp_path: Path) -> None:
    thinker = thinker_of(family)
    decoder = AutoModelForCausalLM.from_config(plain(thinker.config.to_dict(), tmp_path)).eval()
    text = {f"model.{name}": value for name, value in thinker.model.language_model.state_dict().items()}
    decoder.load_state_dict({**text, "lm_head.weight": thinker.lm_head.weight})
    seen: dict[str, Tensor] = {}
    thinker.model.language_model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    features = heard(family, noise(16_000))
    before, clip, behind = ids_of(num_placeholders(family, features))
    for ids, given in (([*before, *clip, *behind], features), ([*before, *behind], {})):
        tokens = torch.tensor([ids])
        with torch.inference_mode():
            theirs = thinker(input_ids=tokens, attention_mask=torch.ones_like(tokens), **given).logits
            positions = torch.arange(len(ids))[None]
            ours = decoder(inputs_embeds=seen["inputs_embeds"], position_ids=positions).logits
        assert torch.equal(seen["position_ids"], positions.expand(3, 1, -1))
        assert theirs.std() > 0.1
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


class Parts(NamedTuple):
    encoder: Any
    adapter: MLPAdapter
    llm: CausalLM


def published(family: str, thinker: Any, folder: Path, prefix: str) -> dict[str, Tensor]:
    """Save a thinker as it is published, alone or in the whole (`thinker.`); return its tensors."""
    thinker.save_pretrained(folder)
    state = {prefix + name: value for name, value in load_file(folder / "model.safetensors").items()}
    if prefix:
        written = json.loads((folder / "config.json").read_text())
        whole = {"model_type": family, "thinker_config": written}
        (folder / "config.json").write_text(json.dumps(whole))
        save_file(state, folder / "model.safetensors", {"format": "pt"})
    return state


def parts_of(family: str, thinker: Any, folder: Path, prefix: str) -> Parts:
    """Take a published thinker apart: the encoder, the adapter from the tower's end, and the LLM."""
    state = published(family, thinker, folder / "published", prefix)
    kind: Any = Qwen2_5OmniEncoder if family == "qwen2_5_omni" else Qwen3OmniEncoder
    encoder = kind(kind.Config(weights=str(folder / "published"))).eval()
    encoder.load_weights()
    one = family == "qwen2_5_omni"
    adapter = MLPAdapter(
        MLPAdapter.Config(
            downsample=1, num_layers=1 if one else 2, hidden_dim=None if one else encoder.dim, bias=True
        ),
        AdapterContext(in_dim=encoder.dim, out_dim=WIDTH, frame_rate=encoder.frame_rate),
    )
    layers = {"proj": "mlp.0"} if one else {"proj1": "mlp.0", "proj2": "mlp.2"}
    adapter.load_state_dict(
        {
            f"{own}.{kind}": state[f"{prefix}audio_tower.{name}.{kind}"]
            for name, own in layers.items()
            for kind in ("weight", "bias")
        }
    )
    text = {
        name.removeprefix(prefix): value
        for name, value in state.items()
        if name.startswith((f"{prefix}model.", f"{prefix}lm_head."))
    }
    (folder / "llm").mkdir()
    save_file(text, folder / "llm" / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "published" / "config.json").read_text())
    alone = plain(config, folder)
    alone.tie_word_embeddings = False
    alone.save_pretrained(folder / "llm")
    build_tokenizer("bytes", ()).save_pretrained(folder / "llm")
    llm = CausalLM(CausalLM.Config(weights=str(folder / "llm")), LLMContext()).eval()
    llm.load_weights()
    return Parts(encoder, adapter.eval(), llm)


@pytest.mark.parametrize("prefix", ["", "thinker."])
@pytest.mark.parametrize("family", FAMILIES)
def test_its_parts_together_are_the_thinker(family: str, prefix: str, tmp_path: Path) -> None:
    thinker = thinker_of(family)
    parts = parts_of(family, thinker, tmp_path, prefix)
    expected, greedy, prompts = [], [], []
    clips = [noise(length) for length in LENGTHS]
    with torch.inference_mode():
        audio = parts.adapter(parts.encoder(Padded.stack(clips))).tokens.unstack()
        for clip, tokens in zip(clips, audio, strict=True):
            features = heard(family, clip)
            before, placeholders, behind = ids_of(num_placeholders(family, features))
            assert len(tokens) == len(placeholders)
            ids = torch.tensor([[*before, *placeholders, *behind]])
            given: dict[str, Any] = {**features, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
            expected.append(thinker(**given).logits[0])
            stop = list(parts.llm.chat.stop_ids)
            made = thinker.generate(**given, max_new_tokens=6, do_sample=False, eos_token_id=stop)
            greedy.append(until_stop(made[0, ids.shape[1] :].tolist(), stop))
            ends = [parts.llm.embed(torch.tensor(part)) for part in (before, behind)]
            prompts.append(torch.cat([ends[0], tokens, ends[1]]))
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        logits = parts.llm(torch.cat(prompts), lengths, torch.arange(int(lengths.sum())))
        answers = parts.llm.generate(prompts, Generation(max_new_tokens=6))
    assert torch.cat(expected).std() > 0.1
    torch.testing.assert_close(logits, torch.cat(expected), rtol=0, atol=1e-4)
    assert answers == greedy


def test_settings_of_three_axes_are_dropped(tmp_path: Path) -> None:
    rope = {**ROPE["qwen3_omni_moe"], "rope_type": "yarn", "type": "yarn", "factor": 2.0}
    rope |= {"original_max_position_embeddings": 32_768}
    given = {"text_config": {**TEXT, **MOE, "rope_scaling": rope, "rope_theta": 5e5}}
    found = plain({"model_type": "qwen3_omni_moe_thinker", **given}, tmp_path)
    assert found.model_type == "qwen3_moe"
    assert found.architectures is None
    kept = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32_768, "rope_theta": 5e5}
    assert kept.items() <= found.rope_parameters.items()
    assert not {"mrope_section", "interleaved", "mrope_interleaved", "type"} & found.rope_parameters.keys()
    # A default of the text model that the plain one does not share, and a size that is no field of it.
    assert (found.norm_topk_prob, found.head_dim, found.num_experts) == (True, 8, 6)
    assert rope["mrope_section"] == [2, 1, 1]


@pytest.mark.parametrize("tied", [True, False])
def test_the_head_is_tied_where_the_files_hold_none(tied: bool, tmp_path: Path) -> None:
    """The flag stands in the whole's settings, in the text model's, or in both with different values."""
    given = {"text_config": {**TEXT, "tie_word_embeddings": not tied}, "tie_word_embeddings": tied}
    theirs: Any = Qwen2_5OmniThinkerForConditionalGeneration(
        Qwen2_5OmniThinkerConfig(**given, audio_config=AUDIO_SIZES, vision_config=VISION)
    )
    assert (theirs.lm_head.weight is theirs.model.language_model.embed_tokens.weight) is tied
    theirs.save_pretrained(tmp_path)
    assert Pretrained(str(tmp_path)).config().tie_word_embeddings is tied


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "qwen2_5_omni"}, r"config\.json: thinker_config\.text_config is missing"),
        ({"model_type": "qwen3_omni_moe", "thinker_config": {}}, r"thinker_config\.text_config is missing"),
        (
            {"model_type": "qwen2_5_omni_thinker", "text_config": {"hidden_size": "wide"}},
            r"config\.json: text_config: .*hidden_size",
        ),
    ],
)
def test_wrong_settings_are_refused(config: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=message):
        plain(config, tmp_path)


def plain(config: dict[str, Any], folder: Path) -> Any:
    """Return the configuration of the plain decoder that a thinker of these settings is."""
    (folder / "settings").mkdir(exist_ok=True)
    (folder / "settings" / "config.json").write_text(json.dumps(config))
    files = find_weights(str(folder / "settings"))
    assert files is not None
    part = published_part(files, "llm")
    assert part is not None
    return text_config(part.config)

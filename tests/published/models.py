"""Tiny speech LLMs with random weights, by transformers' own classes, laid out as they are published."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from peft import (
    LoraConfig,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from transformers import (
    AudioFlamingo3ForConditionalGeneration,
    AutoProcessor,
    AutoTokenizer,
    GraniteSpeechConfig,
    GraniteSpeechFeatureExtractor,
    GraniteSpeechForConditionalGeneration,
    GraniteSpeechProcessor,
    LlamaConfig,
    LlamaForCausalLM,
    Phi4MultimodalConfig,
    Phi4MultimodalFeatureExtractor,
    Phi4MultimodalForCausalLM,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    Qwen3OmniMoeThinkerConfig,
    Qwen3OmniMoeThinkerForConditionalGeneration,
    VoxtralConfig,
    VoxtralForConditionalGeneration,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

from kikimimi_recognisers.tiny_audio_flamingo import TINY_LLM, byte_tokenizer, write_tiny_audio_flamingo

Clips = Sequence[NDArray[np.float32]]
TOWER = {"num_mel_bins": 16, "max_source_positions": 1500}


@dataclass(frozen=True)
class Turn:
    """A user's turn, or an assistant's.

    Attributes:
        words: What is written.
        clips: What is heard before it.
        role: Whose it is.
    """

    words: str
    clips: Clips = ()
    role: str = "user"


@dataclass(frozen=True)
class Tiny:
    """A tiny published model.

    Attributes:
        write: Writes it into a folder.
        opened: Opens the model there by transformers' class.
        asked: What the model gets for a conversation that it is to answer, by the processor of the folder.
        audio_token: Its placeholder's id, from the settings.
        prepare: What is done to it before it is called with some inputs.
        scale: What its logits are to be divided by: its LLM does so, the class of the whole leaves it out.
        leaks: Whether what pads a shorter clip of a batch is seen there, which it never is here.
        cuts: Whether a clip of over 30 s is cut into windows.
        one_clip: Whether a conversation holds at most one clip.
    """

    write: Callable[[Path], None]
    opened: Callable[[Path], Any]
    asked: Callable[[Path, Sequence[Turn]], dict[str, torch.Tensor]]
    audio_token: Callable[[Any], int] = lambda config: config.audio_token_id
    prepare: Callable[[Any, dict[str, torch.Tensor]], None] = lambda model, inputs: None
    scale: float = 1.0
    leaks: bool = False
    cuts: bool = False
    one_clip: bool = False


def parts(turn: Turn) -> list[dict[str, Any]]:
    return [*({"type": "audio", "audio": clip} for clip in turn.clips), {"type": "text", "text": turn.words}]


def by_template(folder: Path, turns: Sequence[Turn]) -> dict[str, torch.Tensor]:
    """Ask through the chat template of a processor of its own."""
    processor: Any = AutoProcessor.from_pretrained(folder)
    messages = [{"role": turn.role, "content": parts(turn)} for turn in turns]
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    clips = [clip for turn in turns for clip in turn.clips]
    sound = {"audio": clips, "sampling_rate": 16_000} if clips else {}
    return dict(processor(text=[text], return_tensors="pt", **sound))


def write_qwen2_audio(folder: Path) -> None:
    tokenizer = byte_tokenizer("<|im_end|>", "<|im_start|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")
    tower = {"d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 16}
    config = Qwen2AudioConfig(
        audio_config={**tower, **TOWER},
        text_config={"model_type": "qwen2", "vocab_size": len(tokenizer), **TINY_LLM},
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )
    torch.manual_seed(0)
    model: Any = Qwen2AudioForConditionalGeneration(config)
    model.save_pretrained(folder)
    Qwen2AudioProcessor(WhisperFeatureExtractor(feature_size=16), tokenizer).save_pretrained(folder)


AUDIO_FLAMINGO_TEMPLATE = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.content | selectattr('type', 'equalto', 'audio') | list %}<sound>{% endif %}"
    "{% for c in m.content if c.type == 'text' %}{{ c.text }}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""What the template of nvidia/audio-flamingo-3-hf renders (convert_audioflamingo3_to_hf.py)."""


def write_audio_flamingo_3(folder: Path) -> None:
    write_tiny_audio_flamingo(folder)
    processor: Any = AutoProcessor.from_pretrained(folder)
    processor.chat_template = AUDIO_FLAMINGO_TEMPLATE
    processor.save_pretrained(folder)


MISTRAL_TOKENS = {
    0: "<unk>",
    1: "<s>",
    2: "</s>",
    3: "[INST]",
    4: "[/INST]",
    5: "[AVAILABLE_TOOLS]",
    6: "[/AVAILABLE_TOOLS]",
    7: "[TOOL_RESULTS]",
    8: "[/TOOL_RESULTS]",
    9: "[TOOL_CALLS]",
    10: "[IMG]",
    11: "<pad>",
    12: "[IMG_BREAK]",
    13: "[IMG_END]",
    14: "[PREFIX]",
    15: "[MIDDLE]",
    16: "[SUFFIX]",
    17: "[SYSTEM_PROMPT]",
    18: "[/SYSTEM_PROMPT]",
    19: "[TOOL_CONTENT]",
    20: "[ARGS]",
    21: "[CALL_ID]",
    24: "[AUDIO]",
    25: "[BEGIN_AUDIO]",
    34: "[TRANSCRIBE]",
}


def write_tekken(folder: Path) -> None:
    """Write Mistral's tokenizer file with the 256 bytes and 40 control tokens."""
    control = [
        {"rank": rank, "token_str": MISTRAL_TOKENS.get(rank, f"<SPECIAL_{rank}>"), "is_control": True}
        for rank in range(40)
    ]
    vocabulary = [
        {"rank": rank, "token_bytes": base64.b64encode(bytes([rank])).decode(), "token_str": None}
        for rank in range(256)
    ]
    encoding = {"num_mel_bins": 16, "hop_length": 160, "window_size": 400}
    sound = {"sampling_rate": 16_000, "frame_rate": 12.5, "chunk_length_s": 30.0}
    config = {
        "pattern": r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s+",
        "num_vocab_tokens": 256,
        "default_vocab_size": 296,
        "default_num_special_tokens": 40,
        "version": "v11",
    }
    content = {
        "config": config,
        "vocab": vocabulary,
        "special_tokens": control,
        "audio": {**sound, "audio_encoding_config": encoding},
    }
    (folder / "tekken.json").write_text(json.dumps(content), encoding="utf-8")


def write_voxtral(folder: Path) -> None:
    tower = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = VoxtralConfig(
        audio_config={**tower, **TOWER},
        text_config={
            "model_type": "llama",
            "vocab_size": 296,
            "head_dim": 16,
            **TINY_LLM,
            "initializer_range": 0.2,
        },
        audio_token_id=24,
    )
    torch.manual_seed(0)
    model: Any = VoxtralForConditionalGeneration(config)
    model.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=16).save_pretrained(folder)
    write_tekken(folder)


def asked_of_voxtral(folder: Path, turns: Sequence[Turn]) -> dict[str, torch.Tensor]:
    """Ask through mistral-common, which builds Voxtral's prompts; it takes files."""
    processor: Any = AutoProcessor.from_pretrained(folder)
    messages: list[dict[str, Any]] = []
    for turn in turns:
        content: list[dict[str, Any]] = []
        for number, clip in enumerate(turn.clips):
            file = folder / f"{len(messages)}-{number}.wav"
            soundfile.write(file, clip, 16_000, subtype="FLOAT")
            content.append({"type": "audio", "path": str(file)})
        messages.append({"role": turn.role, "content": [*content, {"type": "text", "text": turn.words}]})
    return dict(processor.apply_chat_template(messages, return_tensors="pt"))


GRANITE_TEMPLATE = (
    "{% for m in messages %}<|start|>{{ m['role'] + '\\n' + m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
"""Texts that hold the placeholders of their clips, as in Granite's own."""


def write_granite_speech(folder: Path, *, updates: bool = True) -> None:
    tokenizer = byte_tokenizer("<|end|>", "<|start|>", "<|audio|>")
    tokenizer.chat_template = GRANITE_TEMPLATE
    multipliers = {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "logits_scaling": 2.0}
    text = {"model_type": "granite", "vocab_size": len(tokenizer), "attention_multiplier": 0.2, **TINY_LLM}
    config = GraniteSpeechConfig(
        text_config={**text, **multipliers},
        encoder_config={
            **{"num_layers": 2, "hidden_dim": 16, "num_heads": 2, "dim_head": 8, "output_dim": 8},
            **{"context_size": 20, "max_pos_emb": 40},
        },
        projector_config={
            **{"model_type": "blip_2_qformer", "hidden_size": 16, "num_hidden_layers": 1},
            **{"num_attention_heads": 2, "intermediate_size": 16, "encoder_hidden_size": 16},
        },
        audio_token_index=tokenizer.convert_tokens_to_ids("<|audio|>"),
        has_lora_adapter=updates,
    )
    torch.manual_seed(0)
    model: Any = GraniteSpeechForConditionalGeneration(config)
    randomise(model.model.encoder)
    model.save_pretrained(folder)
    if updates:
        write_updates(model, folder, r".*language_model.*\.(q_proj|v_proj)")
    GraniteSpeechProcessor(GraniteSpeechFeatureExtractor(), tokenizer).save_pretrained(folder)


def write_updates(model: Any, folder: Path, targets: str) -> None:
    """Put low-rank updates into a model, and write them as peft does."""
    settings = LoraConfig(r=4, lora_alpha=8, target_modules=targets)
    inject_adapter_in_model(settings, model)
    for name, value in model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(value, std=0.1)
    folder.mkdir(exist_ok=True)
    settings.save_pretrained(folder)
    state = get_peft_model_state_dict(model)
    named = {f"base_model.model.{name}": value for name, value in state.items()}
    save_file(named, folder / "adapter_model.safetensors")


def opened_with_updates(model_class: Any, folder: Path, updates: Path) -> Any:
    """Open a model with updates, which transformers of this version leaves to a later peft."""
    bare = folder.with_name(f"{folder.name}-bare")
    if not bare.exists():
        shutil.copytree(folder, bare, ignore=shutil.ignore_patterns("adapter_*"))
    model = model_class.from_pretrained(bare)
    inject_adapter_in_model(LoraConfig.from_pretrained(str(updates)), model)
    held = load_file(updates / "adapter_model.safetensors")
    set_peft_model_state_dict(model, {name.removeprefix("base_model.model."): held[name] for name in held})
    return model


def only_with_audio(model: Any, inputs: dict[str, torch.Tensor]) -> None:
    """Switch updates as Granite-Speech's and Phi-4-Multimodal's own code does: on where there is audio."""
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.enable_adapters(any(name.endswith("input_features") for name in inputs))


def asked_of_granite(folder: Path, turns: Sequence[Turn]) -> dict[str, torch.Tensor]:
    """Ask through the tokenizer's chat template, with the placeholder in the text."""
    processor: Any = AutoProcessor.from_pretrained(folder)
    messages = [{"role": turn.role, "content": "<|audio|>" * len(turn.clips) + turn.words} for turn in turns]
    text = processor.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    clips = [torch.from_numpy(clip)[None] for turn in turns for clip in turn.clips]
    return dict(processor([text], *([clips] if clips else []), return_tensors="pt"))


PHI_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def write_phi4_multimodal(folder: Path) -> None:
    tokenizer = byte_tokenizer("<|end|>", "<|user|>", "<|assistant|>", "<|audio|>", "<|image|>")
    tokenizer.chat_template = PHI_TEMPLATE
    tokenizer.audio_token, tokenizer.image_token = "<|audio|>", "<|image|>"
    sound, seen = (tokenizer.convert_tokens_to_ids(token) for token in ("<|audio|>", "<|image|>"))
    audio = {
        **{"hidden_size": 32, "num_blocks": 2, "num_attention_heads": 2, "intermediate_size": 48},
        **{"nemo_conv_channels": 8, "ext_pw_out_channel": 32, "depthwise_separable_out_channel": 32},
        **{"bias_max_distance": 7, "audio_token_id": sound},
    }
    vision = {
        **{"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
        **{"image_token_id": seen},
    }
    config = Phi4MultimodalConfig(
        vocab_size=len(tokenizer),
        audio_config=audio,
        vision_config=vision,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        tie_word_embeddings=True,
        **{**TINY_LLM, "initializer_range": 0.2},
    )
    torch.manual_seed(0)
    model: Any = Phi4MultimodalForCausalLM(config)
    encoder = model.model.embed_tokens_extend.audio_embed.encoder
    randomise(encoder)
    with torch.no_grad():
        encoder.encoder_embedding.global_mean.fill_(9.0)
        encoder.encoder_embedding.global_invstd.fill_(0.2)
    model.save_pretrained(folder)
    write_updates(
        model, folder / "speech-lora", r".*model\.layers\.\d+\.(self_attn\.(qkv|o)_proj|mlp\..*_proj)"
    )
    tokenizer.save_pretrained(folder)


def asked_of_phi4(folder: Path, turns: Sequence[Turn]) -> dict[str, torch.Tensor]:
    """Ask through the tokenizer's chat template, with as many placeholders as the extractor counts."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    clips = [clip for turn in turns for clip in turn.clips]
    heard = dict(Phi4MultimodalFeatureExtractor()(clips, sampling_rate=16_000)) if clips else {}
    counts = iter(heard["audio_embed_sizes"].tolist() if clips else [])
    messages = [
        {"role": t.role, "content": "".join("<|audio|>" * next(counts) for _ in t.clips) + t.words}
        for t in turns
    ]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return {"input_ids": tokenizer(text, return_tensors="pt").input_ids, **heard}


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_qwen_omni(folder: Path) -> None:
    """Write a whole Qwen2.5-Omni of which only the thinker is more than a name."""
    tokenizer = byte_tokenizer("<|im_end|>", "<|im_start|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")
    tokenizer.chat_template = CHATML
    tower = {"d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 16}
    rope = {"rope_theta": 1e4, "rope_type": "default", "mrope_section": [2, 3, 3]}
    config = Qwen2_5OmniThinkerConfig(
        audio_config={**tower, **TOWER, "output_dim": 32},
        vision_config={
            "hidden_size": 16,
            "depth": 1,
            "num_heads": 2,
            "intermediate_size": 16,
            "out_hidden_size": 32,
        },
        text_config={"vocab_size": len(tokenizer), "rope_parameters": rope, **TINY_LLM},
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
        image_token_index=-2,
        video_token_index=-3,
        vision_start_token_id=-4,
    )
    torch.manual_seed(0)
    model: Any = Qwen2_5OmniThinkerForConditionalGeneration(config)
    write_thinker(folder, model, tokenizer, "qwen2_5_omni", "talker", "token2wav")


def write_qwen3_omni(folder: Path) -> None:
    """Write a whole Qwen3-Omni of which only the thinker is more than a name."""
    marks = ("<|audio_start|>", "<|audio_end|>")
    tokenizer = byte_tokenizer("<|im_end|>", "<|im_start|>", "<|AUDIO|>", *marks)
    tokenizer.chat_template = CHATML
    tower = {"d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 24}
    rope = {
        "rope_theta": 1e4,
        "rope_type": "default",
        "mrope_section": [2, 1, 1],
        "mrope_interleaved": True,
    }
    experts = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8}
    config = Qwen3OmniMoeThinkerConfig(
        audio_config={**tower, "num_mel_bins": 16, "output_dim": 32, "downsample_hidden_size": 8},
        vision_config={
            "hidden_size": 16,
            "depth": 1,
            "num_heads": 2,
            "intermediate_size": 16,
            "out_hidden_size": 32,
            "deepstack_visual_indexes": [0],
        },
        text_config={"vocab_size": len(tokenizer), "rope_parameters": rope, **TINY_LLM, **experts},
        audio_token_id=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
        audio_start_token_id=tokenizer.convert_tokens_to_ids("<|audio_start|>"),
        image_token_id=-2,
        video_token_id=-3,
        vision_start_token_id=-4,
    )
    torch.manual_seed(0)
    model: Any = Qwen3OmniMoeThinkerForConditionalGeneration(config)
    write_thinker(folder, model, tokenizer, "qwen3_omni_moe", "talker", "code2wav")


def write_thinker(folder: Path, model: Any, tokenizer: Any, model_type: str, *others: str) -> None:
    """Write a thinker alone beside the folder, and as a part of the whole in it."""
    randomise(model.model.audio_tower)
    thinker = folder.with_name(f"{folder.name}-thinker")
    model.save_pretrained(thinker)
    held = load_file(thinker / "model.safetensors")
    state = {f"thinker.{name}": value for name, value in held.items()}
    state |= {f"{other}.weight": torch.zeros(1) for other in others}
    save_file(state, folder / "model.safetensors")
    settings = {"model_type": model_type, "thinker_config": model.config.to_dict()}
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    tokenizer.save_pretrained(folder)


def asked_of_qwen3_omni(folder: Path, turns: Sequence[Turn]) -> dict[str, torch.Tensor]:
    """Ask through the tokenizer's chat template, with as many placeholders as the processor counts."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    clips = [clip for turn in turns for clip in turn.clips]
    heard: dict[str, torch.Tensor] = {}
    counts: list[int] = []
    if clips:
        made = WhisperFeatureExtractor(feature_size=16, chunk_length=300)(
            clips,
            sampling_rate=16_000,
            return_tensors="pt",
            padding=True,
            truncation=False,
            return_attention_mask=True,
        )
        heard = {"input_features": made.input_features, "feature_attention_mask": made.attention_mask}
        for mel in made.attention_mask.sum(-1).tolist():
            rest = mel % 100
            for _ in range(3):
                rest = (rest - 1) // 2 + 1
            counts.append(rest + mel // 100 * 13)
    return {**asked_in_chatml(tokenizer, turns, counts, "<|audio_start|>", "<|audio_end|>"), **heard}


def asked_in_chatml(
    tokenizer: Any, turns: Sequence[Turn], counts: Sequence[int], start: str, end: str
) -> dict[str, torch.Tensor]:
    """Lay out turns by a template, with so many placeholders for each clip between its marks."""
    number = iter(counts)
    messages = []
    for turn in turns:
        slots = (f"{start}{'<|AUDIO|>' * next(number)}{end}" for _ in turn.clips)
        messages.append({"role": turn.role, "content": "".join(slots) + turn.words})
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    ids = tokenizer(text, return_tensors="pt").input_ids
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def asked_of_qwen_omni(folder: Path, turns: Sequence[Turn]) -> dict[str, torch.Tensor]:
    """Ask through the tokenizer's chat template, with as many placeholders as the processor counts."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    clips = [clip for turn in turns for clip in turn.clips]
    heard: dict[str, torch.Tensor] = {}
    counts: list[int] = []
    if clips:
        extractor = WhisperFeatureExtractor(feature_size=16, chunk_length=300)
        made = extractor(
            clips, sampling_rate=16_000, return_tensors="pt", padding="max_length", return_attention_mask=True
        )
        heard = {"input_features": made.input_features, "feature_attention_mask": made.attention_mask}
        counts = [((mel - 1) // 2 + 1 - 2) // 2 + 1 for mel in made.attention_mask.sum(-1).tolist()]
    return {**asked_in_chatml(tokenizer, turns, counts, "<|audio_bos|>", "<|audio_eos|>"), **heard}


class ByHand:
    """A model that no class of transformers is: its encoder, its decoder, and what stands between them.

    The encoder and the decoder lie in folders of their own, beside that of the checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        self.encoder: Any = WhisperModel.from_pretrained(folder.with_name(f"{folder.name}-encoder")).encoder
        self.decoder: Any = LlamaForCausalLM.from_pretrained(folder.with_name(f"{folder.name}-decoder"))
        self.held = load_file(folder / "model.safetensors")
        self.config = SimpleNamespace(audio_token_id=-1)

    def tokens(self, clip: NDArray[np.float32]) -> torch.Tensor:
        """Return the audio tokens (T, D) of a clip."""
        raise NotImplementedError

    def eval(self) -> ByHand:
        self.encoder.eval()
        self.decoder.eval()
        return self

    def _embeds(self, input_ids: torch.Tensor, clips: list[NDArray[np.float32]]) -> torch.Tensor:
        embeds: torch.Tensor = self.decoder.get_input_embeddings()(input_ids.clamp(min=0))
        if clips:
            embeds[0, input_ids[0] < 0] = torch.cat([self.tokens(clip) for clip in clips])
        return embeds

    def __call__(self, input_ids: torch.Tensor, clips: list[NDArray[np.float32]]) -> Any:
        return self.decoder(inputs_embeds=self._embeds(input_ids, clips))

    def generate(
        self, input_ids: torch.Tensor, clips: list[NDArray[np.float32]], **options: Any
    ) -> torch.Tensor:
        embeds = self._embeds(input_ids, clips)
        new = self.decoder.generate(
            inputs_embeds=embeds, attention_mask=torch.ones_like(input_ids), **options
        )
        return torch.cat([input_ids, new], 1)


class SpeechLMJa(ByHand):
    """LlamaForSpeechLM (Atotti/ja-speech-llm): the mean of every four frames, two linear layers."""

    def tokens(self, clip: NDArray[np.float32]) -> torch.Tensor:
        mel = WhisperFeatureExtractor(feature_size=16)(clip, sampling_rate=16_000, return_tensors="pt")
        frames = self.encoder(mel.input_features).last_hidden_state
        pooled = torch.nn.functional.avg_pool1d(frames.transpose(1, 2), 4).transpose(1, 2)[0]
        first, last = self.held["adapter.linear1.weight"], self.held["adapter.linear2.weight"]
        return torch.nn.functional.gelu(pooled[: ja_tokens(clip)] @ first.T) @ last.T


def ja_tokens(clip: NDArray[np.float32]) -> int:
    return ((-(-len(clip) // 160) - 1) // 2 + 1) // 4


class Ultravox(ByHand):
    """Ultravox 0.5 and later: positions and attention end with the clip, stacks of eight, a gated MLP."""

    def tokens(self, clip: NDArray[np.float32]) -> torch.Tensor:
        extractor = WhisperFeatureExtractor(feature_size=16)
        whole = np.pad(clip, (0, -len(clip) % 160))
        mel = extractor(whole, sampling_rate=16_000, return_tensors="pt", padding=False).input_features
        gelu = torch.nn.functional.gelu
        frames = gelu(self.encoder.conv2(gelu(self.encoder.conv1(mel)))).transpose(1, 2)
        frames = frames + self.encoder.embed_positions.weight[: frames.shape[1]]
        for layer in self.encoder.layers:
            frames = layer(frames, None)
            frames = frames[0] if isinstance(frames, tuple) else frames
        frames = self.encoder.layer_norm(frames)[0]
        frames = torch.nn.functional.pad(frames, (0, 0, 0, -len(frames) % 8)).reshape(-1, 8 * frames.shape[1])

        def weight(name: str) -> torch.Tensor:
            return self.held[f"multi_modal_projector.{name}.weight"]

        def norm(x: torch.Tensor, name: str) -> torch.Tensor:
            return x * (x.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt() * weight(name)

        values, gate = (norm(frames, "ln_pre") @ weight("linear_1").T).chunk(2, -1)
        return norm(torch.nn.functional.silu(gate) * values, "ln_mid") @ weight("linear_2").T


ULTRAVOX_TEMPLATE = (
    "{% for m in messages %}<|start|>{{ m['role'] }}<|header|>\n\n{{ m['content'] }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant<|header|>\n\n{% endif %}"
)


def write_ultravox(folder: Path) -> None:
    """Write its projector, and encoder and decoder beside it, which its settings name (0.4.1)."""
    tokenizer = byte_tokenizer("<|eot_id|>", "<|start|>", "<|header|>", "<|audio|>")
    tokenizer.chat_template = ULTRAVOX_TEMPLATE
    sides = write_sides(folder, tokenizer)[:2]
    names = {"ln_pre": (128,), "linear_1": (48, 128), "ln_mid": (24,), "linear_2": (32, 24)}
    state = {f"multi_modal_projector.{name}.weight": torch.rand(shape) for name, shape in names.items()}
    save_file(state, folder / "model.safetensors")
    settings = {
        "model_type": "ultravox",
        "audio_model_id": str(sides[0]),
        "text_model_id": str(sides[1]),
        "stack_factor": 8,
        "hidden_size": 48,
        "projector_act": "swiglu",
        "projector_ln_mid": True,
    }
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")


def asked_of_ultravox(folder: Path, turns: Sequence[Turn]) -> dict[str, Any]:
    """Lay out a prompt by hand: a clip's tokens stand where its placeholder stands in the text."""
    tokenizer = AutoTokenizer.from_pretrained(folder.with_name(f"{folder.name}-decoder"))
    messages = [{"role": turn.role, "content": "\x00" * len(turn.clips) + turn.words} for turn in turns]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    clips = [clip for turn in turns for clip in turn.clips]
    first, *rest = text.split("\x00")
    ids = tokenizer.encode(first)
    for clip, after in zip(clips, rest, strict=True):
        ids += [-1] * ceil(ceil(len(clip) / 160) / 16) + tokenizer.encode(after)
    return {"input_ids": torch.tensor([ids]), "clips": clips}


def write_sides(folder: Path, tokenizer: Any) -> tuple[Path, Path, Any, Any]:
    """Write an encoder and a decoder beside a folder."""
    encoder_side, decoder_side = (
        folder.with_name(f"{folder.name}-{part}") for part in ("encoder", "decoder")
    )
    torch.manual_seed(0)
    sizes = {"d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 32}
    rest = {"decoder_layers": 1, "decoder_attention_heads": 2, "vocab_size": 32, "pad_token_id": 0}
    encoder = WhisperModel(WhisperConfig(num_mel_bins=16, bos_token_id=1, eos_token_id=1, **sizes, **rest))
    decoder = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **TINY_LLM))
    encoder.save_pretrained(encoder_side)
    decoder.save_pretrained(decoder_side)
    tokenizer.save_pretrained(decoder_side)
    return encoder_side, decoder_side, encoder, decoder


def write_speech_llm_ja(folder: Path) -> None:
    """Write its checkpoint, and encoder and decoder beside it, which its settings name."""
    tokenizer = byte_tokenizer("</s>", "<s>", "<|reserved_343|>", "<|reserved_342|>")
    tokenizer.bos_token = "<s>"
    *sides, encoder, decoder = write_sides(folder, tokenizer)
    state = {f"encoder.{name}": value for name, value in encoder.encoder.state_dict().items()}
    state |= {f"decoder.{name}": value for name, value in decoder.state_dict().items()}
    state["adapter.linear1.weight"] = torch.randn(24, 16)
    state["adapter.linear2.weight"] = torch.randn(32, 24)
    save_file(state, folder / "model.safetensors")
    settings = {
        "model_type": "llama_for_speech_lm",
        "encoder_id": str(sides[0]),
        "decoder_id": str(sides[1]),
        "decoder_config": decoder.config.to_dict(),
        "adapter_kernel_size": 4,
        "adapter_linear_bias": False,
        "encoder_type": "whisper",
    }
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")


def asked_of_ja(folder: Path, turns: Sequence[Turn]) -> dict[str, Any]:
    """Lay out a prompt by hand: a clip stands between its marks before the instruction."""
    tokenizer = AutoTokenizer.from_pretrained(folder.with_name(f"{folder.name}-decoder"))
    clips = [clip for turn in turns for clip in turn.clips]
    system = "あなたは音声を理解できるAIアシスタントです。" if clips else "あなたは親切なAIアシスタントです。"
    ids = tokenizer.encode(f"<s>{system}")
    for turn in turns:
        if turn.role == "assistant":
            ids += tokenizer.encode(f"\n\n### 応答:\n{turn.words}")
            continue
        ids += tokenizer.encode("\n\n")
        for clip in turn.clips:
            marks = [tokenizer.encode(f"<|reserved_{number}|>") for number in (343, 342)]
            ids += [*marks[0], *[-1] * ja_tokens(clip), *marks[1]]
        ids += tokenizer.encode(f"### 指示:\n{turn.words}")
    return {"input_ids": torch.tensor([ids + tokenizer.encode("\n\n### 応答:\n")]), "clips": clips}


def randomise(module: torch.nn.Module) -> None:
    """Give weights and statistics values that tell them apart: many begin as zeros or ones."""
    with torch.no_grad():
        for value in [*module.parameters(), *module.buffers()]:
            if value.is_floating_point():
                value.add_(0.1 * torch.rand(value.shape))


TINY = {
    "phi4_multimodal": Tiny(
        write_phi4_multimodal,
        lambda folder: opened_with_updates(Phi4MultimodalForCausalLM, folder, folder / "speech-lora"),
        asked_of_phi4,
        lambda config: config.audio_config.audio_token_id,
        prepare=only_with_audio,
        leaks=True,
    ),
    "llama_for_speech_lm": Tiny(write_speech_llm_ja, SpeechLMJa, asked_of_ja),
    "qwen2_5_omni": Tiny(
        write_qwen_omni,
        lambda folder: Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(
            folder.with_name(f"{folder.name}-thinker")
        ),
        asked_of_qwen_omni,
        lambda config: config.audio_token_index,
    ),
    "qwen3_omni_moe": Tiny(
        write_qwen3_omni,
        lambda folder: Qwen3OmniMoeThinkerForConditionalGeneration.from_pretrained(
            folder.with_name(f"{folder.name}-thinker")
        ),
        asked_of_qwen3_omni,
        leaks=True,  # into a clip below a second
    ),
    "ultravox": Tiny(write_ultravox, Ultravox, asked_of_ultravox),
    "granite_speech": Tiny(
        write_granite_speech,
        lambda folder: opened_with_updates(GraniteSpeechForConditionalGeneration, folder, folder),
        asked_of_granite,
        prepare=only_with_audio,
        scale=2.0,
        leaks=True,
    ),
    "voxtral": Tiny(
        write_voxtral,
        VoxtralForConditionalGeneration.from_pretrained,
        asked_of_voxtral,
        cuts=True,
    ),
    "qwen2_audio": Tiny(
        write_qwen2_audio,
        Qwen2AudioForConditionalGeneration.from_pretrained,
        by_template,
    ),
    "audioflamingo3": Tiny(
        write_audio_flamingo_3,
        AudioFlamingo3ForConditionalGeneration.from_pretrained,
        by_template,
        cuts=True,
        one_clip=True,
    ),
}
"""By their model type."""

"""Recipes of published systems: the settings that make them what they are."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from random import Random
from typing import Any

import pytest
import yaml
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from kikimimi import Conversation
from kikimimi.contracts.conversation import AudioPart, Message, TextPart
from kikimimi.data.order.sources import SECONDS_PER_CHARACTER
from kikimimi.recipe import Recipe, load_recipe, to_yaml
from kikimimi.recipe.resolve import shipped_recipe
from kikimimi.testing.records import CLIP as NAME, labelled_clip
from kikimimi.text.chat_template import ChatTemplate
from kikimimi.text.guarded_tokenizer import AUDIO
from kikimimi_llms.scratch import END, build_tokenizer


@cache
def recipe_of(name: str) -> Recipe:
    return load_recipe(shipped_recipe(name))


# What the recipe resolves to, by dotted key.
LORA_8 = {"rank": 8, "targets": ["q_proj", "v_proj"]}
SETTINGS: dict[str, dict[str, Any]] = {
    "salmonn-13b": {
        "encoder": {"name": "dual"},
        "encoder.first": {"weights": "openai/whisper-large-v2", "pad": "window", "keep_silence": True},
        "encoder.second": {"name": "beats"},
        "adapter": {"window_seconds": 0.333333, "num_queries": 1, "num_layers": 2, "remainder": "drop"},
        "llm.lora": {**LORA_8, "alpha": 32.0, "dropout": 0.1, "modality": "any"},
        "stages.pretrain.train.encoder": {"lr": 3e-5, "part": "norm_*"},
        "stages.pretrain.train.adapter": {"lr": 3e-5, "weight_decay": 0.05},
        "stages.pretrain.train.llm": {"lr": 3e-5, "weight_decay": 0.05, "part": "lora"},
        "stages.pretrain.schedule": {"name": "cosine", "warmup": 3000},
        "stages.pretrain.optimiser": {"decay_norm_and_bias": False},
        "stages.instruct.optimiser": {"decay_norm_and_bias": False},
        "stages.pretrain": {"steps": 30 * 3000, "clip": 0.0},
        "stages.instruct": {"steps": 30 * 3000, "clip": 0.0},
        "evaluate.test_clean.generate": {"num_beams": 4, "max_new_tokens": 200},
    },
    "ltu-as": {
        "encoder": {"weights": "openai/whisper-large", "layers": list(range(1, 33)), "final_norm": False},
        "adapter": {"downsample": 20, "time_heads": 1, "layer_heads": 8},
        "llm.lora": {**LORA_8, "alpha": 16.0, "dropout": 0.05},
        "stages.projection": {"steps": 16_190},
        "stages.perception": {"steps": 17_270},
        "stages.projection.train.adapter": {"lr": 1e-3, "part": "audio_proj.*"},
        "stages.perception.train.adapter": {"lr": 1e-4, "part": "all"},
        "stages.perception.train.llm": {"lr": 1e-4, "part": "lora"},
        "stages.understanding.train.adapter": {"lr": 2e-4, "part": "all"},
        "stages.understanding.train.llm": {"lr": 2e-4, "part": "lora"},
        "stages.understanding.schedule": {"name": "linear", "warmup": 100, "start": 0.0, "floor": 0.0},
    },
    "desta2": {
        "encoder": {
            "weights": "openai/whisper-small",
            "layers": [3, 6, 9, 12],
            "keep_silence": True,
            "final_norm": False,
        },
        "adapter": {"num_queries": 64, "window_seconds": None, "num_layers": 2, "num_heads": 12},
        "llm": {"weights": "meta-llama/Meta-Llama-3-8B-Instruct"},
        "stages.captions.train": {"adapter": {"lr": 1e-4, "weight_decay": 0.01, "part": "all", "groups": {}}},
        "stages.captions.optimiser": {"beta1": 0.9, "beta2": 0.98, "decay_norm_and_bias": True},
        "stages.captions.schedule": {"name": "cosine", "warmup": 2000},
    },
    "wavprompt": {
        "encoder": {
            "freeze_feature_extractor": True,
            "mask_time_prob": 0.65,
            "mask_time_length": 10,
            "mask_feature_prob": 0.25,
            "mask_feature_length": 64,
        },
        "adapter": {"kernel_sizes": [8], "strides": [8]},
        "stages.asr.train": {
            "encoder": {"lr": 2e-4, "weight_decay": 0.0, "part": "all", "groups": {}},
            "adapter": {"lr": 2e-4, "weight_decay": 0.0, "part": "all", "groups": {}},
        },
        "stages.asr.batch": {"seconds": 80.0, "global": 10},
        "stages.asr": {"steps": 100_000, "clip": 0.0},
        "stages.asr.data.librispeech.task": {"request": "what did the speaker say?"},
        "stages.asr.schedule": {"name": "exponential", "warmup": 10_000, "hold": 40_000, "floor": 0.05},
    },
    "blsp": {
        "encoder": {"weights": "openai/whisper-small"},
        "adapter": {
            "kernel_sizes": [5, 5, 5],
            "strides": [2, 2, 2],
            "activation": "glu",
            "bottleneck_dim": 512,
        },
        "stages.instruct.train": {"llm": {"lr": 2e-5, "weight_decay": 0.05, "part": "all", "groups": {}}},
        "stages.instruct": {"steps": 52_002 * 3 // 128 + 1},
        "stages.align.train": {"adapter": {"lr": 5e-5, "weight_decay": 0.05, "part": "all", "groups": {}}},
        "stages.instruct.optimiser": {"decay_norm_and_bias": True},
        "stages.align.optimiser": {"decay_norm_and_bias": True},
        "stages.instruct.schedule": {"warmup": 100, "warmup_type": "log"},
        "stages.align.schedule": {
            "name": "linear",
            "warmup": 1000,
            "warmup_type": "log",
            "start": 0.0,
            "floor": 0.0,
        },
        "stages.align.objective.generate": {"max_new_tokens": 64},
        "stages.align.data.librispeech.task": {"joint": " "},
    },
    "speechverse": {
        "encoder": {"weights": "microsoft/wavlm-large", "layers": None},
        "adapter": {"kernel_sizes": [3, 3], "strides": [2, 2], "norm": "each", "linear": False},
        "llm": {"weights": "google/flan-t5-xl"},
        "llm.lora": {"rank": 16, "targets": ["q", "v"]},
        "stages.align.train": {"adapter": {"lr": 1e-3, "weight_decay": 0.0, "part": "all", "groups": {}}},
        "stages.adapt.train.llm": {"lr": 1e-3, "part": "lora"},
        "stages.multitask.train.llm": {"lr": 1e-3, "part": "lora"},
        "stages.align.schedule": {"warmup": 100},
    },
    "slm": {
        "adapter": {"num_layers": 2, "strides": [2, 2]},
        "llm": {"weights": "bigscience/mt0-xxl-mt"},
    },
    "speech-llama": {
        "adapter": {"mode": "average", "freeze_head": True, "loss_weight": 0.0},
        "stages.lora.train.llm": {"part": "lora"},
    },
    "alignformer": {
        "adapter": {"vocabulary": "llm", "loss_weight": 1.0},
        "llm": {"weights": "microsoft/Phi-3-mini-4k-instruct"},
        "stages.asr.data.librispeech.task": {"order": "audio_first"},
    },
    "llm_jp_4_8b_ja": {
        "encoder": {"weights": "openai/whisper-large-v3", "pad": "window"},
        "adapter": {"downsample": 4, "pool": "mean", "hidden_dim": 8192, "bias": False, "activation": "gelu"},
        "llm": {"audio_start": "<|reserved_343|>", "audio_end": "<|reserved_342|>"},
        "stages.align.train": {"adapter": {"lr": 1e-4, "weight_decay": 0.01, "part": "all", "groups": {}}},
        "stages.sft.train.llm": {"lr": 1e-4, "part": "all"},
        "stages.sft.schedule": {"name": "constant", "warmup": 100, "start": 0.1},
        **{
            f"stages.{stage}.optimiser": {"decay_norm_and_bias": True}
            for stage in ("align", "asr", "sft", "dpo")
        },
        "stages.align": {"steps": 45_000},
        "stages.asr": {"steps": 200_000 - 110_000, "start_from": None},
        "stages.asr.train.llm": {"lr": 1e-4, "part": "all"},
        "stages.sft": {"start_from": "align"},
        "stages.dpo": {"steps": 8_000, "start_from": None},
        "stages.dpo.objective": {
            "name": "dpo",
            "beta": 0.1,
            "form": "sigmoid",
            "label_smoothing": 0.0,
            "turns": "last",
            "disable_dropout": False,
        },
        "stages.dpo.train.llm": {"lr": 5e-6, "part": "all"},
        # 12.5 steps of warm-up, and 0.286 of the peak at the last step.
        "stages.dpo.schedule": {"name": "linear", "warmup": 13, "start": 0.1, "floor": 0.286},
        "stages.sft.data.fsd50k_ccby": {"max_characters": 2048},
        "evaluate.cv8": {"metric": {"name": "cer"}, "normaliser": "whisper-basic-nospace"},
    },
    "llm_jp_4_8b_ja_lora": {
        "llm.lora": {"rank": 16, "alpha": 32.0, "dropout": 0.05, "targets": ["q_proj", "v_proj"]},
        "stages.sft.train.llm": {"lr": 1e-4, "part": "lora"},
        "stages.dpo": {"steps": 10_000},
        "stages.dpo.train.adapter": {"lr": 1e-5},
        "stages.dpo.schedule": {"name": "linear", "warmup": 100, "floor": 0.1},
    },
    "llama-omni": {
        "adapter": {"downsample": 5, "pool": "stack", "hidden_dim": 2048, "activation": "relu", "bias": True},
        "encoder": {"keep_silence": True},
        "llm": {"weights": "meta-llama/Llama-3.1-8B-Instruct"},
        "stages.s2t": {"steps": 200_000 * 3 // 32},
        "stages.s2t.schedule": {"name": "cosine", "warmup": 563},
    },
    "voxtral-mini": {
        "encoder": {"weights": "openai/whisper-large-v3", "pad": "window", "keep_silence": True},
        "adapter": {"downsample": 4, "pool": "stack", "activation": "gelu", "bias": False},
        "stages.warm_up": {
            "train": {"adapter": {"lr": 1e-3, "weight_decay": 0.0, "part": "all", "groups": {}}}
        },
    },
    "qwen-audio": {
        "encoder": {"name": "qwen2_audio", "weights": "openai/whisper-large-v2", "pad": "window"},
        "encoder.spec_augment": {"num_freq_masks": 1, "num_time_masks": 1, "time_width": 100},
        "adapter": {"downsample": 1, "num_layers": 1, "boundaries": True},
    },
    "qwen2-audio": {
        "encoder": {"name": "qwen2_audio", "weights": "openai/whisper-large-v3"},
        "adapter": {"downsample": 1, "num_layers": 1, "boundaries": False},
    },
    "phi-4-multimodal": {
        "encoder": {"name": "phi4_multimodal", "sizes": None},
        "adapter": {"downsample": 1, "num_layers": 2},
        "llm.lora": {"rank": 320, "alpha": 640.0, "dropout": 0.01, "modality": "audio"},
        "stages.asr": {"steps": 50_000},
        "stages.asr.train.encoder": {"lr": 4e-5},
        "stages.sft": {"steps": 50_000},
        "stages.sft.train.llm": {"lr": 1e-4, "part": "lora"},
    },
    "granite-speech": {
        "encoder": {"name": "granite_speech", "weights": "ibm-granite/granite-speech-3.3-2b"},
        "adapter": {"num_queries": 3, "window_seconds": 0.3, "remainder": "pad", "weights": "random"},
        "llm": {"weights": "ibm-granite/granite-3.3-2b-instruct"},
        "llm.lora": {"rank": 64, "alpha": 32.0, "targets": ["q_proj", "v_proj"], "modality": "audio"},
        "stages.align.train.llm": {"lr": 1e-4, "part": "lora"},
    },
    "audiochatllama": {
        "encoder.sizes": {"dim": 512, "num_heads": 8, "ffn_dim": 2048, "kernel_size": 11, "num_mels": 80},
        "llm": {"weights": "meta-llama/Llama-2-7b-chat-hf"},
    },
    "ultravox": {
        "encoder": {"weights": "openai/whisper-large-v3-turbo", "pad": "none", "keep_silence": False},
        "encoder.lora": {"rank": 8, "alpha": 8.0, "dropout": 0.0, "targets": ["q_proj", "k_proj"]},
        "adapter": {
            "downsample": 8,
            "pool": "stack",
            "remainder": "pad",
            "norm": "rms",
            "second_norm": "hidden",
            "norm_init": 0.4,
            "hidden_dim": 4096 // 2,
            "activation": "swiglu",
            "bias": False,
        },
        "llm": {"weights": "meta-llama/Llama-3.1-8B-Instruct", "chat_template": None},
        "stages.align.objective": {
            "name": "distill",
            "loss": "kl",
            "temperature": 2.0,
            "continuation": "data",
        },
        "stages.align.train": {
            "encoder": {"lr": 1e-3, "weight_decay": 0.0, "part": "lora", "groups": {}},
            "adapter": {"lr": 1e-3, "weight_decay": 0.0, "part": "all", "groups": {}},
        },
        "stages.align.schedule": {"name": "cosine", "warmup": 1000, "start": 0.0, "floor": 0.0},
        "stages.align.batch": {"loss": "micro_batches"},
    },
    "llama-3-speech": {
        "encoder.sizes": {"dim": 1536, "num_layers": 24, "num_heads": 24, "kernel_size": 7, "subsampling": 4},
        "adapter": {"kernel_size": 3, "strides": [2], "num_layers": 1, "position": "rotary"},
    },
}
FROZEN_LLM = ("desta2", "wavprompt", "slm", "alignformer", "audiochatllama", "llama-3-speech", "ultravox")
WHOLE_LLM = (
    "blsp",
    "llm_jp_4_8b_ja",
    "llama-omni",
    "voxtral-mini",
    "qwen-audio",
    "qwen2-audio",
)
TRAINED_ENCODER = (
    "wavprompt",
    "voxtral-mini",
    "qwen-audio",
    "qwen2-audio",
    "phi-4-multimodal",
    "granite-speech",
    "audiochatllama",
    "llama-3-speech",
)


@pytest.mark.parametrize(
    ("name", "key"), [(name, key) for name, keys in SETTINGS.items() for key in keys], ids="-".join
)
def test_settings(name: str, key: str) -> None:
    shown = yaml.safe_load(to_yaml(recipe_of(name)))
    for step in key.split("."):
        shown = shown[step]
    expected = SETTINGS[name][key]
    assert {option: shown[option] for option in expected} == expected


@pytest.mark.parametrize("name", SETTINGS)
def test_what_is_frozen_stays_frozen(name: str) -> None:
    stages = recipe_of(name).stages.values()
    assert any("llm" in stage.train for stage in stages) == (name not in FROZEN_LLM)
    whole = {part for stage in stages for part, train in stage.train.items() if train.part == "all"}
    assert ("encoder" in whole) == (name in TRAINED_ENCODER)
    assert ("llm" in whole) == (name in WHOLE_LLM)


@pytest.mark.parametrize(
    ("name", "stage", "clips", "seconds"),
    [
        ("salmonn-13b", "pretrain", 32 * 8, 10),
        ("salmonn-13b", "instruct", 32 * 8, 10),
        ("ltu-as", "projection", 256, 10),
        ("ltu-as", "perception", 240, 10),  # 6 clips, 10 micro-batches, 4 GPUs
        ("ltu-as", "understanding", 256, 10),
        ("desta2", "captions", 8, 6),
        ("blsp", "instruct", 128, 375 * SECONDS_PER_CHARACTER),
        ("blsp", "align", 768, 5),
        ("speechverse", "multitask", 768, 10),
        ("llm_jp_4_8b_ja", "align", 128, 6),
        ("llm_jp_4_8b_ja", "sft", 128, 12),
        ("llm_jp_4_8b_ja", "asr", 128, 6),
        ("llm_jp_4_8b_ja", "dpo", 128, 12),
        ("ultravox", "align", 12 * 2 * 8, 6),
        ("llama-omni", "s2t", 32, 7.5),  # 418 hours of 200,000 instructions
    ],
)
def test_clips_per_step(name: str, stage: str, clips: int, seconds: float) -> None:
    batch = recipe_of(name).stages[stage].batch
    assert batch.budget * batch.global_ / seconds == pytest.approx(clips, rel=0.01)


@pytest.mark.parametrize(
    ("name", "devices"),
    [
        ("salmonn-13b", 32),
        ("ltu-as", 4),
        ("blsp", 8),
        ("speechverse", 8),
        ("llm_jp_4_8b_ja", 8),
        ("granite-speech", 32),
        ("ultravox", 8),
    ],
)
def test_devices(name: str, devices: int) -> None:
    recipe = recipe_of(name)
    assert recipe.trainer.devices * recipe.trainer.nodes == devices
    assert all(stage.batch.global_ % devices == 0 for stage in recipe.stages.values())


# What is asked, and which parts of a mixture datasets have.


def test_the_japanese_speech_llm_is_finetuned_on_seven_datasets() -> None:
    recipe = recipe_of("llm_jp_4_8b_ja")
    data = recipe.stages["sft"].data
    assert [(name, source.task.name, source.weight) for name, source in data.items()] == [
        ("spoken_magpie", "chat", 6),
        ("spoken_multiturn", "chat", 2),
        ("reazonspeech", "asr", 9),
        ("fsd50k_cc0", "caption", 1),
        ("fsd50k_ccby", "caption", 1),
        ("librispeech", "asr", 1),
        ("text_only", "chat", 1),
    ]
    spoken = "これはタスクを説明する音声の指示です。要求を適切に満たす応答を書きなさい。"
    requests = [data[name].task.config.request for name in ("spoken_magpie", "spoken_multiturn", "text_only")]
    assert requests == [spoken, spoken, None]
    recipes = [recipe, recipe_of("llm_jp_4_8b_ja_lora")]
    stages = [stage for given in recipes for stage in given.stages.values()]
    assert {stage.faults.policy for stage in stages} == {"skip"}


def test_voxtral_repeats_and_continues_alike() -> None:
    recipe = recipe_of("voxtral-mini")
    for stage in ("warm_up", "pretrain"):
        repetition, continuation, text = recipe.stages[stage].data.values()
        assert (repetition.task.name, continuation.task.name, text.task.name) == (
            "repetition",
            "continuation",
            "chat",
        )
        assert repetition.weight == continuation.weight


@pytest.mark.parametrize(
    ("name", "stage"), [("llama-3-speech", "sft"), ("qwen2-audio", "pretrain"), ("granite-speech", "align")]
)
def test_published_hours_are_parts_of_the_time(name: str, stage: str) -> None:
    assert recipe_of(name).stages[stage].mixture.by == "seconds"


TAGS = "<|startoftranscript|><|ja|><|transcribe|><|ja|>"
SOUND = "<|startofanalysis|><|unknown|><|caption|><|en|><|notimestamps|><|caption_plain|>"
FEELING = "<|startofanalysis|><|ja|><|keyword|><|en|><|notimestamps|><|emotion_recognition|>"


@pytest.mark.parametrize(
    ("name", "place", "turns"),
    [
        ("audiochatllama", "align.mls", ["<audio>", "{text}"]),
        (
            "blsp",
            "align.librispeech",
            [
                "Continue the following text in a coherent and engaging style with less than 40 words."
                "<audio>",
                "{text}",
            ],
        ),
        ("desta2", "captions.speech_captions", ["<audio>{text}\n{question}", "{answer}"]),
        (
            "granite-speech",
            "align.librispeech",
            [
                "Knowledge Cutoff Date: April 2024.\nToday's Date: April 9, 2025.\n"
                "You are Granite, developed by IBM. You are a helpful AI assistant",
                "<audio>can you transcribe the speech into a written format?",
                "{text}",
            ],
        ),
        ("llama-3-speech", "sft.asr", ["Repeat after me in Japanese:", "<audio>", "{text}"]),
        (
            "llama-3-speech",
            "sft.into_english",
            ["Translate the following sentence into English:", "<audio>", "{english}"],
        ),
        (
            "llama-omni",
            "s2t.instruct_s2s",
            [
                "You are a helpful language and speech assistant. You are able to understand the speech "
                "content that the user provides, and assist the user with a variety of tasks using natural "
                "language.",
                "<audio>\nPlease directly answer the questions in the user's speech.",
                "{answer}",
            ],
        ),
        ("llm_jp_4_8b_ja", "sft.fsd50k_cc0", ["<audio>音声を説明してください。", "{caption}"]),
        ("llm_jp_4_8b_ja", "sft.librispeech", ["<audio>Transcribe the audio.", "{text}"]),
        ("ltu-as", "understanding.speech", ["<audio>{question}\n\n### Input:\n{text}", "{answer}"]),
        ("ltu-as", "understanding.sound", ["<audio>{question}", "{answer}"]),
        (
            "phi-4-multimodal",
            "sft.into_english_by_transcript",
            [
                "<audio>Transcribe the audio to text, and then translate the audio to English. Use <sep> as "
                "a separator between the original transcript and the translation.",
                "{text} <sep> {english}",
            ],
        ),
        ("qwen-audio", "multitask.transcripts", [f"<audio>{TAGS}<|notimestamps|><|wo_itn|>", "{text}"]),
        ("qwen-audio", "multitask.captions", [f"<audio>{SOUND}", "{caption}"]),
        ("qwen-audio", "multitask.emotions", [f"<audio>{FEELING}", "{emotion}"]),
        (
            "qwen2-audio",
            "pretrain.asr",
            ["<audio>Detect the language and recognize the speech:", "<|ja|>{text}"],
        ),
        ("qwen2-audio", "pretrain.sound", ["<audio>Generate the caption in English:", "{caption}"]),
        ("qwen2-audio", "sft.voice_chat", ["<audio>", "{answer}"]),
        (
            "salmonn-13b",
            "instruct.emotions",
            ["<audio>Describe the emotion of the speaker in one word.", "{emotion}"],
        ),
        ("speechverse", "multitask.asr", ["<audio>Transcribe the preceding audio", "{text}"]),
        (
            "speechverse",
            "multitask.speakers",
            ["<audio>How many distinct speakers are there in this audio clip.", "{answer}"],
        ),
        (
            "ultravox",
            "align.librispeech_continuation",
            ["Continue the following text using less than 50 words:\n\n<audio>", "{answer}"],
        ),
        (
            "ultravox",
            "align.gigaspeech",
            ["Repeat the following text, without any explanation: <audio>", "{text}"],
        ),
        (
            "ultravox",
            "align.covost2_x_en",
            [
                "Please translate the text to English. Your response should only include the English "
                "translation, without any additional words:\n\n<audio>",
                "{english}",
            ],
        ),
        ("voxtral-mini", "pretrain.repetition", ["<audio><repeat>", "{text}"]),
        ("voxtral-mini", "pretrain.continuation", ["<audio><next>", "{next}"]),
        ("voxtral-mini", "sft.transcription", ["<audio>[TRANSCRIBE]", "{text}"]),
        ("wavprompt", "asr.librispeech", ["<audio>what did the speaker say?", "{text}"]),
    ],
)
def test_what_is_said_by_whom(name: str, place: str, turns: list[str]) -> None:
    stage, dataset = place.split(".")
    task = recipe_of(name).stages[stage].data[dataset].task
    record = labelled_clip(Random(0))
    made = task.component(task.config).conversation(record, [NAME], None)
    fields = {**record, "caption": record["captions"][0], "next": record["segments"][1]["text"]}
    fields["english"] = record["translation"]["en"]
    written = [
        "".join(part.text if isinstance(part, TextPart) else "<audio>" for part in message.parts)
        for message in made.messages
    ]
    assert written == [turn.format_map(fields) if "{" in turn else turn for turn in turns]


# How the templates that stand in recipes write a conversation down.

CLIP, ASK = AudioPart("0.flac"), TextPart("Do.")


@pytest.mark.parametrize(
    ("name", "parts", "written"),
    [
        ("salmonn-13b", (CLIP, ASK), f"USER: <Speech>{AUDIO}</Speech> Do.\nASSISTANT: Done.{END}"),
        ("salmonn-13b", (ASK,), f"USER: Do.\nASSISTANT: Done.{END}"),
        ("blsp", (ASK, CLIP), f"###[Human]:Do.{AUDIO}\n\n\n###[Assistant]: Done.{END}"),
        ("wavprompt", (CLIP, ASK), f"{AUDIO}Do. Done.{END}"),
        ("ltu-as", (CLIP, ASK), f"{AUDIO}### Instruction:\nDo.\n\n### Response:\nDone.{END}"),
    ],
)
def test_templates(name: str, parts: tuple[AudioPart | TextPart, ...], written: str) -> None:
    template = recipe_of(name).llm.config.chat_template
    chat = ChatTemplate(build_tokenizer("bytes", []), source=name, template=template)
    asked = Conversation((Message("user", parts),))
    answered = Conversation((*asked.messages, Message("assistant", (TextPart("Done."),))))
    assert chat.text(answered) == written
    assert written.startswith(chat.text(asked, generate=True))
    rendered = chat.render(answered)
    assert len(rendered.slots) == parts.count(CLIP)
    answer = [i for i, wanted in zip(rendered.ids, rendered.loss, strict=True) if wanted]
    assert chat.tokenizer.decode(answer).strip() == f"Done.{END}"


LLAMA_3 = "<|start_header_id|>{}<|end_header_id|>\n\n"


@pytest.mark.parametrize(
    ("name", "parts", "written"),
    [
        (
            "llama-omni",
            (CLIP, TextPart("\nDo.")),
            f"{LLAMA_3.format('user')}{AUDIO}\nDo.<|eot_id|>{LLAMA_3.format('assistant')}Done.<|eot_id|>",
        ),
        (
            "qwen2-audio",
            (CLIP, CLIP, ASK),
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
            f"Audio 1: <|audio_bos|>{AUDIO}<|audio_eos|>\nAudio 2: <|audio_bos|>{AUDIO}<|audio_eos|>\nDo."
            "<|im_end|>\n<|im_start|>assistant\nDone.<|im_end|>\n",
        ),
    ],
)
def test_templates_with_tokens_of_their_llm(
    name: str, parts: tuple[AudioPart | TextPart, ...], written: str
) -> None:
    own = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|im_start|>", "<|im_end|>"]
    template = recipe_of(name).llm.config.chat_template
    chat = ChatTemplate(build_tokenizer("bytes", [], own), source=name, template=template)
    asked = Conversation((Message("user", parts),))
    answered = Conversation((*asked.messages, Message("assistant", (TextPart("Done."),))))
    assert chat.text(answered) == written
    assert written.startswith(chat.text(asked, generate=True))
    assert len(chat.render(answered).slots) == parts.count(CLIP)


@pytest.mark.parametrize("name", ["blsp", "ltu-as", "salmonn-13b", "wavprompt"])
def test_training_and_generation_have_one_tokenisation(name: str) -> None:
    """With a tokenizer that merges blanks into words, as GPT-2's: WavPrompt's blank stays by itself."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "h"), ("Ġ", "l"), ("Ċ", "h"), (":", "Ġ")]
    tokens = [END, *alphabet, *("".join(pair) for pair in merges)]
    backend = Tokenizer(BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=END, eos_token=END)
    template = recipe_of(name).llm.config.chat_template
    chat = ChatTemplate(tokenizer, source=name, template=template)
    asked = Conversation((Message("user", (CLIP, TextPart("what did the speaker say?"))),))
    answered = Conversation((*asked.messages, Message("assistant", (TextPart("hello"),))))
    prompt, rendered = chat.render(asked, generate=True).ids, chat.render(answered)
    start = rendered.loss.index(True)
    assert rendered.ids[:start] == prompt
    if name == "wavprompt":
        assert tokenizer.convert_ids_to_tokens(rendered.ids[start - 1 :]) == ["Ġ", *"hello", END]


# Llama-3.1's own, without what serves tools.
LLAMA_3_1 = """{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Cutting Knowledge Date: December 2023\\nToday Date: 26 Jul 2024\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim }}
    {{- '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}"""


def llama_3_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of bytes that, as Llama's, joins a colon or a full stop with line breaks after it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ċ", "Ċ"), (":", "ĊĊ"), (".", "ĊĊ"), ("ĊĊ", "Ċ"), ("Ġ", "h")]
    control = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokens = [*control, *alphabet, *("".join(pair) for pair in merges)]
    backend = Tokenizer(BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.add_special_tokens(control)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=control[0],
        eos_token=control[3],
        extra_special_tokens=control[1:3],
    )
    tokenizer.chat_template = LLAMA_3_1
    return tokenizer


@pytest.mark.parametrize(
    "content",
    [
        "<|audio|>",
        "Continue the following text using less than 50 words:\n\n<|audio|>",
        "Repeat the following text, without any explanation: <|audio|>",
        "<|audio|>\n\nhi",
        "First <|audio|>, then <|audio|><|audio|>.\n\n\nhi",
    ],
)
def test_ultravoxs_ids_are_those_of_its_processor(content: str) -> None:
    """There the text of the LLM's own template is split at `<|audio|>`, and each piece encoded by itself."""
    tokenizer = llama_3_tokenizer()
    history: list[dict[str, Any]] = [
        {"role": "user", "content": "Hi."},
        {"role": "assistant", "content": "Hi.\n\n"},
        {"role": "user", "content": content},
    ]
    text = tokenizer.apply_chat_template(history, tokenize=False, add_generation_prompt=True)
    assert isinstance(text, str)
    pieces = [tokenizer.encode(piece, add_special_tokens=False) for piece in text.split("<|audio|>")]

    said = content.split("<|audio|>")
    parts = [part for text in said for part in (TextPart(text), CLIP) if part != TextPart("")][:-1]
    asked = [Message("user", (TextPart("Hi."),)), Message("assistant", (TextPart("Hi.\n\n"),))]
    conversation = Conversation((*asked, Message("user", tuple(parts))))
    template = recipe_of("ultravox").llm.config.chat_template
    chat = ChatTemplate(tokenizer, source="ultravox", template=template)
    rendered = chat.render(conversation, generate=True)
    cuts = [-1, *rendered.slots, len(rendered.ids)]
    found = [rendered.ids[start + 1 : end] for start, end in pairwise(cuts)]
    assert found == pieces
    assert len(pieces) == content.count("<|audio|>") + 1

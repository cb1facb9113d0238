"""The types of published speech LLMs that can be taken in, by the `model_type` of their `config.json`."""

from collections.abc import Callable

from kikimimi.published.audio_flamingo_3 import express_audio_flamingo_3
from kikimimi.published.granite_speech import express_granite_speech
from kikimimi.published.model import Expressed, PublishedModel
from kikimimi.published.phi4_multimodal import express_phi4_multimodal
from kikimimi.published.qwen2_audio import express_qwen2_audio
from kikimimi.published.qwen_omni import express_2_5, express_3
from kikimimi.published.speech_llm_ja import express_speech_llm_ja
from kikimimi.published.ultravox import express_ultravox
from kikimimi.published.voxtral import express_voxtral

FAMILIES: dict[str, Callable[[PublishedModel], Expressed]] = {
    "audioflamingo3": express_audio_flamingo_3,
    "granite_speech": express_granite_speech,
    "llama_for_speech_lm": express_speech_llm_ja,
    "phi4_multimodal": express_phi4_multimodal,
    "qwen2_5_omni": express_2_5,
    "qwen2_5_omni_thinker": express_2_5,
    "qwen2_audio": express_qwen2_audio,
    "qwen3_omni_moe": express_3,
    "qwen3_omni_moe_thinker": express_3,
    "ultravox": express_ultravox,
    "voxtral": express_voxtral,
}
"""How each type is expressed."""

"""The types of published speech LLMs that can be taken in, by the `model_type` of their `config.json`."""

from collections.abc import Callable

from kikimimi.published import (
    audio_flamingo_3,
    granite_speech,
    phi4_multimodal,
    qwen2_audio,
    qwen_omni,
    speech_llm_ja,
    ultravox,
    voxtral,
)
from kikimimi.published.model import Expressed, PublishedModel

FAMILIES: dict[str, Callable[[PublishedModel], Expressed]] = {
    "audioflamingo3": audio_flamingo_3.express,
    "granite_speech": granite_speech.express,
    "llama_for_speech_lm": speech_llm_ja.express,
    "phi4_multimodal": phi4_multimodal.express,
    "qwen2_5_omni": qwen_omni.express_2_5,
    "qwen2_5_omni_thinker": qwen_omni.express_2_5,
    "qwen2_audio": qwen2_audio.express,
    "qwen3_omni_moe": qwen_omni.express_3,
    "qwen3_omni_moe_thinker": qwen_omni.express_3,
    "ultravox": ultravox.express,
    "voxtral": voxtral.express,
}
"""How each type is expressed."""

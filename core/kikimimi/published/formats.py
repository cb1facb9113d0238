"""The shapes in which a trained model can be written, in the order in which `auto` tries them."""

from kikimimi.published.audio_flamingo_3 import AUDIO_FLAMINGO_3
from kikimimi.published.granite_speech import GRANITE_SPEECH
from kikimimi.published.qwen2_audio import QWEN2_AUDIO
from kikimimi.published.served import Format
from kikimimi.published.ultravox import ULTRAVOX
from kikimimi.published.voxtral import VOXTRAL
from kikimimi.published.voxtral_mistral import VOXTRAL_MISTRAL

FORMATS: dict[str, Format] = {
    "qwen2_audio": QWEN2_AUDIO,
    "audioflamingo3": AUDIO_FLAMINGO_3,
    "ultravox": ULTRAVOX,
    "voxtral": VOXTRAL,
    "voxtral-mistral": VOXTRAL_MISTRAL,
    "granite_speech": GRANITE_SPEECH,
}
"""The shapes by name. What no class of its own fits stands last: a custom model of transformers."""

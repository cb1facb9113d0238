"""The settings of the text model inside a published speech LLM, as those of a model of its own."""

from collections.abc import Mapping
from typing import Any

from transformers import CONFIG_MAPPING

_ALONE = {"phi4_multimodal": "phi3", "qwen2_5_omni_text": "qwen2", "qwen3_omni_moe_text": "qwen3_moe"}
"""Model type of a text model alone, by that which it has inside a whole; others have one type."""
_OF_THE_WHOLE = {"model_type", "architectures", "transformers_version"}


def text_config(settings: Mapping[str, Any]) -> Any:
    """Return transformers' configuration of a text model.

    The thinkers of Qwen-Omni rotate by three positions (M-RoPE), which are one and the same for text and
    audio: that is ordinary RoPE. Phi-4-Multimodal has its text model's settings among those of the whole.

    Args:
        settings: The text model's part of `config.json`, with its `model_type`.
    """
    inside = str(settings["model_type"])
    config_class: Any = CONFIG_MAPPING[_ALONE.get(inside, inside)]
    if inside not in _ALONE:
        return config_class.from_dict(dict(settings))
    known = config_class().to_dict().keys() - _OF_THE_WHOLE
    config = config_class(**{name: value for name, value in settings.items() if name in known})
    rope = dict(config.rope_parameters or {})
    for name in ("mrope_section", "mrope_interleaved", "interleaved", "type"):
        rope.pop(name, None)
    config.rope_parameters = rope
    return config

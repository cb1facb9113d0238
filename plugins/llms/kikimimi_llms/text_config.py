"""The settings of the text model inside a published speech LLM, as those of a model of its own."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from transformers import CONFIG_MAPPING

_ALONE = {"phi4_multimodal": "phi3", "qwen2_5_omni_text": "qwen2", "qwen3_omni_moe_text": "qwen3_moe"}
"""Model type of a text model alone, by that which it has inside a whole; others have one type."""
_OF_THE_WHOLE = {"model_type", "architectures", "transformers_version", "_name_or_path"}
_AXES = ("mrope_section", "mrope_interleaved", "interleaved", "type")
"""Settings of rotary positions on three axes; `type` is an older spelling of `rope_type`."""


def text_config(settings: Mapping[str, Any]) -> Any:
    """Return transformers' configuration of a text model.

    Positions of Qwen-Omni's thinkers have three axes (time, height, width), which are equal for whatever is
    not seen; then rotating by them is rotating by one position, and the rest is Qwen2 or Qwen3-MoE, with the
    same names of tensors. Phi-4-Multimodal has its text model's settings among those of the whole.

    Args:
        settings: The text model's part of `config.json`, with its `model_type` and all that it may leave out.
    """
    inside = str(settings["model_type"])
    config_class: Any = CONFIG_MAPPING[_ALONE.get(inside, inside)]
    if inside not in _ALONE:
        return config_class.from_dict(dict(settings))
    others = {
        name for name, value in settings.items() if isinstance(value, Mapping) and "model_type" in value
    }
    dropped = _OF_THE_WHOLE | others
    own = {name: deepcopy(value) for name, value in settings.items() if name not in dropped}
    if inside == "qwen3_omni_moe_text":
        own["use_sliding_window"] = False  # the text model does not read it, a plain one would
    if own.get("rope_parameters"):
        own["rope_parameters"] = {k: v for k, v in own["rope_parameters"].items() if k not in _AXES}
    return config_class(**own)

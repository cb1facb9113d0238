"""The settings of the text model inside a published speech LLM, as those of a model of its own."""

from collections.abc import Mapping
from typing import Any

from transformers import AutoConfig, Phi3Config


def text_config(settings: Mapping[str, Any]) -> Any:
    """Return transformers' configuration of a text model.

    Phi-4-Multimodal's text model has its settings among those of the whole, and is a Phi-3.

    Args:
        settings: The text model's part of `config.json`, with its `model_type`.
    """
    if settings["model_type"] == "phi4_multimodal":
        known = Phi3Config().to_dict().keys() - {"model_type", "architectures", "transformers_version"}
        return Phi3Config(**{name: value for name, value in settings.items() if name in known})
    return AutoConfig.for_model(**settings)

"""The `config.json` of a checkpoint, from which an encoder takes its sizes."""

from __future__ import annotations

from typing import Any

from huggingface_hub.errors import StrictDataclassError

from kikimimi import WeightsError, WeightsFiles


def read_config(files: WeightsFiles, encoder: str, *model_types: str) -> dict[str, Any]:
    """Read the file.

    Args:
        files: The checkpoint.
        encoder: Registered name of the encoder, for the message.
        model_types: Types of models that the encoder takes.

    Raises:
        WeightsError: There is no such file, or it is that of another type of model.
    """
    config: dict[str, Any] = files.read_json("config.json")
    found = config.get("model_type")
    if found not in model_types:
        raise WeightsError(
            f"{files.source}: is a {found!r} model; encoder '{encoder}' takes "
            f"{', '.join(map(repr, model_types))}"
        )
    return config


def build_config(config_class: Any, config: dict[str, Any], source: str) -> Any:
    """Build transformers' config.

    Raises:
        WeightsError: transformers refuses it.
    """
    try:
        return config_class.from_dict(config)
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise WeightsError(f"{source}: config.json: {error}") from error

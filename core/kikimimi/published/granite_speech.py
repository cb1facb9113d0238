"""Granite-Speech 3.x (Saon et al. 2025, arXiv 2505.08699; `GraniteSpeechForConditionalGeneration`)."""

from typing import Any

from kikimimi.errors import WeightsError
from kikimimi.published.model import Expressed, PublishedModel, published_updates

_FRAMES_A_SECOND = 50


def express_granite_speech(model: PublishedModel) -> Expressed:
    """Return a Granite-Speech's parts: Conformer, a Q-Former over windows, and updates of the LLM for audio.

    Raises:
        WeightsError: The queries do not divide its windows.
    """
    config, projector = model.config, model.part("adapter").config
    window, downsample = config.get("window_size", 15), config.get("downsample_rate", 5)
    queries, rest = divmod(window, downsample)
    if rest:
        raise WeightsError(
            f"{model.source}: config.json: downsample_rate ({downsample}) does not divide window_size "
            f"({window})"
        )
    llm: dict[str, Any] = {"name": "causal_lm", "weights": model.source}  # its template takes clips in texts
    if config.get("has_lora_adapter"):
        llm["lora"] = published_updates(model, "adapter_model.safetensors", modality="audio")
    return Expressed(
        encoder={"name": "granite_speech", "weights": model.source},
        adapter={
            "name": "qformer",
            "weights": model.source,
            "num_queries": queries,
            "window_seconds": window / _FRAMES_A_SECOND,
            "remainder": "pad",
            "num_layers": projector["num_hidden_layers"],
            "hidden_dim": projector["hidden_size"],
            "num_heads": projector["num_attention_heads"],
            "ffn_dim": projector["intermediate_size"],
            "cross_attention_frequency": projector["cross_attention_frequency"],
        },
        llm=llm,
        task={"name": "asr", "request": "can you transcribe the speech into a written format?"},
    )

"""The thinkers of Qwen2.5-Omni (arXiv 2503.20215) and Qwen3-Omni (arXiv 2509.17765), with audio alone."""

from typing import Any

from kikimimi.published.model import Expressed, PublishedModel

_REQUEST = "Transcribe the audio into text."


def express_2_5(model: PublishedModel) -> Expressed:
    """Return a Qwen2.5-Omni's parts for audio: chunks of 2 s, one linear layer, Qwen2.5."""
    projector: dict[str, Any] = {"downsample": 1, "num_layers": 1, "bias": True}
    return _express(model, "qwen2_5_omni", projector, "<|audio_bos|>", "<|audio_eos|>")


def express_3(model: PublishedModel) -> Expressed:
    """Return a Qwen3-Omni's parts for audio: chunks of 1 s, two linear layers, a Qwen3 of experts."""
    width = model.part("encoder").config["d_model"]
    projector: dict[str, Any] = {"downsample": 1, "num_layers": 2, "hidden_dim": width, "bias": True}
    return _express(model, "qwen3_omni", projector, "<|audio_start|>", "<|audio_end|>")


def _express(
    model: PublishedModel, encoder: str, projector: dict[str, Any], start: str, end: str
) -> Expressed:
    return Expressed(
        encoder={"name": encoder, "weights": model.source},
        adapter={"name": "mlp", "weights": model.source, **projector},
        llm={
            "name": "causal_lm",
            "weights": model.source,
            # Its own has a case for parts that are heard, and takes texts with slots as they are.
            **({} if model.has_chat_template else {"chat_template": "chatml"}),
            "audio_start": start,
            "audio_end": end,
        },
        task={"name": "asr", "request": _REQUEST},
    )

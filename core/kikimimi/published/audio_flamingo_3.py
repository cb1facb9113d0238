"""Audio Flamingo 3 (Goel et al. 2025, arXiv 2507.08128; `AudioFlamingo3ForConditionalGeneration`)."""

from kikimimi.errors import WeightsError
from kikimimi.published.model import WINDOWS, Expressed, PublishedModel


def express_audio_flamingo_3(model: PublishedModel) -> Expressed:
    """Return the parts of an Audio Flamingo 3: frames averaged in pairs, two linear layers, ChatML.

    Raises:
        WeightsError: Its projector has another activation.
    """
    activation = model.config.get("projector_hidden_act", "gelu")
    if activation != "gelu":
        raise WeightsError(f"{model.source}: config.json: projector_hidden_act is {activation!r}, not 'gelu'")
    return Expressed(
        encoder={"name": "qwen2_audio", "weights": model.source, "pad": "window", "windows": WINDOWS},
        adapter={
            "name": "mlp",
            "weights": model.source,
            "downsample": 1,
            "bias": bool(model.config.get("projector_bias", True)),
        },
        llm={"name": "causal_lm", "weights": model.source, "chat_template": "chatml"},
        task={"name": "asr", "request": "Transcribe the input speech."},
    )

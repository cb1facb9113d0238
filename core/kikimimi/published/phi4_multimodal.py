"""Phi-4-Multimodal's hearing (Microsoft 2025, arXiv 2503.01743; transformers' own layout)."""

from kikimimi.published.model import Expressed, PublishedModel, published_updates

_UPDATES = "speech-lora/adapter_model.safetensors"


def express_phi4_multimodal(model: PublishedModel) -> Expressed:
    """Return the parts for audio: Conformer, the projector of speech alone, and low-rank updates for audio.

    Raises:
        WeightsError: The updates are missing: without them it does not understand what it hears.
    """
    # Its own template takes clips within texts, where they are called <|audio_1|>.
    llm = {
        "name": "causal_lm",
        "weights": model.source,
        "architecture": "phi3",
        "lora": published_updates(model, _UPDATES, modality="audio"),
    }
    return Expressed(
        encoder={"name": "phi4_multimodal", "weights": model.source},
        adapter={"name": "mlp", "weights": model.source, "downsample": 1, "bias": True},
        llm=llm,
        task={"name": "asr", "request": "Transcribe the audio clip into text."},
    )

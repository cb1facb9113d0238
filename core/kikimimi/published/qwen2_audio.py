"""Qwen2-Audio (Chu et al. 2024, arXiv 2407.10759; `Qwen2AudioForConditionalGeneration` of transformers)."""

from kikimimi.published.model import Expressed, PublishedModel


def express_qwen2_audio(model: PublishedModel) -> Expressed:
    """Return a Qwen2-Audio's parts: frames averaged in pairs, one linear layer, numbered clips in ChatML."""
    return Expressed(
        encoder={"name": "qwen2_audio", "weights": model.source, "pad": "window"},
        adapter={
            "name": "mlp",
            "weights": model.source,
            "downsample": 1,
            "num_layers": 1,
            "bias": True,
        },
        llm={"name": "causal_lm", "weights": model.source, "chat_template": "qwen2_audio"},
        task={"name": "asr", "request": "Detect the language and recognize the speech:"},
    )

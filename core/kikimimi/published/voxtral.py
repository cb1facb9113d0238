"""Voxtral (Liu et al. 2025, arXiv 2507.13264), as transformers has it."""

from kikimimi.errors import WeightsError
from kikimimi.published.model import WINDOWS, Expressed, PublishedModel


def express_voxtral(model: PublishedModel) -> Expressed:
    """Return a Voxtral's parts: every clip in 30 s of silence, four frames to a token, two linear layers.

    Raises:
        WeightsError: Its projector does not stack whole frames, or has another activation.
    """
    audio = model.part("encoder").config
    stack, rest = divmod(audio["intermediate_size"], audio["hidden_size"])
    activation = model.config.get("projector_hidden_act", "gelu")
    if rest or activation != "gelu":
        raise WeightsError(
            f"{model.source}: config.json: its projector (audio_config.intermediate_size "
            f"{audio['intermediate_size']}, hidden_size {audio['hidden_size']}, projector_hidden_act "
            f"{activation!r}) stacks no whole frames before a gelu"
        )
    return Expressed(
        encoder={
            "name": "whisper",
            "weights": model.source,
            "pad": "window",
            "keep_silence": True,
            "windows": WINDOWS,
        },
        adapter={"name": "mlp", "weights": model.source, "downsample": stack, "bias": False},
        llm={"name": "llama", "weights": model.source, "chat_template": "voxtral"},
        task={"name": "transcribe"},
    )

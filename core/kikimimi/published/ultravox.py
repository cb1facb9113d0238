"""Ultravox 0.4 to 0.6 (fixie-ai/ultravox): Whisper, stacked frames and a gated projector before any LLM."""

from typing import Any

from kikimimi.errors import WeightsError
from kikimimi.published.model import WINDOWS, Expressed, PublishedModel

_FRAMES = 1500
"""Frames of Whisper's window."""


def express_ultravox(model: PublishedModel) -> Expressed:
    """Return an Ultravox's parts: a clip's own frames, stacked, a gated projector, the LLM's own template.

    Raises:
        WeightsError: Its encoder works on blocks, or its projector has another form.
    """
    config = model.config
    if config.get("audio_latency_block_size"):
        raise WeightsError(
            f"{model.source}: config.json: audio_latency_block_size is {config['audio_latency_block_size']}: "
            "an encoder that attends in blocks has no part here"
        )
    activation = config.get("projector_act", "swiglu")
    if activation not in ("swiglu", "gelu", "relu", "silu"):
        raise WeightsError(f"{model.source}: config.json: projector_act is {activation!r}, which mlp has not")
    stack = config.get("stack_factor", 8)
    adapter: dict[str, Any] = {
        "name": "mlp",
        "weights": model.source,
        "downsample": stack,
        # A window's last stack is filled with zeros, not with frames of the next one.
        **({} if _FRAMES % stack == 0 else {"window_frames": _FRAMES}),
        "norm": "rms",
        "second_norm": "hidden" if config.get("projector_ln_mid", False) else "output",
        "activation": activation,
        "hidden_dim": model.files.shape("multi_modal_projector.linear_2.weight")[1],
        "bias": False,
    }
    return Expressed(
        encoder={"name": "whisper", "weights": model.source_of("encoder"), "pad": "none", "windows": WINDOWS},
        adapter=adapter,
        llm={"name": "causal_lm", "weights": model.source_of("llm")},
        task={"name": "asr", "request": "Transcribe the audio."},
    )

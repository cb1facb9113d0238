"""Ultravox 0.4 to 0.6 (fixie-ai/ultravox): Whisper, stacked frames and a gated projector before any LLM."""

from typing import Any

from kikimimi.errors import WeightsError
from kikimimi.published.model import WINDOWS, Expressed, PublishedModel
from kikimimi.published.served import (
    WHISPER_SIZES,
    Files,
    Format,
    Trained,
    llm_problems,
    needs,
    part_problems,
    text_settings,
    tower_problems,
    whisper_settings,
)

_TOKEN = "<|audio|>"
_ACTIVATIONS = ("swiglu", "gelu", "relu", "silu")
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
    if activation not in _ACTIVATIONS:
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


def _problems(trained: Trained) -> list[str]:
    recipe = trained.recipe
    found = tower_problems(trained, "whisper", pad="none")
    wrong = part_problems("adapter", recipe.adapter, ["mlp"]) or needs(
        "adapter",
        recipe.adapter.config,
        pool="stack",
        remainder="pad",
        norm="rms",
        second_norm=("hidden", "output"),
        num_layers=2,
        bias=False,
        boundaries=False,
    )
    if not found and not wrong and recipe.encoder.config.windows > 1:
        positions = trained.model.encoder.sizes.num_positions  # type: ignore[union-attr]
        if positions % recipe.adapter.config.downsample:
            wrong = needs("adapter", recipe.adapter.config, window_frames=positions)
    found += wrong + llm_problems(trained, None, _TOKEN)
    if trained.lora == "keep":
        found.append("--lora keep: the class finds no update beside it (--lora merge fits)")
    return found


def _files(trained: Trained) -> Files:
    options: Any = trained.recipe.adapter.config
    inner = options.hidden_dim or trained.model.llm.dim
    layers = {
        "norm": "ln_pre",
        "mlp.0": "linear_1",
        "mlp.1.1": "ln_mid",
        "mlp.2": "linear_2",
        "output_norm": "ln_post",
    }
    tensors = trained.published_tensors(layers)
    text = text_settings(trained)
    token = trained.own_tokenizer(_TOKEN).convert_tokens_to_ids(trained.placeholder(_TOKEN))
    config = {
        "architectures": ["UltravoxModel"],
        "model_type": "ultravox",
        "audio_model_id": None,
        "text_model_id": None,
        "audio_config": whisper_settings(
            trained, WHISPER_SIZES, model_type="whisper", architectures=["WhisperModel"]
        ),
        "text_config": text,
        "audio_token_index": token,
        "hidden_size": inner * (2 if options.activation == "swiglu" else 1),
        "stack_factor": options.downsample,
        "norm_init": options.norm_init,
        "projector_act": options.activation,
        "projector_ln_mid": options.second_norm == "hidden",
        "vocab_size": text["vocab_size"],
        "tie_word_embeddings": trained.is_tied,
        "initializer_range": text.get("initializer_range", 0.02),
    }

    def processor(tokenizer: Any, template: str) -> Any:
        from transformers import WhisperFeatureExtractor

        from kikimimi.published.ultravox_processing import UltravoxProcessor

        return UltravoxProcessor(
            WhisperFeatureExtractor(feature_size=config["audio_config"]["num_mel_bins"]),
            tokenizer,
            chat_template=template,
            stack_factor=options.downsample,
            audio_placeholder=_TOKEN,
            audio_replacement_token_id=token,
        )

    heard = (
        "Clips are not padded, as in the run (encoder.pad: none). In a batch of unequal clips, and in a clip "
        "of several chunks of 30 s, the last audio token of a shorter one hears what pads it, and may change."
    )
    return Files(config, tensors, processor, heard)


ULTRAVOX = Format(_TOKEN, _problems, _files, named=False)
"""The shape of Ultravox, whose class vLLM has."""

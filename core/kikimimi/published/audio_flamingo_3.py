"""Audio Flamingo 3 (Goel et al. 2025, arXiv 2507.08128; `AudioFlamingo3ForConditionalGeneration`)."""

from kikimimi.errors import WeightsError
from kikimimi.published.model import WINDOWS, Expressed, PublishedModel
from kikimimi.published.served import (
    LATER_WHISPER_SIZES,
    Files,
    Format,
    Trained,
    featured,
    llm_problems,
    needs,
    part_problems,
    text_settings,
    tower_problems,
    whisper_settings,
    whole_config,
)

_TOKEN = "<sound>"
_CLASS = "AudioFlamingo3ForConditionalGeneration"
_MOST_WINDOWS = 20


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


def _problems(trained: Trained) -> list[str]:
    """Return why a model is no Audio Flamingo 3; nothing where it is one."""
    chosen = trained.recipe.adapter
    found = tower_problems(trained, "qwen2_audio", pad="window")
    if not found and trained.recipe.encoder.config.windows > _MOST_WINDOWS:
        found += needs("encoder", trained.recipe.encoder.config, windows=_MOST_WINDOWS)
    found += part_problems("adapter", chosen, ["mlp"]) or needs(
        "adapter",
        chosen.config,
        downsample=1,
        num_layers=2,
        hidden_dim=(None, trained.model.llm.dim),
        activation="gelu",
        norm="none",
        second_norm="none",
        boundaries=False,
    )
    return found + llm_problems(trained, ["qwen2", "llama"], _TOKEN)


def _files(trained: Trained) -> Files:
    """Return the files of a model that is an Audio Flamingo 3."""
    token = trained.placeholder(_TOKEN)
    layers = {"mlp.0": "linear_1", "mlp.2": "linear_2"}
    tensors = trained.published_tensors(layers)
    config = whole_config(
        "AudioFlamingo3Config",
        architectures=[_CLASS],
        audio_config=whisper_settings(trained, LATER_WHISPER_SIZES),
        text_config=text_settings(trained),
        audio_token_id=trained.own_tokenizer(_TOKEN).convert_tokens_to_ids(token),
        projector_hidden_act="gelu",
        projector_bias=trained.recipe.adapter.config.bias,
        tie_word_embeddings=trained.is_tied,
    )

    heard = (
        "Clips are padded with silence to windows of 30 s, as in the run (encoder.pad: window), and their "
        "own frames are kept: nothing changes. A conversation holds one clip, of 20 ms to 10 minutes."
    )
    return Files(config, tensors, featured("AudioFlamingo3Processor", config, token), heard, _CLASS)


AUDIO_FLAMINGO_3 = Format(_TOKEN, _problems, _files)
"""The shape of Audio Flamingo 3."""

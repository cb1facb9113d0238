"""Qwen2-Audio (Chu et al. 2024, arXiv 2407.10759; `Qwen2AudioForConditionalGeneration` of transformers)."""

from kikimimi.published.model import Expressed, PublishedModel
from kikimimi.published.served import (
    WHISPER_SIZES,
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

_TOKEN = "<|AUDIO|>"
_CLASS = "Qwen2AudioForConditionalGeneration"


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


def _problems(trained: Trained) -> list[str]:
    """Return why a model is no Qwen2-Audio; nothing where it is one."""
    chosen = trained.recipe.adapter
    found = tower_problems(trained, "qwen2_audio", pad="window", windows=1)
    found += part_problems("adapter", chosen, ["mlp"]) or needs(
        "adapter",
        chosen.config,
        downsample=1,
        num_layers=1,
        bias=True,
        norm="none",
        second_norm="none",
        boundaries=False,
    )
    return found + llm_problems(trained, ["qwen2"], _TOKEN)


def _files(trained: Trained) -> Files:
    """Return the files of a model that is a Qwen2-Audio."""
    token = trained.placeholder(_TOKEN)
    tensors = trained.published_tensors({"mlp.0": "linear"})
    config = whole_config(
        "Qwen2AudioConfig",
        architectures=[_CLASS],
        audio_config=whisper_settings(trained, WHISPER_SIZES),
        text_config=text_settings(trained),
        audio_token_index=trained.own_tokenizer(_TOKEN).convert_tokens_to_ids(token),
        tie_word_embeddings=trained.is_tied,
    )

    heard = (
        "Clips are padded with silence to 30 s, as in the run (encoder.pad: window), and their own frames "
        "are kept: nothing changes. The class cuts clips at 30 s, and takes none under 20 ms."
    )
    return Files(config, tensors, featured("Qwen2AudioProcessor", config, token), heard, _CLASS)


QWEN2_AUDIO = Format(_TOKEN, _problems, _files)
"""The shape of Qwen2-Audio."""

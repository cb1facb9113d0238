"""Voxtral (Liu et al. 2025, arXiv 2507.13264), as transformers has it."""

import shutil
from pathlib import Path
from typing import Any

from kikimimi.errors import WeightsError
from kikimimi.files.writing import writing
from kikimimi.published.model import WINDOWS, Expressed, PublishedModel
from kikimimi.published.served import (
    LATER_WHISPER_SIZES,
    Files,
    Format,
    Trained,
    llm_problems,
    needs,
    part_problems,
    text_settings,
    tower_problems,
    whisper_settings,
    whole_config,
)
from kikimimi.weights.find import find_weights

TOKEN = "[AUDIO]"
_CLASS = "VoxtralForConditionalGeneration"
_TEKKEN = "tekken.json"


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


def _problems(trained: Trained) -> list[str]:
    chosen = trained.recipe.adapter
    found = tower_problems(trained, "whisper", pad="window", keep_silence=True)
    wrong = part_problems("adapter", chosen, ["mlp"]) or needs(
        "adapter",
        chosen.config,
        pool="stack",
        num_layers=2,
        hidden_dim=(None, trained.model.llm.dim),
        activation="gelu",
        bias=False,
        norm="none",
        second_norm="none",
        boundaries=False,
    )
    if not found and not wrong:
        sizes: Any = trained.model.encoder.sizes
        if chosen.config.downsample * sizes.dim != sizes.ffn_dim:
            wrong.append(
                f"adapter.downsample is {chosen.config.downsample}, needs {sizes.ffn_dim / sizes.dim:g}: the "
                f"encoder's inner width ({sizes.ffn_dim}) over its width ({sizes.dim})"
            )
        elif sizes.num_positions % chosen.config.downsample:
            wrong.append(
                f"adapter.downsample is {chosen.config.downsample}, which does not divide the "
                f"{sizes.num_positions} frames of a window"
            )
    found += wrong + llm_problems(trained, ["llama"], TOKEN)
    options = trained.recipe.llm.config
    if options is None or not hasattr(options, "chat_template"):
        return found
    found += needs("llm", options, chat_template="voxtral", audio_start=None, audio_end=None)
    if _tekken(trained) is None:
        found.append(f"llm.weights and llm.tokenizer hold no {_TEKKEN}, by which alone the class is asked")
    return found


def _tekken(trained: Trained) -> Path | None:
    """Return Mistral's file of the tokenizer, or None where the LLM has another."""
    options = trained.recipe.llm.config
    source = options.tokenizer or options.weights
    files = find_weights(source, patterns=(_TEKKEN,))
    return files.path(_TEKKEN) if files is not None and _TEKKEN in files.files else None


class _Extractor:
    """The files of a processor that is made of the tokenizer's file and of the features."""

    def __init__(self, trained: Trained, num_mels: int) -> None:
        self._tekken, self._num_mels = _tekken(trained), num_mels

    def save_pretrained(self, folder: Path) -> None:
        from transformers import WhisperFeatureExtractor

        WhisperFeatureExtractor(feature_size=self._num_mels).save_pretrained(folder)
        assert self._tekken is not None
        with writing(folder / _TEKKEN):
            shutil.copyfile(self._tekken, folder / _TEKKEN)


_HEARD = (
    "Clips are padded with silence to windows of 30 s, whose tokens the LLM hears, as in the run "
    "(encoder.keep_silence: true): nothing changes."
)


def _files(trained: Trained) -> Files:
    layers = {"mlp.0": "linear_1", "mlp.2": "linear_2"}
    tensors = trained.published_tensors(layers)
    config = whole_config(
        "VoxtralConfig",
        architectures=[_CLASS],
        audio_config=whisper_settings(trained, LATER_WHISPER_SIZES),
        text_config=text_settings(trained),
        audio_token_id=trained.tokenizer.convert_tokens_to_ids(trained.placeholder(TOKEN)),
        projector_hidden_act="gelu",
        tie_word_embeddings=trained.is_tied,
    )
    num_mels = config["audio_config"]["num_mel_bins"]
    return Files(
        config,
        tensors,
        lambda tokenizer, template: _Extractor(trained, num_mels),
        _HEARD,
        _CLASS,
    )


VOXTRAL = Format(TOKEN, _problems, _files, chat=False)
"""The shape of Voxtral, in transformers' files."""

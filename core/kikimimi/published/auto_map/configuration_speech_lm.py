"""Settings of a speech LLM: an audio tower, an adapter, and a text model of transformers."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PretrainedConfig


class AudioTowerConfig(PretrainedConfig):  # type: ignore[misc]
    """Settings of the audio tower: a transformer of Whisper's kind, or a class of transformers (`tower`).

    `max_source_positions` is the most audio tokens of a clip, by which vLLM measures its memory.
    """

    model_type = "kikimimi_audio_tower"


class SpeechModelConfig(PretrainedConfig):  # type: ignore[misc]
    """Settings of the whole.

    Args:
        text_config: Settings of the text model.
        audio_config: Settings of the audio tower.
        adapter_config: Settings of the adapter.
        audio_token_id: Id that stands where audio tokens go; it may lie past the text model's vocabulary.
        text_prefix: Name of the text model's body inside its class with a head.
        updates: Low-rank updates of the text model that act in rows with audio alone; None is no such.
    """

    model_type = "kikimimi"
    sub_configs = {"text_config": AutoConfig, "audio_config": AudioTowerConfig}  # noqa: RUF012  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]

    def __init__(
        self,
        text_config: Any = None,
        audio_config: Any = None,
        adapter_config: dict[str, Any] | None = None,
        audio_token_id: int | None = None,
        text_prefix: str = "model",
        updates: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        text = dict(text_config) if isinstance(text_config, dict) else text_config
        if text is None or isinstance(text, dict):
            text = AutoConfig.for_model((text or {}).pop("model_type", "llama"), **(text or {}))
        if audio_config is None or isinstance(audio_config, dict):
            audio_config = AudioTowerConfig(**(audio_config or {}))
        self.text_config, self.audio_config = text, audio_config
        self.adapter_config = adapter_config or {}
        self.audio_token_id, self.text_prefix, self.updates = audio_token_id, text_prefix, updates
        kwargs.setdefault("tie_word_embeddings", getattr(text, "tie_word_embeddings", False))
        super().__init__(**kwargs)

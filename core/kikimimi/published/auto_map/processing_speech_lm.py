"""From text and clips to inputs: a placeholder becomes as many as its clip has audio tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, ProcessorMixin

from kikimimi.published.auto_map.audio_counts import (
    MEL_HOP,
    WAVEFORMS,
    count_frames,
    count_steps,
    count_tokens,
)


class SpeechModelProcessor(ProcessorMixin):  # type: ignore[misc]
    """Processor of a speech LLM.

    Args:
        feature_extractor: Feature extractor of the audio tower.
        tokenizer: The text model's, with the placeholder among its tokens.
        chat_template: The template of a conversation with parts of type `audio` and `text`.
        audio_token: The placeholder, once for each clip.
        audio_config: Settings of the audio tower.
        adapter_config: Settings of the adapter.
    """

    text_kwargs = {  # noqa: RUF012
        "padding": True,
        "padding_side": "left",
        "add_special_tokens": False,  # the template writes them
    }
    audio_kwargs = {"sampling_rate": 16000}  # noqa: RUF012

    def __init__(
        self,
        feature_extractor: Any,
        tokenizer: Any,
        chat_template: str | None = None,
        audio_token: str = "<|audio|>",
        audio_config: dict[str, Any] | None = None,
        adapter_config: dict[str, Any] | None = None,
    ) -> None:
        self.audio_token = audio_token
        self.audio_token_id = tokenizer.convert_tokens_to_ids(audio_token)
        self.audio_config, self.adapter_config = audio_config or {}, adapter_config or {}
        super().__init__(feature_extractor, tokenizer, chat_template=chat_template)

    @property
    def model_input_names(self) -> list[str]:
        """Return the names of what the model takes."""
        return [*super().model_input_names, "input_features_mask"]

    @property
    def unused_input_names(self) -> list[str]:
        """Return the names of what is made, and the model does not take."""
        return ["num_audio_tokens"]

    def num_audio_tokens(self, num_samples: int) -> int:
        """Return how many audio tokens a clip has.

        Raises:
            ValueError: It is empty, or longer than the audio tower takes.
        """
        most = self.audio_config["max_samples"]
        if not 0 < num_samples <= most:
            raise ValueError(f"a clip has {num_samples} samples, and must have 1 to {most} (at 16 kHz)")
        return count_tokens(
            count_frames(count_steps(num_samples, self.audio_config), self.audio_config), self.adapter_config
        )

    @property
    def _window(self) -> int:
        return int(self.audio_config["num_positions"] * 2 * MEL_HOP)

    def _process_audio(self, audio: Any, **kwargs: Any) -> tuple[BatchFeature, list[str]]:
        clips = [np.asarray(clip, dtype=np.float32) for clip in audio]
        for clip in clips:
            if clip.ndim != 1:
                raise ValueError(f"a clip has the shape {clip.shape}: it must have one channel")
        counts = [self.num_audio_tokens(len(clip)) for clip in clips]
        rate = kwargs.get("sampling_rate") or self.feature_extractor.sampling_rate
        rows = [self._features(clip, rate) for clip in clips]
        longest = max(row.shape[1] for row in rows)
        own = torch.tensor([count_steps(len(clip), self.audio_config) for clip in clips])
        features = torch.stack([torch.nn.functional.pad(row, (0, longest - row.shape[1])) for row in rows])
        made = {
            "input_features": features,  # (C, bands, steps)
            "input_features_mask": (torch.arange(longest) < own[:, None]).long(),
            "num_audio_tokens": torch.tensor(counts),
        }
        return BatchFeature(made), [self.audio_token * count for count in counts]

    def _features(self, clip: Any, rate: int) -> torch.Tensor:
        """Return (bands, steps) of a clip by itself; it is taken with silence where it is very short."""
        kind = self.audio_config["kind"]
        if kind in ("qwen2_5_omni", "whisper"):
            return self._log_mel(clip, rate)
        steps = count_steps(len(clip), self.audio_config)
        if kind in WAVEFORMS:
            wave = self.feature_extractor(clip, sampling_rate=rate, return_tensors="pt")["input_values"]
            return torch.nn.functional.pad(wave.float(), (0, steps - len(clip)))  # (1, samples)
        missing = max(0, _SHORTEST[kind] - len(clip))
        after = np.zeros(missing, np.float32)
        if kind == "parakeet":  # what its pre-emphasis makes silence of
            after = clip[-1] * np.float32(self.feature_extractor.preemphasis) ** np.arange(1, missing + 1)
        clip = np.concatenate([clip, after.astype(np.float32)])
        if kind == "granite_speech":
            made = self.feature_extractor(torch.from_numpy(clip)[None])
        else:
            options = {"do_normalize": False, "padding": True} if kind == "qwen3_omni" else {}
            made = self.feature_extractor(clip, sampling_rate=rate, return_tensors="pt", **options)
        values: torch.Tensor = made[self.feature_extractor.model_input_names[0]][0].float()
        return (values if kind == "qwen3_omni" else values.T)[:, :steps]

    def _log_mel(self, clip: Any, rate: int) -> torch.Tensor:
        """Return (mels, mel frames): of whole windows, or up to the end of the clip."""
        pieces = [clip]
        if self.audio_config["cuts"] == "waveform":
            pieces = [clip[start : start + self._window] for start in range(0, len(clip), self._window)]
        mels = [
            self.feature_extractor(
                piece,
                sampling_rate=rate,
                padding="max_length",
                max_length=-(-len(piece) // self._window) * self._window,
                truncation=True,
                return_tensors="pt",
            )["input_features"][0]
            for piece in pieces
        ]
        mel = torch.cat(mels, dim=1).float()
        whole = self.audio_config["pad"] == "window"
        return mel if whole else mel[:, : count_steps(len(clip), self.audio_config)]


_SHORTEST = {
    "granite_speech": 257,
    "parakeet": 320,
    "phi4_multimodal": 400,
    "qwen3_omni": 201,
    "wav2vec2_bert": 560,
}
"""Samples of which the features of one step are made."""

"""Audio encoders that are transformers' own classes, up to the highest layer that is read."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from kikimimi.published.auto_map.audio_counts import WAVEFORMS, count_frames

_CLASSES = {
    "granite_speech": ("granite_speech", "GraniteSpeechEncoderConfig", "GraniteSpeechCTCEncoder"),
    "hubert": ("hubert", "HubertConfig", "HubertModel"),
    "parakeet": ("parakeet", "ParakeetEncoderConfig", "ParakeetEncoder"),
    "phi4_multimodal": ("phi4_multimodal", "Phi4MultimodalAudioConfig", "Phi4MultimodalAudioModel"),
    "qwen2_5_omni": ("qwen2_5_omni", "Qwen2_5OmniAudioEncoderConfig", "Qwen2_5OmniAudioEncoder"),
    "qwen3_omni": ("qwen3_omni_moe", "Qwen3OmniMoeAudioEncoderConfig", "Qwen3OmniMoeAudioEncoder"),
    "wav2vec2": ("wav2vec2", "Wav2Vec2Config", "Wav2Vec2Model"),
    "wav2vec2_bert": ("wav2vec2_bert", "Wav2Vec2BertConfig", "Wav2Vec2BertModel"),
    "wavlm": ("wavlm", "WavLMConfig", "WavLMModel"),
}
"""Folder in transformers, and the classes of the settings and of the model."""
_PIECE = 500
"""Longest stretch whose frames attend to one another in `phi4_multimodal`."""


def combine_layers(outputs: list[Tensor], taps: Tensor | None) -> Tensor:
    """Return the outputs (..., F, E) of layers side by side, or their sum with learned weights."""
    if taps is None:
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)
    shares = taps.float().softmax(0)
    mixed = torch.stack([s * o.float() for s, o in zip(shares, outputs, strict=True)]).sum(0)
    return mixed.to(outputs[-1].dtype)


def mean_of_pairs(frames: Tensor) -> Tensor:
    """Average every two frames of (..., F, E); an odd last one has no part, unless it is the only one."""
    length = frames.shape[-2]
    if length == 1:
        return frames
    # (..., F, E) -> (..., F / 2, 2, E) -> (..., F / 2, E)
    return torch.unflatten(frames[..., : length // 2 * 2, :], -2, (-1, 2)).mean(-2)


class LibraryTower(nn.Module):
    """An audio encoder of transformers, each clip by itself; names below `model` are those of its class.

    Args:
        config: `audio_config` of the whole: `kind`, `tower` (settings of the class), `layers` (those that are
            read: what enters the first is 0), `combine` and what the counts need.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.settings: dict[str, Any] = config.to_dict()
        self.kind, self.read = config.kind, list(config.layers)
        folder, settings, model = _CLASSES[self.kind]
        place = f"transformers.models.{folder}"
        tower = getattr(import_module(f"{place}.configuration_{folder}"), settings).from_dict(config.tower)
        self.model: Any = getattr(import_module(f"{place}.modeling_{folder}"), model)(tower)
        self.norm_first = bool(getattr(tower, "do_stable_layer_norm", False))
        self.middle = int(getattr(tower, "num_layers", 0)) // 2
        whole = len(self._layers())
        del self._layers()[self.read[-1] :]
        self._leave_out(whole=self.read[-1] == whole)
        weighted = config.combine == "weighted_sum"
        self.taps = nn.Parameter(torch.zeros(len(self.read))) if weighted else None

    def _layers(self) -> Any:
        if self.kind == "phi4_multimodal":
            return self.model.encoders
        return self.model.encoder.layers if hasattr(self.model, "encoder") else self.model.layers

    def _leave_out(self, *, whole: bool) -> None:
        """Take away what is an adapter's, or comes after the highest layer that is read."""
        if self.kind in WAVEFORMS and self.norm_first and not whole:
            self.model.encoder.layer_norm = nn.Identity()
        if self.kind == "granite_speech" and not 1 <= self.middle <= self.read[-1]:
            del self.model.out, self.model.out_mid
        if self.kind == "qwen2_5_omni":
            del self.model.audio_bos_eos_token
            self.model.proj = nn.Identity()
        if self.kind == "qwen3_omni":
            self.model.proj1 = self.model.act = self.model.proj2 = nn.Identity()
        if self.kind in ("qwen2_5_omni", "qwen3_omni") and not whole:
            self.model.ln_post = nn.Identity()

    def forward(self, features: Tensor, lengths: list[int]) -> list[Tensor]:
        """Encode (C, bands, steps), of which so many are a clip's own, to (F, E) for each clip."""
        dtype = next(self.model.parameters()).dtype
        encoded = []
        for clip, length in zip(features.to(dtype), lengths, strict=True):
            outputs = self._outputs(clip[:, :length])
            chosen = [outputs[number] for number in self.read]
            frames = combine_layers(chosen, self.taps)
            encoded.append(frames[: count_frames(length, self.settings)])
        return encoded

    def _outputs(self, clip: Tensor) -> list[Tensor]:
        """Return what enters each layer, and what leaves the last, of (bands, steps): (F, E) each."""
        if self.kind == "phi4_multimodal":
            return self._in_pieces(clip)
        entered: list[Tensor] = []
        left: list[Tensor] = []

        def entering(_: Any, given: Any, named: dict[str, Any]) -> None:
            entered.append(given[0] if given else named["hidden_states"])

        def leaving(_: Any, __: Any, made: Any) -> None:
            left.append(made[0] if isinstance(made, tuple) else made)

        layers = self._layers()
        hooks = [layer.register_forward_pre_hook(entering, with_kwargs=True) for layer in layers]
        omni = self.kind in ("qwen2_5_omni", "qwen3_omni")
        if omni and len(layers):
            hooks.append(layers[-1].register_forward_hook(leaving))
        try:
            last = self._run(clip)
        finally:
            for hook in hooks:
                hook.remove()
        if self.kind == "qwen2_5_omni" and left:  # of a clip of one frame the class makes nothing
            last = self.model.ln_post(mean_of_pairs(left[0]))
            entered = [mean_of_pairs(frames) for frames in entered]
        return [frames.reshape(-1, frames.shape[-1]) for frames in (*entered, last)]

    def _run(self, clip: Tensor) -> Tensor:
        if self.kind in WAVEFORMS:
            made = self.model(clip)
        elif self.kind in ("qwen2_5_omni", "qwen3_omni"):
            length = clip.shape[1]
            halved = torch.tensor([-(-length // 2)], device=clip.device)
            made = self.model(
                clip, feature_lens=torch.tensor([length], device=clip.device), aftercnn_lens=halved
            )
        else:
            made = self.model(clip.T[None].contiguous())
        last: Tensor = made.last_hidden_state
        return last

    def _in_pieces(self, clip: Tensor) -> list[Tensor]:
        """Run what Phi-4-Multimodal's class is made of: itself it lets pieces see what pads the last."""
        hidden, _ = self.model.embed(self.model.encoder_embedding(clip.T[None].contiguous()), None)
        pieces = torch.split(hidden, _PIECE, dim=1)
        made: list[list[Tensor]] = [[] for _ in range(len(self._layers()) + 1)]
        for piece in pieces:
            bias = self.model.relative_attention_bias_layer(piece)
            made[0].append(piece[0])
            for number, layer in enumerate(self._layers(), start=1):
                piece = layer(piece, bias)
                made[number].append(piece[0])
        return [torch.cat(layer) for layer in made]

"""A speech LLM: audio tower, adapter and text model. What is particular to an adapter lies beside it."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from kikimimi.published.auto_map.audio_counts import count_frames
from kikimimi.published.auto_map.audio_towers import LibraryTower, combine_layers, mean_of_pairs
from kikimimi.published.auto_map.configuration_speech_lm import SpeechModelConfig
from kikimimi.published.auto_map.row_updates import RowGate, add_updates


class TowerAttention(nn.Module):
    """Self-attention within a clip."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim, bias=False)
        self.v_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, frames: Tensor) -> Tensor:
        """Attend over (B, F, E)."""
        # (B, F, E) -> (B, heads, F, E / heads)
        query, key, value = (
            layer(frames).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return out


class TowerLayer(nn.Module):
    """Pre-norm attention and feed-forward."""

    def __init__(self, dim: int, num_heads: int, ffn_dim: int) -> None:
        super().__init__()
        self.self_attn = TowerAttention(dim, num_heads)
        self.self_attn_layer_norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, ffn_dim)
        self.fc2 = nn.Linear(ffn_dim, dim)
        self.final_layer_norm = nn.LayerNorm(dim)

    def forward(self, frames: Tensor) -> Tensor:
        """Transform (B, F, E)."""
        frames = frames + self.self_attn(self.self_attn_layer_norm(frames))
        frames = frames + self.fc2(F.gelu(self.fc1(self.final_layer_norm(frames))))
        if frames.dtype == torch.float16:
            limit = torch.finfo(torch.float16).max - 1000
            frames = frames.clamp(-limit, limit)
        return frames


class AudioTower(nn.Module):
    """Whisper's encoder, or Qwen2-Audio's, which averages frames in pairs; names as in transformers.

    Args:
        config: `audio_config` of the whole.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {name: getattr(config, name) for name in TOWER_SETTINGS}
        dim = config.dim
        self.conv1 = nn.Conv1d(config.num_mels, dim, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(dim, dim, kernel_size=3, stride=2, padding=1)
        self.embed_positions = nn.Embedding(config.num_positions, dim)
        self.layers = nn.ModuleList(
            TowerLayer(dim, config.num_heads, config.ffn_dim) for _ in range(config.layers[-1])
        )
        self.layer_norm = nn.LayerNorm(dim) if config.final_norm else None
        self.taps = (
            nn.Parameter(torch.zeros(len(config.layers))) if config.combine == "weighted_sum" else None
        )

    def forward(self, mel: Tensor, lengths: list[int]) -> list[Tensor]:
        """Encode (C, mels, mel frames), of which so many are a clip's own, to (F, E) for each clip."""
        window = 2 * self.settings["num_positions"]
        whole, pairs = self.settings["pad"] == "window", self.settings["pairs"]
        # Windows of one length together: (clip, window) by (mel frames seen, frames that enter the layers).
        alike: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
        for clip, length in enumerate(lengths):
            for number in range(max(1, -(-length // window))):
                own = min(window, length - number * window)
                seen = window if whole else own
                alike[seen, -(-(own if pairs else seen) // 2)].append((clip, number))
        found: dict[tuple[int, int], Tensor] = {}
        for (seen, entering), places in alike.items():
            pieces = [mel[clip, :, n * window : n * window + seen] for clip, n in places]
            found.update(zip(places, self._encode(torch.stack(pieces), entering), strict=True))
        return [
            torch.cat([found[clip, number] for number in range(max(1, -(-length // window)))])[
                : count_frames(length, self.settings)
            ]
            for clip, length in enumerate(lengths)
        ]

    def _encode(self, mel: Tensor, entering: int) -> Tensor:
        hidden = F.gelu(self.conv1(mel.to(self.conv1.weight.dtype)))
        hidden = F.gelu(self.conv2(hidden)).transpose(1, 2)[:, :entering]  # (B, F, E)
        hidden = hidden + self.embed_positions.weight[:entering]
        chosen = self.settings["layers"]
        outputs = [hidden] if chosen[0] == 0 else []
        for number, layer in enumerate(self.layers, start=1):
            hidden = layer(hidden)
            if number in chosen:
                outputs.append(hidden)
        if self.settings["pairs"]:
            outputs = [mean_of_pairs(output) for output in outputs]
        if self.layer_norm is not None:
            outputs[-1] = self.layer_norm(outputs[-1])
        return combine_layers(outputs, self.taps)


SERVED = True
"""Whether servers that run requests in one row can take the model; False where rows are told apart."""
TOWER_SETTINGS = ("kind", "num_positions", "pad", "pairs", "keep_silence", "layers")


class SpeechModelBase(PreTrainedModel):  # type: ignore[misc]
    """What the models with and without a head share.

    Attributes:
        adapter_class: Class of the adapter, built of `adapter_config`: (n, F, E) frames to (n, T, D) tokens.
    """

    config_class: Any = SpeechModelConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    _supports_attention_backend = SERVED
    _supports_sdpa = True
    _supports_flash_attn = True
    adapter_class: Any

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        tower = AudioTower if config.audio_config.kind == "whisper" else LibraryTower
        self.encoder: Any = tower(config.audio_config)
        self.adapter: nn.Module = self.adapter_class(config.adapter_config)
        self.llm: Any = self._text_model(config)
        self.gate: RowGate | None = None
        if config.updates is not None:
            self.gate = add_updates(self.llm, config.updates, config.audio_token_id)
        self.post_init()

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        """Whether attention may be another, by which vLLM knows whether it can take the model."""
        return SERVED and bool(super()._can_set_attn_implementation())

    def _text_model(self, config: Any) -> nn.Module:
        raise NotImplementedError

    @property
    def language_model(self) -> Any:
        """Return the body of the text model."""
        return getattr(self.llm, self.config.text_prefix)

    @property
    def audio_tower(self) -> Any:
        """Return the audio tower."""
        return self.encoder

    def get_input_embeddings(self) -> Any:
        """Return the text model's embeddings."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: Any) -> None:
        """Replace the text model's embeddings."""
        self.language_model.set_input_embeddings(value)

    def get_audio_features(
        self,
        input_features: Any,
        input_features_mask: Any = None,
        return_dict: bool = True,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """Return the audio tokens of all clips, one clip after the other, as `pooler_output` (N, D).

        Args:
            input_features: (C, bands, steps): mel frames, or samples in one band.
            input_features_mask: (C, steps), 1 where they are the clip's own; None is everywhere.
            return_dict: Is taken as true.
            **kwargs: Are not read.
        """
        return BaseModelOutputWithPooling(
            pooler_output=torch.cat(self.hear(input_features, input_features_mask))
        )

    def hear(self, input_features: Any, input_features_mask: Any = None) -> list[Tensor]:
        """Return the (T, D) audio tokens of each clip; see `get_audio_features`."""
        if isinstance(input_features, (list, tuple)) or isinstance(input_features_mask, (list, tuple)):
            input_features, input_features_mask = _stacked(input_features, input_features_mask)
        if input_features_mask is None:
            lengths = [input_features.shape[-1]] * len(input_features)
        else:
            lengths = input_features_mask.reshape(len(input_features), -1).sum(-1).tolist()
        clips = self.encoder(input_features, lengths)
        alike: dict[int, list[int]] = defaultdict(list)
        for number, clip in enumerate(clips):
            alike[len(clip)].append(number)
        tokens: dict[int, Tensor] = {}
        for numbers in alike.values():
            tokens.update(zip(numbers, self.adapter(torch.stack([clips[n] for n in numbers])), strict=True))
        return [tokens[number] for number in range(len(clips))]

    def embed_inputs(
        self, input_ids: Tensor, input_features: Any = None, input_features_mask: Any = None
    ) -> Tensor:
        """Return (B, L, D) embeddings, audio tokens in the places of the placeholder.

        Raises:
            ValueError: There are more or fewer places than audio tokens.
        """
        is_audio = input_ids == self.config.audio_token_id
        embedded: Tensor = self.get_input_embeddings()(input_ids.masked_fill(is_audio, 0))
        if input_features is None:
            return embedded
        heard = self.get_audio_features(input_features, input_features_mask).pooler_output
        if int(is_audio.sum()) != len(heard):  # pyright: ignore[reportArgumentType]
            raise ValueError(f"{int(is_audio.sum())} places for {len(heard)} audio tokens")  # pyright: ignore[reportArgumentType]
        return embedded.masked_scatter(is_audio[..., None], heard.to(embedded.dtype))  # pyright: ignore[reportOptionalMemberAccess]


def _stacked(features: Any, masks: Any) -> tuple[Tensor, Tensor | None]:
    """Return lists of features and of masks of unequal length as one tensor each."""
    rows = [row.reshape(-1, *row.shape[-2:]) for row in features]
    longest = max(row.shape[-1] for row in rows)
    stacked = torch.cat([F.pad(row, (0, longest - row.shape[-1])) for row in rows])
    if masks is None:
        return stacked, None
    flat = [mask.reshape(-1, mask.shape[-1]) for mask in masks]
    return stacked, torch.cat([F.pad(mask, (0, longest - mask.shape[-1])) for mask in flat])


def count_positions(given: Tensor | None, attention_mask: Any, embedded: Tensor) -> Tensor | None:
    """Return (B, L) positions: those given, or counted without the padding on the left."""
    if given is not None or attention_mask is None or attention_mask.shape != embedded.shape[:2]:
        return given
    counted: Tensor = attention_mask.long().cumsum(-1) - 1
    return counted.clamp(min=0)


class BareSpeechModel(SpeechModelBase):
    """Without a head, as vLLM's Transformers back end takes it.

    No weight is said to be ignored: vLLM has a head of its own, and reads it only if it is not.
    """

    def _text_model(self, config: Any) -> nn.Module:
        return nn.ModuleDict({config.text_prefix: AutoModel.from_config(config.text_config)})

    @property
    def language_model(self) -> Any:
        """Return the body of the text model."""
        return self.llm[self.config.text_prefix]

    def forward(
        self,
        input_ids: Any = None,
        input_features: Any = None,
        input_features_mask: Any = None,
        attention_mask: Any = None,
        position_ids: Any = None,
        inputs_embeds: Any = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return the text model's hidden states, in its own class of output."""
        if self.gate is not None:
            self.gate.ask(input_ids, kwargs.get("past_key_values", kwargs.get("cache")))
        if inputs_embeds is None:
            inputs_embeds = self.embed_inputs(input_ids, input_features, input_features_mask)
            position_ids = count_positions(position_ids, attention_mask, inputs_embeds)
        return self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=use_cache,
            **kwargs,
        )


class BareSpeechModelForCausalLM(SpeechModelBase, GenerationMixin):  # type: ignore[misc]
    """With a head."""

    def _text_model(self, config: Any) -> nn.Module:
        model: nn.Module = AutoModelForCausalLM.from_config(config.text_config)
        return model

    def get_output_embeddings(self) -> Any:
        """Return the text model's head."""
        return self.llm.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: Any) -> None:
        """Replace the text model's head."""
        self.llm.set_output_embeddings(new_embeddings)

    def forward(
        self,
        input_ids: Any = None,
        input_features: Any = None,
        input_features_mask: Any = None,
        attention_mask: Any = None,
        position_ids: Any = None,
        inputs_embeds: Any = None,
        labels: Any = None,
        use_cache: bool | None = None,
        logits_to_keep: Any = 0,
        **kwargs: Any,
    ) -> Any:
        """Return the text model's logits, in its own class of output."""
        if self.gate is not None:
            self.gate.ask(input_ids, kwargs.get("past_key_values", kwargs.get("cache")))
        if inputs_embeds is None:
            inputs_embeds = self.embed_inputs(input_ids, input_features, input_features_mask)
            position_ids = count_positions(position_ids, attention_mask, inputs_embeds)
        return self.llm(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            labels=labels,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )

    def prepare_inputs_for_generation(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        input_ids: Any,
        attention_mask: Any = None,
        inputs_embeds: Any = None,
        input_features: Any = None,
        input_features_mask: Any = None,
        is_first_iteration: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Return the inputs of a step: clips are heard in the first one."""
        inputs = super().prepare_inputs_for_generation(  # pyright: ignore[reportAttributeAccessIssue]
            input_ids,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            is_first_iteration=is_first_iteration,
            **kwargs,
        )
        if is_first_iteration or not kwargs.get("use_cache", True):
            inputs["input_features"] = input_features
            inputs["input_features_mask"] = input_features_mask
        return inputs

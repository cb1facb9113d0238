"""Models whose number of audio tokens is known only when a clip is heard: one placeholder for each clip."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from kikimimi.published.auto_map.modeling_speech_lm import (
    BareSpeechModel,
    BareSpeechModelForCausalLM,
    count_positions,
)


def text_projection(config: dict[str, Any], in_dim: int) -> nn.Sequential:
    """Return linear layers to the text model's width, GELU between them."""
    dims = [in_dim, *[config["hidden_dim"] or config["out_dim"]] * (config["num_layers"] - 1)]
    layers: list[nn.Module] = []
    for before, after in pairwise(dims):
        layers += [nn.Linear(before, after), nn.GELU()]
    return nn.Sequential(*layers, nn.Linear(dims[-1], config["out_dim"]))


class HeardClips:
    """Puts as many audio tokens in a placeholder's place as the adapter makes.

    Inputs grow by that, so that logits have other places than ids: `expand_inputs` says which. Servers that
    lay out a prompt before anything is heard, as vLLM does, cannot take such a model.
    """

    _supports_attention_backend = False
    config: Any

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        """Whether attention may be another: no, by which vLLM knows that it cannot take the model."""
        return False

    def expand_inputs(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        input_features: Any = None,
        input_features_mask: Any = None,
        labels: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return (B, L, D) embeddings padded on the left, their (B, L) mask, and (B, L) labels if any.

        Args:
            input_ids: (B, places), one placeholder for each clip.
            attention_mask: (B, places), 0 for padding; None is without.
            input_features: (C, bands, steps) of all clips in their order.
            input_features_mask: (C, steps), 1 where they are the clip's own.
            labels: (B, places); audio tokens get -100.

        Raises:
            ValueError: There are more or fewer placeholders than clips.
        """
        model: Any = self
        is_audio = input_ids == self.config.audio_token_id
        heard = [] if input_features is None else model.hear(input_features, input_features_mask)
        if int(is_audio.sum()) != len(heard):
            raise ValueError(f"{int(is_audio.sum())} placeholders for {len(heard)} clips")
        clips = iter(heard)
        embedded = model.get_input_embeddings()(input_ids.masked_fill(is_audio, 0))
        rows, told = [], []
        for row in range(len(input_ids)):
            pieces: list[Tensor] = []
            said: list[Tensor] = []
            for place in range(input_ids.shape[1]):
                if attention_mask is not None and not attention_mask[row, place]:
                    continue
                piece = embedded[row, place : place + 1]
                if is_audio[row, place]:
                    piece = next(clips).to(embedded)
                pieces.append(piece)
                if labels is not None:
                    audio = is_audio[row, place]
                    said.append(labels.new_full((len(piece),), -100) if audio else labels[row, place, None])
            rows.append(torch.cat(pieces))
            if labels is not None:
                told.append(torch.cat(said))
        longest = max(map(len, rows))
        gaps = [longest - len(row) for row in rows]
        embeds = torch.stack(
            [nn.functional.pad(row, (0, 0, gap, 0)) for row, gap in zip(rows, gaps, strict=True)]
        )
        starts = torch.tensor(gaps, device=embeds.device)
        mask = (torch.arange(longest, device=embeds.device) >= starts[:, None]).long()
        padded = None
        if labels is not None:
            padded = torch.stack(
                [nn.functional.pad(t, (gap, 0), value=-100) for t, gap in zip(told, gaps, strict=True)]
            )
        return embeds, mask, padded

    def forward(
        self,
        input_ids: Any = None,
        input_features: Any = None,
        input_features_mask: Any = None,
        attention_mask: Any = None,
        position_ids: Any = None,
        inputs_embeds: Any = None,
        labels: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Return what the text model makes of the expanded inputs, in its own class of output."""
        heard = input_ids is not None and bool((input_ids == self.config.audio_token_id).any())
        if inputs_embeds is None and (heard or input_features is not None):
            ids: Any = input_ids
            inputs_embeds, attention_mask, labels = self.expand_inputs(
                ids, attention_mask, input_features, input_features_mask, labels
            )
            position_ids = count_positions(None, attention_mask, inputs_embeds)
        if labels is not None:
            kwargs["labels"] = labels
        whole: Any = super()
        return whole.forward(
            input_ids=input_ids if inputs_embeds is None else None,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )


class HeardSpeechModel(HeardClips, BareSpeechModel):  # type: ignore[misc]
    """Without a head."""


class HeardSpeechModelForCausalLM(HeardClips, BareSpeechModelForCausalLM):  # type: ignore[misc]
    """With a head."""

    def generate(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        inputs: Any = None,
        *,
        input_ids: Any = None,
        attention_mask: Any = None,
        input_features: Any = None,
        input_features_mask: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Return what transformers' `generate` does: the ids that were given, and those of the answer.

        Raises:
            ValueError: There are more or fewer placeholders than clips, or `use_cache` is false.
        """
        if kwargs.get("use_cache") is False:
            raise ValueError("use_cache=False: what was heard is kept in the cache alone")
        given = inputs if input_ids is None else input_ids
        if given is None:
            return super().generate(attention_mask=attention_mask, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]
        embeds, mask, _ = self.expand_inputs(given, attention_mask, input_features, input_features_mask)
        made: Any = super().generate(inputs_embeds=embeds, attention_mask=mask, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]
        answers = made if isinstance(made, Tensor) else made.sequences
        whole = torch.cat([given.repeat_interleave(len(answers) // len(given), 0), answers], dim=1)
        if isinstance(made, Tensor):
            return whole
        made.sequences = whole
        return made

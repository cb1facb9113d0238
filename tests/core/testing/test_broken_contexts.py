"""Adapters at odds with what they are told (taps, transcripts, assets), and the check that has to notice."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kikimimi import AdapterContext, AdapterOutput, CharacterVocabulary, Padded
from kikimimi.testing import list_checks
from kikimimi_adapters.mlp import MLPAdapter


class MixesLayers(MLPAdapter):
    """Handles two encoder layers side by side, but across clips."""

    def forward(self, features: Padded) -> AdapterOutput:
        if self.context.num_concat_layers == 1:
            return super().forward(features)
        mean = torch.cat(features.unstack()).mean(0)
        return super().forward(Padded(features.values - mean, features.lengths))


class RefusesLayers(MLPAdapter):
    def __init__(self, config: Any, context: AdapterContext) -> None:
        if context.num_concat_layers != 1:
            raise ValueError("takes one layer")
        super().__init__(config, context)


class NeedsLayers(MLPAdapter):
    def __init__(self, config: Any, context: AdapterContext) -> None:
        if context.num_concat_layers == 1:
            raise ValueError("takes several layers")
        super().__init__(config, context)


class RefusesEverything(MLPAdapter):
    def __init__(self, config: Any, context: AdapterContext) -> None:
        raise ValueError("takes nothing")


class SpellsTexts(MLPAdapter):
    """An MLP with a loss of what is said, in the characters of the training texts."""

    def __init__(self, config: Any, context: AdapterContext) -> None:
        super().__init__(config, context)
        self.uses_transcripts = True
        if context.assets is not None:
            self.vocabulary = CharacterVocabulary.load(context.assets / "characters.json")
        else:
            assert context.texts is not None
            self.vocabulary = CharacterVocabulary.of_texts(context.texts())
        self.head = nn.Linear(context.out_dim, self.vocabulary.size)

    def save_assets(self, folder: Path) -> None:
        self.vocabulary.save(folder / "characters.json")

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, features: Padded, transcripts: Sequence[str | None] | None = None
    ) -> AdapterOutput:
        tokens = super().forward(features).tokens
        clips = tokens.unstack()
        said = list(zip(clips, transcripts or [None] * len(clips), strict=True))
        # The bag of characters, from the mean of the tokens.
        losses = [
            nn.functional.cross_entropy(
                self.head(clip.mean(0)).expand(len(ids), -1).float(), torch.tensor(ids, device=clip.device)
            )
            for clip, text in said
            if text is not None and (ids := self.vocabulary.encode(text))
        ]
        skipped = len(clips) - len(losses)
        mean = sum(losses, clips[0].new_zeros(())) / max(len(losses), 1)
        return AdapterOutput(tokens, {"spelling": mean}, {"skipped": skipped})


class AddsLossesUp(SpellsTexts):
    """A sum over the clips, and says that it is a mean."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, features: Padded, transcripts: Sequence[str | None] | None = None
    ) -> AdapterOutput:
        output = super().forward(features, transcripts)
        known = len(features) - output.counts["skipped"]
        return replace(output, losses={"spelling": output.losses["spelling"] * known})


class CheatsWithTranscripts(SpellsTexts):
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, features: Padded, transcripts: Sequence[str | None] | None = None
    ) -> AdapterOutput:
        output = super().forward(features, transcripts)
        known = torch.tensor([float(text is not None) for text in transcripts or [None] * len(features)])
        tokens = output.tokens.values + known[:, None, None].to(output.tokens.values.dtype)
        return replace(output, tokens=Padded(tokens, output.tokens.lengths))


class AsManyTokensAsCharacters(SpellsTexts):
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, features: Padded, transcripts: Sequence[str | None] | None = None
    ) -> AdapterOutput:
        output = super().forward(features, transcripts)
        if transcripts is None or not self.training:
            return output
        longest = max(len(text or "x") for text in transcripts)
        values = nn.functional.pad(output.tokens.values, (0, 0, 0, longest))
        lengths = torch.tensor([len(text or "x") for text in transcripts])
        return replace(output, tokens=Padded(values, lengths))


class AveragesNoLosses(SpellsTexts):
    """A mean over the clips whose words are known: NaN where that is none."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, features: Padded, transcripts: Sequence[str | None] | None = None
    ) -> AdapterOutput:
        output = super().forward(features, transcripts)
        known = len(features) - output.counts["skipped"]
        loss = output.losses["spelling"] * known / torch.tensor(float(known))
        return replace(output, losses={"spelling": loss})


class NeedsTranscripts(SpellsTexts):
    def forward(  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        self, features: Padded, transcripts: Sequence[str | None]
    ) -> AdapterOutput:
        return super().forward(features, transcripts)


class ForgetsItsCharacters(SpellsTexts):
    def save_assets(self, folder: Path) -> None:
        CharacterVocabulary("ab").save(folder / "characters.json")


class ShufflesItsCharacters(SpellsTexts):
    def __init__(self, config: Any, context: AdapterContext) -> None:
        super().__init__(config, context)
        if context.assets is not None:
            self.vocabulary._id_of = dict.fromkeys(self.vocabulary.characters, 1)


BROKEN = [
    (
        AsManyTokensAsCharacters,
        "lengths_keep_max_tokens",
        r"with transcripts: in train mode: 3 frames: expected 1 to max_tokens = 1 tokens, found 2",
    ),
    (
        AveragesNoLosses,
        "losses_are_scalars",
        r"without transcripts: in eval mode: loss 'spelling': expected finite values",
    ),
    (
        AddsLossesUp,
        "losses_are_means_over_units",
        r"in eval mode: loss 'spelling', against the mean over the units of its parts",
    ),
    (NeedsTranscripts, "losses_are_scalars", r"missing 1 required positional argument: 'transcripts'"),
    (
        CheatsWithTranscripts,
        "transcripts_change_no_tokens",
        r"with transcripts, against none: tokens of clip 0: expected the same values",
    ),
    (
        MixesLayers,
        "several_layers_are_taken_or_refused",
        r"num_concat_layers=2: batch_changes_nothing: sequence 0 \(13 long\) in a batch",
    ),
    (RefusesEverything, "several_layers_are_taken_or_refused", r"takes nothing"),
    (ForgetsItsCharacters, "assets_restore", r"found others: head.bias, head.weight"),
    (ShufflesItsCharacters, "assets_restore", r"rebuilt from its assets: loss 'spelling': expected the same"),
]


@pytest.mark.parametrize("component", [RefusesLayers, NeedsLayers, SpellsTexts])
def test_a_sound_adapter_passes(component: type) -> None:
    for check in list_checks("adapter", component):
        if check.name != "import_is_quiet":  # test_import_check.py
            check()


@pytest.mark.parametrize(("component", "name", "message"), BROKEN, ids=lambda x: getattr(x, "__name__", None))
def test_is_caught(component: type, name: str, message: str) -> None:
    check = next(check for check in list_checks("adapter", component) if check.name == name)
    result = check.result()
    assert result.error is not None
    assert re.search(message, result.error), result.error


def test_every_check_of_contexts_has_something_to_catch() -> None:
    names = {name for _, name, _ in BROKEN}
    assert names >= {
        "losses_are_means_over_units",
        "transcripts_change_no_tokens",
        "several_layers_are_taken_or_refused",
        "assets_restore",
    }

"""wav2vec 2.0 with a CTC head, of which there are many trained ones, as a baseline."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

from kikimimi import AudioError, PositiveFloat, Recogniser, RecogniserConfig, Rule, WeightsError, find_weights

SHORTEST = 400
"""Samples that the convolutions need for one frame; shorter clips are filled up with silence."""


class Wav2Vec2CTC(Recogniser):
    """wav2vec 2.0 with a CTC head (Baevski et al. 2020, arXiv 2006.11477), decoded greedily.

    Reads models of transformers: ``config.json``, ``model.safetensors`` and ``vocab.json``. A model knows one
    language, or several at once: it is not told which is spoken.
    """

    contract_version = 1

    @dataclass(kw_only=True, frozen=True)
    class Config(RecogniserConfig):
        """What a recipe may set."""

        weights: Annotated[str, Rule("trained weights", "random".__ne__)]
        """A `Wav2Vec2ForCTC` of transformers: a Hub id, a folder or ``package:...``."""
        max_seconds: PositiveFloat = 60.0
        """Longest clip that is taken [s]: memory grows with its square."""
        device: Literal["cpu", "cuda"] = "cpu"
        """Where it runs."""

    config: Config
    sample_rate = 16_000

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.max_seconds = config.max_seconds
        files = find_weights(config.weights)
        assert files is not None
        tokens = {number: token for token, number in files.read_json("vocab.json").items()}
        settings = Wav2Vec2Config.from_dict(files.read_json("config.json"))
        if sorted(tokens) != list(range(settings.vocab_size)):
            raise WeightsError(
                f"{config.weights}: vocab.json has {len(tokens)} tokens, the model {settings.vocab_size}"
            )
        self.tokens = [tokens[number] for number in range(len(tokens))]
        self.blank = settings.pad_token_id
        # Through transformers, since older checkpoints have other names for what it calls by new ones.
        self.model, found = Wav2Vec2ForCTC.from_pretrained(
            files.folder, config=settings, use_safetensors=True, output_loading_info=True
        )
        if missing := sorted(found["missing_keys"] - {"wav2vec2.masked_spec_embed"}):
            raise WeightsError(f"{config.weights}: is no Wav2Vec2ForCTC: it lacks {', '.join(missing)}")
        self.model.to(config.device).eval()

    @classmethod
    def example(cls, folder: Path) -> Config:
        """Write a small model with random weights, which takes clips of 2 s."""
        tokens = ["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefghijklmnopqrstuvwxyz'"]
        settings = Wav2Vec2Config(
            vocab_size=len(tokens),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            conv_dim=(8,) * 7,
            num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=2,
            pad_token_id=0,
        )
        torch.manual_seed(0)
        Wav2Vec2ForCTC(settings).save_pretrained(folder)
        (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
        return cls.Config(weights=str(folder), max_seconds=2.0)

    def transcribe(self, clips: Sequence[NDArray[np.float32]], language: str | None) -> list[str]:
        """Transcribe clips of (S,) mono float32 at 16 kHz, one by one: beside longer ones they would change.

        Raises:
            AudioError: A clip is longer than `max_seconds`.
        """
        longest = int(self.max_seconds * self.sample_rate)
        for number, clip in enumerate(clips):
            if len(clip) > longest:
                seconds = len(clip) / self.sample_rate
                raise AudioError(
                    f"clip {number} lasts {seconds:.2f} s, and recogniser 'wav2vec2_ctc' takes at most "
                    f"{self.max_seconds:g} s: set max_seconds"
                )
        return [self._transcribe(clip) for clip in clips]

    def _transcribe(self, clip: NDArray[np.float32]) -> str:
        # Zero mean and unit variance, as the feature extractor of transformers does.
        normed = (clip - clip.mean()) / np.sqrt(clip.var() + 1e-7)
        filled = np.pad(normed, (0, max(0, SHORTEST - len(normed))))
        with torch.inference_mode():
            logits = self.model(torch.from_numpy(filled)[None].to(self.config.device)).logits  # (1, F, V)
        return self.spell(logits[0].argmax(-1).tolist())

    def spell(self, ids: Sequence[int]) -> str:
        """Return the text of the most probable id of each frame: repeats are one, blanks none."""
        tokens = [self.tokens[i] for i, _ in groupby(ids) if i != self.blank]
        said = "".join(" " if t == "|" else t for t in tokens if not (t.startswith("<") and t.endswith(">")))
        return " ".join(said.split())

"""Whisper's encoder, on the clip's own frames or on the padded window of the reference."""

from __future__ import annotations

from dataclasses import dataclass

from kikimimi import WeightsFiles, find_weights
from kikimimi.weights import CONFIG_PATTERNS, DEFAULT_PATTERNS, load_state
from kikimimi_encoders.checkpoint_config import read_config
from kikimimi_encoders.whisper.ctranslate2 import (
    MODEL,
    encoder_sizes,
    encoder_state,
    is_ctranslate2,
    open_whisper,
)
from kikimimi_encoders.whisper.family import Sizes as Sizes, WhisperConfig, WhisperFamilyEncoder
from kikimimi_encoders.whisper.log_mel import HOP, SAMPLE_RATE


class WhisperEncoder(WhisperFamilyEncoder):
    """The encoder of Whisper (Radford et al. 2022, arXiv 2212.04356), without transformers' 30 s padding.

    With `pad: none` it sees the clip's own frames only: positions are cut to its length, clips of a batch are
    laid end to end, and attention stays within each. With `pad: window` it sees what the reference sees, the
    clip in 30 s of silence, and equals transformers' `WhisperEncoder`. Either way the frames of the clip are
    returned, not those of the silence after it.

    Only the layers up to the highest that `layers` names are built, and loaded.
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(WhisperConfig):
        """Options of the `whisper` encoder."""

        weights: str = "openai/whisper-base"
        """A Whisper of transformers or of CTranslate2 (faster-whisper): a Hub id, a folder, `package:...`; or
        `random`."""

    name = "whisper"
    sizes_class = Sizes
    pairs = False
    # A CTranslate2 file states its sizes itself.
    patterns = (*CONFIG_PATTERNS, MODEL)
    frame_rate = SAMPLE_RATE / HOP / 2

    def read_sizes(self, files: WeightsFiles) -> Sizes:
        """Read the sizes from `config.json`, or from a CTranslate2 file.

        Raises:
            WeightsError: It is another model, or they are missing or impossible.
        """
        if is_ctranslate2(files):
            return Sizes.read(encoder_sizes(open_whisper(files)), files.source)
        return Sizes.read(read_config(files, self.name, "whisper"), files.source)

    def load_weights(self) -> None:
        """Fill from safetensors (of the encoder's tensors only) or from a CTranslate2 file.

        Raises:
            WeightsError: The tensors do not fit.
        """
        files = find_weights(self.config.weights, patterns=(*DEFAULT_PATTERNS, MODEL))
        if files is None:
            return
        if is_ctranslate2(files):
            state = encoder_state(open_whisper(files))
        else:
            # WhisperForConditionalGeneration, or WhisperModel.
            state = files.state_dict("model.encoder.") or files.state_dict("encoder.")
        load_state(self.model, state, source=files.source, ignore=self.unread())

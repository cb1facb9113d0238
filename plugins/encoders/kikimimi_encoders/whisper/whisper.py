"""Whisper's encoder, on the clip's own frames or on the padded window of the reference."""

from dataclasses import dataclass

from torch import Tensor

from kikimimi import WeightsFiles
from kikimimi.weights import CONFIG_PATTERNS, DEFAULT_PATTERNS
from kikimimi_encoders.pretrained import SAMPLE_RATE, read_config
from kikimimi_encoders.whisper.ctranslate2 import (
    MODEL,
    encoder_sizes,
    encoder_state,
    is_ctranslate2,
    open_whisper,
)
from kikimimi_encoders.whisper.family import Sizes as Sizes, WhisperConfig, WhisperFamilyEncoder
from kikimimi_encoders.whisper.log_mel import HOP


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
    pairs = False
    # A CTranslate2 file states its sizes itself.
    config_patterns = (*CONFIG_PATTERNS, MODEL)
    weight_patterns = (*DEFAULT_PATTERNS, MODEL)
    # WhisperForConditionalGeneration, or WhisperModel.
    prefixes = ("model.encoder.", "encoder.")
    frame_rate = SAMPLE_RATE / HOP / 2

    def read(self, files: WeightsFiles) -> Sizes:
        """Read the sizes from `config.json`, or from a CTranslate2 file.

        Raises:
            WeightsError: It is another model, or they are missing or impossible.
        """
        if is_ctranslate2(files):
            return Sizes.of_whisper(encoder_sizes(open_whisper(files)), files.source)
        return Sizes.of_whisper(read_config(files, self.name, "whisper"), files.source)

    def state(self, files: WeightsFiles) -> dict[str, Tensor]:
        """Read the encoder's tensors from safetensors or from a CTranslate2 file."""
        return encoder_state(open_whisper(files)) if is_ctranslate2(files) else super().state(files)

"""Whisper and those that share its layers; the names here are for the recogniser, too."""

from kikimimi_encoders.log_mel import HOP as HOP, log_mel as log_mel
from kikimimi_encoders.pretrained import SAMPLE_RATE as SAMPLE_RATE
from kikimimi_encoders.whisper.ctranslate2 import (
    MODEL as MODEL,
    is_ctranslate2 as is_ctranslate2,
    model_sizes as model_sizes,
    model_state as model_state,
    open_whisper as open_whisper,
)

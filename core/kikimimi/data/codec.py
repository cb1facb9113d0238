"""Codecs of packed audio, and the sampling rates that they take. Imports no NumPy: ``--help`` reads it."""

from typing import Annotated, Literal

from annotated_types import Ge, Le

from kikimimi.errors import RequestError

Codec = Literal["flac", "opus"]

MIN_SAMPLE_RATE = 1000
"""Lowest sampling rate [Hz] that is believed; below it, a header is wrong."""

SampleRate = Annotated[int, Ge(MIN_SAMPLE_RATE), Le(655_350)]
"""Sampling rate [Hz], at most the largest of FLAC."""

OPUS_RATES = (8_000, 12_000, 16_000, 24_000, 48_000)
"""Sampling rates that Opus encodes [Hz]."""


def check_opus_rate(sample_rate: int) -> None:
    """Check that Opus encodes a sampling rate [Hz].

    Raises:
        RequestError: It does not.
    """
    if sample_rate not in OPUS_RATES:
        rates = ", ".join(f"{rate}" for rate in OPUS_RATES)
        raise RequestError(f"Opus has no sampling rate of {sample_rate} Hz; it has {rates}")

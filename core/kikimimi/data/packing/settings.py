"""The settings of a packing: how clips are encoded, and which rows are kept."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from kikimimi.console.words import listing, nearest
from kikimimi.data.audio import MIN_SAMPLE_RATE
from kikimimi.data.opus import check_opus_rate
from kikimimi.errors import RequestError

Codec = Literal["flac", "opus"]

_MAX_FLAC_RATE = 655_350  # of the format [Hz]


@dataclass(kw_only=True, frozen=True)
class PackSettings:
    """What decides, beside the rows themselves, on the bytes of a shard.

    Raises:
        RequestError: A setting is out of its range.
    """

    sample_rate: int = 16_000
    """Of the packed clips [Hz]."""
    codec: Codec = "flac"
    """FLAC (16 bits, lossless), or Opus."""
    min_seconds: float | None = None
    """Rows with a shorter clip are left out [s]; None keeps every length."""
    max_seconds: float | None = None
    """Rows with a longer clip are left out [s]; None keeps every length."""
    licenses: tuple[str, ...] = ()
    """Only rows with one of these licences (``meta.license``) are kept; empty keeps all."""

    def __post_init__(self) -> None:
        codecs = get_args(Codec)
        if self.codec not in codecs:
            guess = nearest(self.codec, codecs)
            raise RequestError(f"codec '{self.codec}' is none of {listing(codecs)}.{guess}")
        if not MIN_SAMPLE_RATE <= self.sample_rate <= _MAX_FLAC_RATE:
            raise RequestError(
                f"sample_rate must be from {MIN_SAMPLE_RATE} to {_MAX_FLAC_RATE} Hz, not {self.sample_rate}"
            )
        if self.codec == "opus":
            check_opus_rate(self.sample_rate)
        for name in ("min_seconds", "max_seconds"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise RequestError(f"{name} must be above 0, not {value:g}")
        shortest, longest = self.min_seconds or 0.0, self.max_seconds or math.inf
        if shortest > longest:
            raise RequestError(f"min_seconds ({shortest:g}) must not be above max_seconds ({longest:g})")
        if not all(name.strip() for name in self.licenses):
            raise RequestError("a licence to keep has no name; give one such as CC0-1.0")
        # In one order, so that the order in which they were given changes no shard.
        object.__setattr__(self, "licenses", tuple(sorted(set(self.licenses))))

    def to_json(self) -> str:
        """Return them as one line; equal for equal settings."""
        return json.dumps(asdict(self), sort_keys=True)

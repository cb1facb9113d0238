"""Audio that a data set stores decoded, as numbers, in any of the usual shapes: it becomes a WAV file."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kikimimi import DataError, encode_audio

_RATES = ("sampling_rate", "sample_rate", "samplerate", "rate", "sr")
_SAMPLES = ("array", "samples", "waveform", "values")
_MAX_CHANNELS = 32
_FULL_SCALE = 1 << 15  # of whole numbers
_LOWEST, _HIGHEST = 1, (1 << 31) - 1  # what the header of a WAV file holds [Hz]


def is_decoded(value: Any) -> bool:
    """Tell whether a value is audio that is stored as numbers: a list, or a mapping that holds one."""
    return isinstance(value, list) or (isinstance(value, dict) and _first(value, _SAMPLES) is not None)


def encoded(value: Any, rate: Any = None) -> bytes:
    """Return samples that are stored as numbers as a WAV file of 32-bit floats.

    Args:
        value: A list of S numbers; of channels, (channels, S) or (S, channels); or a mapping that holds one
            as ``array``, and the rate as ``sampling_rate``. Floats have a full scale of 1; whole numbers are
            taken for samples of 16 bits.
        rate: Sampling rate where the value does not say it [Hz].

    Raises:
        DataError: The rate is missing or none, or the numbers are no samples.
    """
    if isinstance(value, dict):
        said = _first(value, _RATES)
        value, rate = _first(value, _SAMPLES), rate if said is None else said
    return encode_audio(_samples(value), _rate(rate), kind="WAV", subtype="FLOAT")


def _first(value: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((value[name] for name in names if value.get(name) is not None), None)


def _rate(said: Any) -> int:
    if said is None:
        raise DataError("its sampling rate is missing; say it with sampling_rate in the file of fields")
    try:
        rate = 0.0 if isinstance(said, bool) else float(said)
    except (TypeError, ValueError):
        rate = 0.0
    if not (_LOWEST <= rate <= _HIGHEST and rate.is_integer()):
        raise DataError(f"its sampling rate is {said!r}; expected a whole number of Hz")
    return int(rate)


def _samples(value: Any) -> NDArray[np.float32]:
    """Return (S,) or (S, channels) samples."""
    try:
        found = np.asarray(value)
    except ValueError:
        raise DataError("its channels are of different lengths") from None
    if found.dtype == object:  # with nulls
        try:
            found = found.astype(np.float64)
        except (TypeError, ValueError):
            raise DataError("its samples are not numbers, or its channels are of different lengths") from None
    if found.size == 0:
        raise DataError("it holds no samples")
    if found.dtype.kind not in "fiu":
        raise DataError(f"its samples are not numbers but {found.dtype}")
    return _frames_first(_full_scale(found).astype(np.float32))


def _full_scale(samples: NDArray[Any]) -> NDArray[Any]:
    if samples.dtype.kind == "f":
        return samples
    low, high = int(samples.min()), int(samples.max())
    if not -_FULL_SCALE <= low <= high < _FULL_SCALE or (low >= 0 and high > 0):
        raise DataError(
            f"its samples are whole numbers from {low:,} to {high:,}, which are not those of 16 bits: store "
            "floats with a full scale of 1"
        )
    return samples / _FULL_SCALE


def _frames_first(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Make (channels, S) samples (S, channels); of other axes, all but those of length 1 are an error."""
    if samples.ndim > 2:
        samples = samples.squeeze()
    if samples.ndim < 2:
        return samples.reshape(-1)
    if samples.ndim > 2 or min(samples.shape) > _MAX_CHANNELS:
        raise DataError(f"its samples are of shape {samples.shape}; expected (channels, samples)")
    return samples.T if samples.shape[0] < samples.shape[1] else samples

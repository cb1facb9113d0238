from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
import soundfile

from kikimimi.errors import DataError
from kikimimi_layouts.decoded import encoded, is_decoded

pytestmark = pytest.mark.fault("Rows: decoded arrays in Parquet", "taken, or left out by name")

MONO = [0.3 * math.sin(i / 9) for i in range(400)]
OTHER = [0.2 * math.sin(i / 5) for i in range(400)]
INTS = [round(10_000 * math.sin(i / 9)) for i in range(400)]


def read(value: Any, rate: Any = None) -> tuple[Any, int]:
    assert is_decoded(value)
    samples, said = soundfile.read(io.BytesIO(encoded(value, rate)), dtype="float32")
    return samples, said


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (MONO, MONO),
        ([MONO], MONO),
        ([[MONO]], MONO),
        ([[sample] for sample in MONO], MONO),
        ([MONO, OTHER], list(zip(MONO, OTHER, strict=True))),
        (list(zip(MONO, OTHER, strict=True)), list(zip(MONO, OTHER, strict=True))),
        (INTS, [sample / 32768 for sample in INTS]),
        ([INTS, INTS], [[sample / 32768] * 2 for sample in INTS]),
        ([0, 0, 0, 0], [0, 0, 0, 0]),
    ],
)
@pytest.mark.parametrize("key", ["array", "samples", "waveform"])
def test_shapes(array: Any, expected: Any, key: str) -> None:
    samples, rate = read({key: array, "sampling_rate": 8000})
    np.testing.assert_allclose(samples, np.asarray(expected), atol=1e-6)
    assert rate == 8000


@pytest.mark.parametrize("said", [16_000, 16_000.0, "16000", "16000.0"])
@pytest.mark.parametrize("name", ["sampling_rate", "sample_rate", "sr"])
def test_rates(said: Any, name: str) -> None:
    assert read({"array": MONO, name: said})[1] == 16_000
    assert read({"array": MONO, name: said}, 8000)[1] == 16_000
    assert read(MONO, said)[1] == 16_000
    assert read({"array": MONO, name: None}, said)[1] == 16_000


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"array": MONO}, "its sampling rate is missing; say it with sampling_rate"),
        *(
            ({"array": MONO, "sampling_rate": rate}, "its sampling rate is .*; expected a whole number of Hz")
            for rate in (0, -1, 16_000.5, math.nan, math.inf, "fast", True, [16_000], 1 << 40)
        ),
        ([[0.1, 0.2], [0.1]], "channels are of different lengths"),
        ([MONO, OTHER[:-1]], "channels are of different lengths"),
        ([], "it holds no samples"),
        ([[], []], "it holds no samples"),
        (["a", "b"], "its samples are not numbers"),
        ([True, False], "its samples are not numbers"),
        ([sample * 1000 for sample in INTS], "whole numbers from -10,000,000 to .* not those of 16 bits"),
        ([abs(sample) for sample in INTS], "whole numbers from 0 to .* not those of 16 bits"),
        ([[0.1] * 40] * 40, r"of shape \(40, 40\); expected \(channels, samples\)"),
        ([[[0.1] * 40] * 2] * 3, r"of shape \(3, 2, 40\)"),
    ],
)
def test_refuses(value: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        encoded(value, None if isinstance(value, dict) else 16_000)


def test_nulls_are_no_numbers() -> None:
    samples, _ = read([0.1, None, 0.2], 16_000)
    assert np.isnan(samples).tolist() == [False, True, False]


@pytest.mark.parametrize("value", [None, b"x", "x", {}, {"array": None, "path": "a.wav"}, {"bytes": b"x"}, 5])
def test_what_is_not_decoded(value: Any) -> None:
    assert not is_decoded(value)

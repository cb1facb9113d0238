"""How much text stands beside a second of audio, and the records where it is far from what is usual.

A transcript that does not belong to its clip, and a clip that was cut, stand out without a listener: in one
language people speak so many characters per second, give or take. Rates spread evenly on a logarithmic scale
(twice as fast is as rare as twice as slow), and median and median absolute deviation are not moved by the
very records that are looked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kikimimi.inspect.distribution import Distribution, distribution

FEWEST = 20
"""Records of a language below which none is a suspect: there is no telling what is usual."""
FAR = 5.0
"""Distance from the median from which a record is a suspect [robust standard deviations of the logarithm]."""
NARROWEST = 0.05
"""Least robust standard deviation: among texts of one length harmless differences would be far."""


@dataclass(frozen=True)
class Rate:
    """How much text stands beside a second of audio, in one language.

    Attributes:
        language: Its name.
        rates: Over records with audio and text [characters/s].
        low: Below it a record is a suspect [characters/s]; None where there are fewer than `FEWEST`.
        high: Above it a record is a suspect, likewise.
        too_little: Records below `low`.
        too_much: Records above `high`.
    """

    language: str
    rates: Distribution
    low: float | None
    high: float | None
    too_little: int
    too_much: int


class Far(NamedTuple):
    """A record that is far from what is usual.

    Attributes:
        row: Of the record.
        language: Its language.
        usual: The median there [characters/s].
        deviation: Distance from it, above 0 for too much text [robust standard deviations of the logarithm].
    """

    row: int
    language: str
    usual: float
    deviation: float


def measure_rates(
    seconds: NDArray[np.float32],
    characters: NDArray[Any],
    languages: NDArray[np.int64],
    names: Sequence[str],
    *,
    worst: int,
) -> tuple[list[Rate], list[Far]]:
    """Measure how much text stands beside the audio.

    Args:
        seconds: (rows,) audio of each record [s]; those without any are passed over.
        characters: (rows,) text of each record, likewise.
        languages: (rows,) position in `names`.
        names: Of the languages.
        worst: How many records to name that have too much text, and how many that have too little.

    Returns:
        One rate for each language that has any, in the order of `names`; the farthest records, first those
        with too much text.
    """
    spoken = np.flatnonzero((seconds > 0) & (characters > 0))
    values = characters[spoken] / seconds[spoken].astype(np.float64)
    rates: list[Rate] = []
    far: list[Far] = []
    for code, name in enumerate(names):
        here = np.flatnonzero(languages[spoken] == code)
        spread = distribution(values[here], "characters/s")
        if spread is None:
            continue
        if spread.count < FEWEST:
            rates.append(Rate(name, spread, None, None, 0, 0))
            continue
        logs = np.log(values[here])
        median = float(np.median(logs))
        # 1.4826 makes the median absolute deviation of a normal distribution its standard deviation.
        sigma = max(1.4826 * float(np.median(np.abs(logs - median))), NARROWEST)
        deviations = (logs - median) / sigma
        above, below = np.flatnonzero(deviations > FAR), np.flatnonzero(deviations < -FAR)
        usual, reach = math.exp(median), math.exp(FAR * sigma)
        rates.append(Rate(name, spread, usual / reach, usual * reach, len(below), len(above)))
        for side in (above, below):
            farthest = side[np.argsort(-np.abs(deviations[side]), kind="stable")[:worst]]
            far += [Far(int(spoken[here[i]]), name, usual, float(deviations[i])) for i in farthest.tolist()]
    far.sort(key=lambda item: (-abs(item.deviation), item.row))
    sides = [item for item in far if item.deviation > 0], [item for item in far if item.deviation < 0]
    return rates, [item for side in sides for item in side[:worst]]

"""How far a score would move with other utterances: the bootstrap's interval (Efron, 1979).

Bisani & Ney (2004, doi 10.1109/ICASSP.2004.1326009) draw whole utterances, since the errors within one are
not independent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kikimimi.contracts.metric import Metric

DRAWS, SEED = 1000, 0
"""How many corpora are drawn, and the seed: the same utterances always have the same interval."""
LEVEL = 0.95


def interval(metric: Metric, utterances: Sequence[Mapping[str, float] | None]) -> tuple[float, float] | None:
    """Return the lower and upper end of the 95 % interval of a metric's value, in its unit.

    Args:
        metric: The metric.
        utterances: Details of each utterance, None where one is not scored (`Score.utterances`).

    Returns:
        The ends; None of fewer than two utterances, and where a drawn corpus has no value.
    """
    kept = [details for details in utterances if details is not None]
    if len(kept) < 2:
        return None
    names = list(kept[0])
    table = np.array([[details[name] for name in names] for details in kept])  # (utterances, details)
    drawn = np.random.default_rng(SEED)
    values = []
    for _ in range(DRAWS):
        times = np.bincount(drawn.integers(len(kept), size=len(kept)), minlength=len(kept))
        try:
            values.append(metric.value(dict(zip(names, (times @ table).tolist(), strict=True))))
        except ZeroDivisionError:
            return None
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return low, high

"""Learning-rate schedules as a factor on each group's peak rate."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kikimimi.recipe import Schedule


def factor(schedule: Schedule, step: int, steps: int) -> float:
    """Return the factor on the learning rate of optimiser step `step` (from 0) of `steps`.

    Warm-up from `schedule.start` to 1 over `schedule.warmup` steps, linear or with the logarithm of the step
    (DeepSpeed's `WarmupLR`), `schedule.hold` steps at 1, then a decay to `schedule.floor` at the last step:
    linear, by half a cosine, exponential (fairseq's `tri_stage`), or none.
    """
    if step < schedule.warmup:
        log = schedule.warmup_type == "log"
        risen = math.log(step + 1) / math.log(max(2, schedule.warmup)) if log else step / schedule.warmup
        return schedule.start + (1 - schedule.start) * risen
    if schedule.name == "constant":
        return 1.0
    begin = schedule.warmup + schedule.hold
    span = max(1, steps - 1 - begin)
    done = min(1.0, max(0, step - begin) / span)
    if schedule.name == "exponential":
        return float(schedule.floor**done)
    left = 1 - done if schedule.name == "linear" else (1 + math.cos(math.pi * done)) / 2
    return schedule.floor + (1 - schedule.floor) * left

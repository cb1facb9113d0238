"""Figures of a run's machine for the report: how fast each stage went, and what it waited for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import fmean, median

from kikimimi.report.report import Count
from kikimimi.run.metrics import Lines, by_stage

AUDIO_SPEED = "audio_seconds_per_second"
_FIGURES: tuple[tuple[str, str, Callable[[list[float]], float], float, int, str], ...] = (
    (AUDIO_SPEED, "seconds of audio per second", median, 1, 2, "all ranks together; median of the log lines"),
    ("positions_per_second", "positions per second", median, 1, 1, "of the LLM, audio and text; likewise"),
    ("data_wait", "waiting for data [%]", fmean, 100, 2, "of the training's time; mean of the ranks"),
    (
        "flop_utilisation",
        "share of the measured matrix rate [%]",
        median,
        100,
        1,
        "of useful operations; all ranks together",
    ),
    ("memory_gb", "most memory [GB]", max, 1, 3, "of the fullest rank: its GPU's, or without one its own"),
)


def measured(lines: Lines) -> Iterator[Count]:
    """Yield speed, waiting and memory of each stage, from the lines of its metrics."""
    for stage, own in by_stage(lines).items():
        for key, label, of_all, scale, digits, note in _FIGURES:
            if values := [line[key] for line in own if key in line]:
                value = round(scale * of_all(values), digits)
                yield Count(label=f"stage {stage}: {label}", value=value, note=note)

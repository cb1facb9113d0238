"""The report of a sweep: one HTML file that needs no network, no other file and no script."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from statistics import fmean

from kikimimi.console.words import counted, duration, format_value, size
from kikimimi.report.charts import (
    MOST_STYLES,
    STYLES,
    Chart,
    Curve,
    dot_chart,
    panel_chart,
)
from kikimimi.report.drawing import NAMES, format_step
from kikimimi.report.page import fill_page
from kikimimi.report.pareto import CostPoint, pareto_chart
from kikimimi.report.report import Fact
from kikimimi.sweeps.factor import short_names
from kikimimi.sweeps.summary import Effect, EvaluationSummary, SettingSummary, SweepSummary
from kikimimi.sweeps.sweep_tables import table_notes

_MOST_ROWS = 20  # of a picture; more are in its table alone
_ROOM = 190  # pixels for the names of settings
_COSTS_DIFFER = 1.01  # by which factor, or an axis has the same number at each of its ticks
_LONG = 160  # characters of a cause that is shown unfolded
_LINES = "Lines: 95 % intervals over seeds and clips."
_Dot = tuple[float, float, float]


def sweep_page(summary: SweepSummary, created: datetime, tables: Mapping[str, str]) -> str:
    """Return the report of a sweep as one HTML page.

    Args:
        summary: What it has shown so far.
        created: When the page is made.
        tables: The table for papers, by format.
    """
    scored = [one for one in summary.settings if one.scores]
    numbers = {one.name: number for number, one in enumerate(summary.settings, start=1)}
    ended = [run for run in summary.unfinished if run.state in ("failed", "pruned")]
    return fill_page(
        "sweep.html.j2",
        created,
        summary=summary,
        facts=list(_facts(summary)),
        scored=scored,
        numbers=numbers,
        with_time=any(one.seconds is not None for one in scored),
        with_speed=any(one.speed is not None for one in scored),
        with_memory=any(one.memory is not None for one in scored),
        notes=list(table_notes(summary)),
        overview=list(_overview(summary)),
        effects=[chart for one in summary.evaluations for chart in _effects(one, summary)],
        together=[table for one in summary.evaluations for table in _together(one, summary)],
        parts=[part for one in summary.evaluations for part in _parts(summary, one)],
        curves=list(_learning(summary)),
        costs=[chart for one in summary.evaluations[:1] for chart in _costs(summary, one, numbers)],
        differs=list(_differs(summary, numbers)),
        ended=ended,
        going=[
            counted(summary.states.get(state, 0), f"run {one}", f"runs {several}")
            for state, one, several in (
                ("running", "is being trained", "are being trained"),
                ("waiting", "waits", "wait"),
            )
            if summary.states.get(state)
        ],
        tables=tables if scored else {},
        long=_LONG,
        ends=_ends,
        short=short_names(summary.factors),
        duration=duration,
        size=size,
        counted=counted,
        shown=lambda number: format_step(float(f"{number:.4g}")),
        value=format_value,
    )


def _facts(summary: SweepSummary) -> Iterator[Fact]:
    """Yield the few figures that matter: the best setting, what is settled, and what is missing."""
    for evaluation in summary.evaluations:
        there = [one for one in summary.settings if evaluation.name in one.scores]
        sign = 1 if evaluation.better == "lower" else -1
        first = min(there, key=lambda one: sign * one.scores[evaluation.name].value)
        score = first.scores[evaluation.name]
        ends = _ends(score.low, score.high)
        notes = [first.name, *([f"95 %: {ends}"] if ends else [])]
        value = f"{evaluation.label} {score.value:.2f} {evaluation.unit}".rstrip()
        yield Fact(label=f"{evaluation.name}: best value", value=value, note="; ".join(notes))
        if evaluation.pairs:
            settled = sum(pair.settled for pair in evaluation.pairs)
            told = f"{settled} of {counted(len(evaluation.pairs), 'other')}"
            rest = "the rest is open; " if settled < len(evaluation.pairs) else ""
            note = f"{rest}paired test, Holm's correction"
            yield Fact(label=f"{evaluation.name}: shown to be worse", value=told, note=note)
    whole = sum(summary.states.values())
    others = [
        f"{count} {state}"
        for state, count in summary.states.items()
        if count and state not in ("finished", "failed")
    ]
    failed = summary.states.get("failed", 0)
    if failed:
        others.insert(0, f"{failed} failed")
    seeds = counted(len(summary.seeds) or 1, "seed")
    note = ", ".join([counted(len(summary.settings), "setting"), seeds, *others])
    done = f"{summary.states.get('finished', 0)} of {counted(whole, 'run')}"
    yield Fact(label="finished", value=done, note=note, failed=failed > 0)
    if known := [one for one in summary.settings if one.seconds is not None and one.finished]:
        total = sum(one.finished * (one.seconds or 0) for one in known)
        yield Fact(label="time of finished runs", value=duration(total), note="all runs added up")


def _brief(setting: SettingSummary, summary: SweepSummary) -> str:
    """Return the labels of a setting's levels alone, where its factors are known from elsewhere."""
    return (
        ", ".join(setting.levels[name] for name in summary.factors if name in setting.levels) or setting.name
    )


def _overview(summary: SweepSummary) -> Iterator[Chart]:
    for evaluation in summary.evaluations:
        scored = [one for one in summary.settings if evaluation.name in one.scores]
        there = scored[:_MOST_ROWS]
        if len(there) > 1:
            names = [_brief(one, summary) for one in there]
            dots: list[_Dot | None] = [_dot(one, evaluation) for one in there]
            title = f"{evaluation.name}: {evaluation.label} by setting"
            drawn = dot_chart(
                names,
                {"mean": dots},
                title=title,
                unit=evaluation.unit,
                room=_room(names),
            )
            cut = len([one for one in summary.settings if evaluation.name in one.scores]) - len(there)
            notes = ["Lines: 95 % intervals over seeds and clips."] + [f"{cut} more in the table."] * (
                cut > 0
            )
            yield replace(drawn, keys=(), notes=tuple(notes))


def _room(names: Sequence[str]) -> int:
    return min(_ROOM, max(NAMES, 10 * max(map(len, names)) + 9))


def _dot(setting: SettingSummary, evaluation: EvaluationSummary) -> _Dot:
    score = setting.scores[evaluation.name]
    low, high = (score.value if end is None else end for end in (score.low, score.high))
    return score.value, low, high


def _effects(evaluation: EvaluationSummary, summary: SweepSummary) -> Iterator[Chart]:
    short = short_names(summary.factors)
    for factor, effects in evaluation.effects.items():
        if len(effects) <= 2 * _MOST_ROWS:
            names = [effect.levels[factor] for effect in effects]
            drawn = dot_chart(
                names,
                {"effect": [(one.value, one.low, one.high) for one in effects]},
                title=f"{evaluation.name}: {evaluation.label} by {short[factor]}",
                unit=f"{evaluation.unit} beside the mean of all settings".strip(),
                room=_room(names),
            )
            yield replace(drawn, keys=(), notes=(_LINES,))


def _together(
    evaluation: EvaluationSummary, summary: SweepSummary
) -> Iterator[tuple[str, list[str], dict[str, list[Effect | None]]]]:
    """Yield of each interaction its name, the labels across, and a row of effects for each label down."""
    short = short_names(summary.factors)
    for (one, other), effects in evaluation.interactions.items():
        found = {(effect.levels[one], effect.levels[other]): effect for effect in effects}
        across = list(dict.fromkeys(label for _, label in found))
        down = dict.fromkeys(label for label, _ in found)
        rows = {label: [found.get((label, head)) for head in across] for label in down}
        yield f"{evaluation.name}: {short[one]} and {short[other]}", across, rows


def _parts(
    summary: SweepSummary, evaluation: EvaluationSummary
) -> Iterator[tuple[Chart | None, str, list[str], dict[str, Mapping[str, float]]]]:
    """Yield of each field a picture of the best settings, its name, its groups, and the settings' values."""
    there = [one for one in summary.settings if evaluation.name in one.scores]
    fields = dict.fromkeys(name for one in there for name in one.scores[evaluation.name].parts)
    for name in fields:
        own = {one.name: one.scores[evaluation.name].parts.get(name, {}) for one in there}
        groups = list(dict.fromkeys(group for values in own.values() for group in values))
        if len(groups) < 2:
            continue
        chart = None
        if len(groups) <= _MOST_ROWS:
            best = [one for one in there if own[one.name]][:STYLES]
            dots: dict[str, Sequence[_Dot | None]] = {
                _brief(one, summary): [_point(own[one.name].get(group)) for group in groups] for one in best
            }
            title = f"{evaluation.name}: {evaluation.label} by {name}"
            rest = len(there) - len(best)
            drawn = dot_chart(groups, dots, title=title, unit=evaluation.unit)
            chart = replace(drawn, notes=(f"The best {len(best)}; {rest} more in the table.",) * (rest > 0))
        yield chart, f"{evaluation.name} by {name}", groups, own


def _point(value: float | None) -> _Dot | None:
    return None if value is None else (value, value, value)


def _learning(summary: SweepSummary) -> Iterator[Chart]:
    there = [one for one in summary.settings if one.curves]
    curves = [Curve(name=_brief(one, summary), points=_mean_curve(one.curves)) for one in there[:MOST_STYLES]]
    if any(len(curve.points) > 1 for curve in curves):
        drawn = panel_chart({"": curves}, title="Validation loss")
        cut = len(there) - len(curves)
        notes = [*drawn.notes, "Means over seeds; stages one after the other."]
        notes += [f"The best {len(curves)} of {len(there)} settings."] * (cut > 0)
        yield replace(drawn, notes=tuple(notes))


def _mean_curve(seeds: Mapping[str, Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    """Return the mean of the seeds' curves at the steps that all of them have."""
    held = [dict(points) for points in seeds.values()]
    return [(step, fmean(one[step] for one in held)) for step in held[0] if all(step in one for one in held)]


def _costs(
    summary: SweepSummary, evaluation: EvaluationSummary, numbers: Mapping[str, int]
) -> Iterator[Chart]:
    """Yield pictures of values against what settings cost, where their costs can be told apart."""
    there = [one for one in summary.settings if evaluation.name in one.scores]
    for attribute, cost in (("trainable", "trained parameters"), ("seconds", "time of a run [s]")):
        points = []
        for one in there:
            if known := getattr(one, attribute):
                value, low, high = _dot(one, evaluation)
                points.append(
                    CostPoint(
                        name=one.name,
                        mark=str(numbers[one.name]),
                        cost=float(known),
                        value=value,
                        low=low,
                        high=high,
                    )
                )
        costs = [point.cost for point in points]
        if costs and max(costs) > _COSTS_DIFFER * min(costs):
            yield pareto_chart(
                points,
                title=f"{evaluation.name}: {evaluation.label} against {cost.partition(' [')[0]}",
                cost=cost,
                unit=evaluation.unit,
                better=evaluation.better,
            )


def _differs(
    summary: SweepSummary, numbers: Mapping[str, int]
) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yield of each option that differs its values, and the numbers of the settings that have them."""
    for option, values in summary.differs.items():
        held: dict[str, list[int]] = {}
        for setting, text in values.items():
            if text:  # a setting whose parts have no such option is not named
                held.setdefault(text, []).append(numbers[setting])
        yield option, [(text, _ranges(sorted(of))) for text, of in held.items()]


def _ranges(numbers: Sequence[int]) -> str:
    """Write whole numbers shortly: ``1-3, 7``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(begin) if begin == end else f"{begin}-{end}" for begin, end in runs)


def _ends(low: float | None, high: float | None) -> str:
    """Return an interval in few letters; empty where there is none."""
    if low is None or high is None:
        return ""
    return f"{low:.2f}{'-' if low >= 0 else ' to '}{high:.2f}"

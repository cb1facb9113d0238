"""Curves of a run for the report: what its metrics say over the steps of each stage."""

from __future__ import annotations

from collections.abc import Iterator

from kikimimi.report.charts import STYLES, Curve
from kikimimi.report.report import CurveGroup
from kikimimi.report.run_figures import AUDIO_SPEED
from kikimimi.run.metrics import Lines, by_stage, names_of


def training_curves(lines: Lines) -> Iterator[CurveGroup]:
    """Yield the charts of a run: of each kind, those of every stage.

    Args:
        lines: Of its metrics.
    """
    stages = by_stage(lines)
    for charts in (_losses, _measures, _norms, _rates, _speeds, _shares):
        for stage, own in stages.items():
            yield from charts(own, f" in stage {stage}" if len(stages) > 1 else "")


def _losses(lines: Lines, where: str) -> Iterator[CurveGroup]:
    whole = [*_curves(lines, "loss", "training"), *_curves(lines, "validation_loss", "validation")]
    yield CurveGroup(title=f"Loss{where}", curves=whole)
    # What the training loss is the sum of, where an adapter adds to it.
    for key in names_of(lines, "loss/"):
        title = f"Part of the loss{where}: {key.removeprefix('loss/')}"
        yield CurveGroup(title=title, curves=_curves(lines, key, "training"))


def _rates(lines: Lines, where: str) -> Iterator[CurveGroup]:
    yield from _charts(f"Learning rate{where}", _family(lines, "lr"), exact=True)


def _measures(lines: Lines, where: str) -> Iterator[CurveGroup]:
    """Yield a chart for each family of measures that an objective adds, such as ``reward/margin``."""
    keys = [key for key in names_of([line for line in lines if "loss" in line], "") if "/" in key]
    families = {key.partition("/")[0] for key in keys} - {"loss", "lr", "count"}
    for family in sorted(families):
        yield from _charts(f"{family.capitalize()}{where}", _family(lines, family))


def _norms(lines: Lines, where: str) -> Iterator[CurveGroup]:
    if curves := _curves(lines, "gradient_norm", "before clipping"):
        yield CurveGroup(title=f"Norm of the gradient{where}", curves=curves)


def _speeds(lines: Lines, where: str) -> Iterator[CurveGroup]:
    if any(line.get(AUDIO_SPEED) for line in lines):
        curves = _curves(lines, AUDIO_SPEED, "all ranks")
        yield CurveGroup(title=f"Seconds of audio per second{where}", curves=curves)
    elif curves := _curves(lines, "positions_per_second", "all ranks"):
        yield CurveGroup(title=f"Positions per second{where}", curves=curves)


def _shares(lines: Lines, where: str) -> Iterator[CurveGroup]:
    if curves := _curves(lines, "flop_utilisation", "all ranks"):
        yield CurveGroup(title=f"Share of the measured matrix rate{where}", curves=curves)


def _family(lines: Lines, family: str) -> list[Curve]:
    return [
        curve
        for key in names_of(lines, f"{family}/")
        for curve in _curves(lines, key, key.removeprefix(f"{family}/"))
    ]


def _curves(lines: Lines, key: str, name: str) -> list[Curve]:
    points = [(line["step"], line[key]) for line in lines if key in line]
    return [Curve(name=name, points=points)] if points else []


def _charts(title: str, curves: list[Curve], *, exact: bool = False) -> Iterator[CurveGroup]:
    """Yield as many charts as the curves need: one can tell so many line styles apart."""
    for begin in range(0, len(curves), STYLES):
        part = f" ({begin // STYLES + 1})" if len(curves) > STYLES else ""
        yield CurveGroup(title=f"{title}{part}", curves=curves[begin : begin + STYLES], exact=exact)

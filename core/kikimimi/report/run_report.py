"""Fills the report from what a run folder holds: metrics, predictions, scores, and what was left out."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from statistics import fmean, median

from kikimimi.contracts.metric import Score
from kikimimi.data.fault import read_faults
from kikimimi.data.packing.pack import read_ledger
from kikimimi.evaluation.evaluate import stage_system
from kikimimi.evaluation.record import as_scored, read_scorings, settings_of, values_of
from kikimimi.evaluation.score import comparisons_of, parts_of, read_scores
from kikimimi.evaluation.similarity import read_similarities
from kikimimi.files.writing import whole_file
from kikimimi.files.yaml_text import parse_yaml
from kikimimi.inspect.describe import describe
from kikimimi.recipe import Evaluation, Recipe, Stage
from kikimimi.recipe.show import plain, to_yaml
from kikimimi.report.charts import STYLES, Chart, Curve, dot_chart, heat_map, panel_chart
from kikimimi.report.guard_rows import GuardPart, guard_part
from kikimimi.report.page import save_page
from kikimimi.report.paper_table import latex_table, markdown_table
from kikimimi.report.report import (
    Fact,
    Figure,
    Report,
    ScoreRow,
    StageRow,
    render_report,
)
from kikimimi.report.run_examples import run_examples
from kikimimi.run.drift import flat
from kikimimi.run.folder import RunFolder
from kikimimi.run.metrics import Lines, by_stage, names_of, read_metrics

_TABLES = {"Markdown": markdown_table, "LaTeX": latex_table}
_SUFFIXES = {"Markdown": "md", "LaTeX": "tex"}
_MOST_ROWS = 20  # of a picture of parts; more are in its table alone


def write_run_report(run: RunFolder) -> Path:
    """Write ``report.html`` of a run from its metrics, predictions and scores; return its path."""
    lines = read_metrics(run.metrics)
    recipe, run = run.recipe, as_scored(run)
    scores = list(_scores(run, recipe))
    tables = {name: write(scores, recipe.name) for name, write in _TABLES.items() if scores}
    for name, table in tables.items():
        with whole_file(run.path / f"scores.{_SUFFIXES[name]}") as unfinished:
            unfinished.write_text(table, encoding="utf-8")
    guards = guard_part(run)
    report = Report(
        title=run.recipe.name,
        created=datetime.now().astimezone(),
        facts=[*_facts(run, scores), *_guard_facts(guards, recipe.name)],
        stages=list(_stages(run, lines)),
        scores=scores,
        own=recipe.name,
        parts=list(_parts(scores)),
        tables=tables,
        guards=guards,
        charts=list(_training_charts(lines)),
        examples=[group for name in run.recipe.evaluate for group in run_examples(run, name)],
        similarities=[chart for name in run.recipe.evaluate for chart in _similarities(run, name)],
        counts=[*measured(lines), *_padding(lines), *_counts(lines), *_drops(run)],
        components=describe(recipe, run.assets),
        recipe=to_yaml(recipe),
        commands=[
            f"kikimimi train {run.path / 'recipe.yaml'} --out NEW_FOLDER",
            f"kikimimi evaluate {run.path}",
        ],
    )
    save_page(run.report, render_report(report))
    return run.report


def _scores(run: RunFolder, recipe: Recipe) -> Iterator[ScoreRow]:
    """Yield the scores of every evaluation, under each of the settings that it was scored with."""
    for name in run.recipe.evaluate:
        folder = run.evaluation(name)
        scorings = [
            (_changes(recipe.evaluate.get(name), one["settings"]), values_of(one))
            for one in read_scorings(folder)
        ]
        # The recipe's own settings first; what a version without records left is of these.
        for note, systems in sorted(scorings, key=lambda one: one[0] != "") or [
            ("", read_scores(folder / "scores.json"))
        ]:
            for system, values in systems.items():
                score, seconds = Score.from_json(values), float(values["seconds"])
                yield ScoreRow(
                    evaluation=name,
                    system=system,
                    score=score,
                    seconds=seconds,
                    note=note,
                    against=comparisons_of(values),
                    parts=parts_of(values),
                )


def _changes(own: Evaluation | None, settings: str) -> str:
    """Return in words how settings differ from those of the run's recipe; empty where they do not."""
    if own is None:
        return "added after training"
    before, after = (dict(flat(parse_yaml(text), "")) for text in (settings_of(own), settings))
    changed = [key for key in dict.fromkeys([*before, *after]) if before.get(key) != after.get(key)]
    said = ", ".join(f"{key} {after.get(key, 'null')}" for key in changed)
    return f"changed after training: {said}" if said else ""


def _facts(run: RunFolder, scores: list[ScoreRow]) -> Iterator[Fact]:
    """Yield the few figures that matter: the run's own scores, beside the best of the others."""
    for name in dict.fromkeys(row.evaluation for row in scores):
        rows = [row for row in scores if row.evaluation == name]
        rows = [row for row in rows if row.note == rows[0].note]
        stages = {stage_system(run, stage) for stage in run.recipe.stages}
        own = next((row for row in rows if row.system == run.recipe.name), rows[-1])
        notes = [f"95 %: {own.score.ends}"] if own.score.ends else []
        others = [row for row in rows if row is not own and row.system not in stages]
        if others:
            choose = min if own.score.better == "lower" else max
            best = choose(others, key=lambda row: row.score.value)
            notes.append(f"{best.system} {best.score.shown()}")
        label = name if own.system == run.recipe.name else f"{name}: {own.system}"
        yield Fact(label=label, value=str(own.score), note="; ".join(notes))


def _guard_facts(part: GuardPart | None, system: str) -> Iterator[Fact]:
    """Yield how many guards failed of what the run left."""
    for table in () if part is None else part.tables:
        if table.system == system:
            guards = [line.guard for line in table.lines if line.guard]
            said = f"{len(table.failed)} of {len(guards)} failed" if table.failed else "none failed"
            yield Fact(label="guards", value=said, note=", ".join(table.failed), failed=bool(table.failed))


def _stages(run: RunFolder, lines: Lines) -> Iterator[StageRow]:
    for stage in run.recipe.stages:
        steps = [line for line in lines if line["stage"] == stage and "loss" in line]
        if steps:
            yield StageRow(
                stage=stage,
                objective=_objective(run.recipe.stages[stage]),
                steps=int(steps[-1]["step"]),
                loss=float(steps[-1]["loss"]),
            )


def _parts(scores: list[ScoreRow]) -> Iterator[Chart]:
    """Yield a picture of each field by which an evaluation is broken down."""
    for name, note in dict.fromkeys((row.evaluation, row.note) for row in scores):
        rows = [row for row in scores if (row.evaluation, row.note) == (name, note) and row.parts]
        stages = [row for row in rows if "@" in row.system]
        rows = [row for row in rows if row not in stages or len(rows) <= STYLES][-STYLES:]
        for field in rows[0].parts if rows else ():
            groups = list(rows[0].parts[field])
            if not 1 < len(groups) <= _MOST_ROWS:
                continue
            dots = {
                row.system: [_dot(row.parts.get(field, {}).get(group)) for group in groups] for row in rows
            }
            score = rows[0].score
            yield dot_chart(groups, dots, title=f"{name}: {score.label} by {field}", unit=score.unit)


def _dot(part: Mapping[str, float] | None) -> tuple[float, float, float] | None:
    if part is None:
        return None
    value = part["value"]
    return value, part.get("low", value), part.get("high", value)


def _objective(stage: Stage) -> str:
    """Return what a stage brings down, with its options."""
    section = plain(stage.objective)
    options = {name: value for name, value in section.items() if name != "name"}
    return f"{section['name']} {json.dumps(options, ensure_ascii=False)}" if options else section["name"]


def _counts(lines: Lines) -> Iterator[Figure]:
    for stage, own in by_stage(lines).items():
        for key in names_of(own, "count/"):
            name = key.removeprefix("count/")
            dataset = name.removeprefix("records/")
            if dataset != name:
                label, note = f"records of {dataset}", "that were trained on, every repetition counted"
            elif name == "records_skipped":
                label, note = "records skipped", "that could not be read, every repetition counted"
            else:
                label, note = name, "counted by the adapter or the objective while training"
            value = int(sum(line.get(key, 0) for line in own))
            yield Figure(label=f"stage {stage}: {label}", value=value, note=note)


def _padding(lines: Lines) -> Iterator[Figure]:
    for stage, own in by_stage(lines).items():
        if shares := [line["padding"] for line in own if "padding" in line]:
            yield Figure(
                label=f"stage {stage}: padding of clips [%]",
                value=round(100 * sum(shares) / len(shares), 2),
                note="of the positions that encoder or adapter computed; the LLM's packs hold none",
            )


def _drops(run: RunFolder) -> Iterator[Figure]:
    """What packing left out, by the ledgers beside the shards, and what training left out."""
    sources = {
        name: dataset.shards for stage in run.recipe.stages.values() for name, dataset in stage.data.items()
    }
    sources |= {name: evaluation.shards for name, evaluation in run.recipe.evaluate.items()}
    for name, pattern in sources.items():
        ledger = Path(pattern).parent / "ledger.json"
        held = read_ledger(ledger)
        if held is None:
            continue
        dropped = held["dropped"]
        reasons = ", ".join(f"{reason}: {counts['rows']:g}" for reason, counts in dropped.items())
        yield Figure(
            label=f"{name}: rows dropped while packing",
            value=sum(counts["rows"] for counts in dropped.values()),
            note=reasons or "every row of the manifest was packed",
        )
    for stage_name in run.recipe.stages:
        faults = [fault for path in run.all_faults(stage_name) for fault in read_faults(path)]
        datasets = Counter(fault.dataset for fault in faults)
        listed = f"{run.faults(stage_name).relative_to(run.path)} says why" if faults else "none is ever cut"
        yield Figure(
            label=f"stage {stage_name}: records left out",
            value=len({(fault.dataset, fault.where) for fault in faults}),
            note="; ".join([*(f"{name}: {number}" for name, number in sorted(datasets.items())), listed]),
        )


def _similarities(run: RunFolder, name: str) -> Iterator[Chart]:
    _, system, clips = read_similarities(run.evaluation(name))
    for clip in clips:
        title = f"{name}, {clip.key}: {system}"
        yield heat_map(clip.values, clip.tokens, title=title, across="audio token")


def _training_charts(lines: Lines) -> Iterator[Chart]:
    """Yield the charts of a run: one for each quantity, its stages side by side."""
    stages = by_stage(lines)

    def draw(title: str, find: Callable[[Lines], list[Curve]], *, exact: bool = False) -> Iterator[Chart]:
        return _charts(title, {stage: find(own) for stage, own in stages.items()}, exact=exact)

    def draw_one(title: str, key: str, name: str) -> Iterator[Chart]:
        return draw(title, partial(_curves, key=key, name=name))

    yield from draw("Loss", _losses)
    yield from draw("Validation loss by dataset", partial(_family, family="validation_loss"))
    for key in names_of(lines, "loss/"):  # what the training loss is the sum of, where an adapter adds to it
        yield from draw_one(f"Part of the loss: {key.removeprefix('loss/')}", key, "training")
    for family in _measures(lines):
        yield from draw(family.capitalize(), partial(_family, family=family))
    yield from draw_one("Norm of the gradient", "gradient_norm", "before clipping")
    yield from draw("Learning rate", partial(_family, family="lr"), exact=True)
    yield from draw_one("Seconds of audio per second", AUDIO_SPEED, "all ranks")
    yield from draw("Positions per second", _text_speeds)
    yield from draw_one("Share of the measured matrix rate", "flop_utilisation", "all ranks")


def _losses(lines: Lines) -> list[Curve]:
    return [
        *_curves(lines, key="loss", name="training"),
        *_curves(lines, key="validation_loss", name="validation"),
    ]


def _measures(lines: Lines) -> list[str]:
    """Return the families of measures that objectives add, such as ``reward`` of ``reward/margin``."""
    keys = [key for key in names_of([line for line in lines if "loss" in line], "") if "/" in key]
    return sorted({key.partition("/")[0] for key in keys} - {"loss", "lr", "count"})


def _text_speeds(lines: Lines) -> list[Curve]:
    if any(line.get(AUDIO_SPEED) for line in lines):
        return []
    return _curves(lines, key="positions_per_second", name="all ranks")


def _family(lines: Lines, family: str) -> list[Curve]:
    return [
        curve
        for key in names_of(lines, f"{family}/")
        for curve in _curves(lines, key=key, name=key.removeprefix(f"{family}/"))
    ]


def _curves(lines: Lines, key: str, name: str) -> list[Curve]:
    points = [(line["step"], line[key]) for line in lines if key in line]
    return [Curve(name=name, points=points)] if any(value for _, value in points) else []


def _charts(title: str, stages: dict[str, list[Curve]], *, exact: bool = False) -> Iterator[Chart]:
    """Yield as many charts as the curves need: one can tell so many line styles apart."""
    names = list(dict.fromkeys(curve.name for curves in stages.values() for curve in curves))
    for begin in range(0, len(names), STYLES):
        part = f" ({begin // STYLES + 1})" if len(names) > STYLES else ""
        shown = names[begin : begin + STYLES]
        panels = {stage: [c for c in curves if c.name in shown] for stage, curves in stages.items()}
        panels = {stage: curves for stage, curves in panels.items() if curves}
        alone = f" in stage {next(iter(panels))}" if len(panels) == 1 < len(stages) else ""
        yield panel_chart(panels, title=f"{title}{alone}{part}", exact=exact)


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


def measured(lines: Lines) -> Iterator[Figure]:
    """Yield speed, waiting and memory of each stage, from the lines of its metrics."""
    for stage, own in by_stage(lines).items():
        for key, label, of_all, scale, digits, note in _FIGURES:
            if values := [line[key] for line in own if key in line]:
                value = round(scale * of_all(values), digits)
                yield Figure(label=f"stage {stage}: {label}", value=value, note=note)

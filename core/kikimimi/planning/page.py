"""A plan as tables on a terminal of 80 columns."""

from collections.abc import Iterator, Sequence
from dataclasses import astuple, fields

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from kikimimi.console.words import counted, work_time
from kikimimi.planning.advice import MEMORY, Way
from kikimimi.planning.memory import Memory
from kikimimi.planning.plan import NOT_COUNTED, Planner, StageForecast
from kikimimi.recipe import Recipe

GB = 1e9
_NAMES = {
    "weights": "weights",
    "copies": "half-precision copies",
    "gathered": "gathered by FSDP at a time",
    "gradients": "gradients",
    "optimiser": "optimiser",
    "reference": "reference of the objective",
    "activations": "activations",
    "logits": "logits and loss",
    "step": "or, in the optimiser's step",
}


def page(
    recipe: Recipe, planner: Planner, stages: Sequence[StageForecast], ways: dict[str, dict[int, list[Way]]]
) -> RenderableType:
    """Return everything to print."""
    trainer, work, hardware = recipe.trainer, planner.workload, planner.hardware
    ranks = trainer.devices * trainer.nodes
    head = Text.assemble(
        (recipe.name, "bold"),
        f": {counted(ranks, 'rank')} ({trainer.strategy}), {trainer.precision}\n",
        f"Taken for granted: clips of {work.clip_seconds:g} s, each with {work.prompt_tokens} tokens of "
        f"request and {work.answer_tokens} of answer; {planner.gpus(recipe)} x {hardware.gpu.upper()} at "
        f"{hardware.utilisation:.0%} of its peak rate. GB are 10^9 bytes.",
    )
    pages: list[RenderableType] = [head]
    for stage in stages:
        pages += [Text(), _stage(stage, planner.gpus(recipe), hardware.gpu)]
        pages += _fits(stage, ways.get(stage.name, {}))
        pages += [Text(f"Note: {note}", style="yellow") for note in stage.notes]
    return Group(*pages, Text(), Text(NOT_COUNTED, style="dim"))


def _stage(stage: StageForecast, gpus: int, gpu: str) -> RenderableType:
    both = Table.grid(padding=(0, 3))
    both.add_row(_memory(stage.memory), _work(stage, gpus, gpu))
    title = Text.assemble(
        (f"stage {stage.name}", "bold cyan"), "" if stage.objective == "ce" else f" ({stage.objective})"
    )
    return Group(title, _parameters(stage), both)


def _parameters(stage: StageForecast) -> Table:
    table = _table("part", "parameters", "trained", "TFLOP per audio hour")
    hours = stage.audio_seconds / 3600
    for part, count in stage.counts.items():
        figures = f"{count.total:,}", f"{count.trainable:,}", f"{stage.flops[part] / hours / 1e12:,.1f}"
        table.add_row(part, *figures)
    total, trained = (sum(numbers) for numbers in zip(*map(astuple, stage.counts.values()), strict=True))
    flops = f"{stage.flops_per_audio_hour / 1e12:,.1f}"
    table.add_row("all", f"{total:,}", f"{trained:,}", flops, style="bold")
    return table


def _table(label: str, *figures: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(label)
    for title in figures:
        table.add_column(title, justify="right")
    return table


def _memory(memory: Memory) -> Table:
    table = _table("memory of a rank", "GB")
    for item in fields(memory):
        value = getattr(memory, item.name)
        if value:
            table.add_row(_NAMES[item.name], gigabytes(value), style="dim" if item.name == "step" else "")
    table.add_row("at the peak", gigabytes(memory.total), style="bold")
    return table


def gigabytes(size: float) -> str:
    """Return a size in GB, with as many decimals as say something."""
    return f"{size / GB:,.1f}" if size >= GB else f"{size / GB:.3f}"


def _work(stage: StageForecast, gpus: int, gpu: str) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column(justify="right")
    table.add_row("largest micro-batch", counted(stage.clips, "clip"))
    table.add_row("", f"{stage.positions:,} positions")
    table.add_row("audio tokens per second", f"{stage.audio_tokens_per_second:g}")
    table.add_row("steps", f"{stage.steps:,}" if stage.steps is not None else "by the data")
    if (heard := stage.audio_hours) is not None:
        table.add_row("audio", f"{heard:,.0f} h" if heard >= 10 else f"{heard:.2g} h")
    if stage.days is not None:
        table.add_row(f"time on {gpus} x {gpu.upper()}", work_time(stage.days))
    return table


def _fits(stage: StageForecast, ways: dict[int, list[Way]]) -> Iterator[RenderableType]:
    fitting = [size for size in MEMORY if stage.memory.total <= size * GB]
    if fitting:
        yield Text(f"fits {', '.join(f'{size} GB' for size in fitting)}", style="green")
    for size in MEMORY:
        if size in fitting:
            continue
        found = ways.get(size, [])
        said = "it would with" if found else "and with none of the changes that were tried"
        yield Text(f"does not fit {size} GB; {said}", style="red")
        for way in found:
            changes = (f"'{c}'" if " " in c or "{" in c else c for c in way.changes)
            yield Padding(Text(f"{gigabytes(way.total)} GB: {' '.join(changes)}"), (0, 0, 0, 2))

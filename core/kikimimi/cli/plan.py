"""``kikimimi plan``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from kikimimi.console.terminal import say_json

if TYPE_CHECKING:
    from kikimimi.recipe import Recipe


def plan(
    recipe_file: Path = typer.Argument(..., metavar="RECIPE", help="A recipe (YAML)."),
    overrides: list[str] = typer.Argument(None, help="Changes to the recipe, as for train."),
    gpus: int | None = typer.Option(None, "--gpus", help="GPUs. Default: the recipe's devices x nodes."),
    gpu: str = typer.Option("h100", help="Kind of GPU: a100, b200, h100, h200, l4, l40s, rtx3090, rtx4090."),
    utilisation: float = typer.Option(0.35, help="Share of the GPU's peak rate that is reached."),
    clip_seconds: float = typer.Option(6.0, "--clip-seconds", help="Length of a clip, in seconds."),
    prompt_tokens: int = typer.Option(30, "--prompt-tokens", help="Tokens of a request, markup included."),
    answer_tokens: int = typer.Option(25, "--answer-tokens", help="Tokens of an answer."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Say what each stage will take, and what would make it fit: no weights, data, network or GPU needed."""
    from kikimimi.console.rich_console import SafeConsole
    from kikimimi.contracts.options import OptionsError
    from kikimimi.planning.advice import MEMORY, Adviser
    from kikimimi.planning.page import GB, page
    from kikimimi.planning.plan import Hardware, Planner
    from kikimimi.planning.workload import Workload
    from kikimimi.recipe import load_recipe

    try:
        work = Workload(clip_seconds=clip_seconds, prompt_tokens=prompt_tokens, answer_tokens=answer_tokens)
        planner = Planner(work, Hardware(gpus=gpus, gpu=gpu, utilisation=utilisation))
    except OptionsError as error:
        raise OptionsError([f"--{problem.replace('_', '-')}" for problem in error.problems]) from None

    def resolve(changes: Sequence[str]) -> Recipe:
        return load_recipe(recipe_file, [*(overrides or []), *changes])

    recipe = resolve(())
    stages = [planner.plan(recipe, name) for name in recipe.stages]
    ways = {}
    for stage in stages:
        adviser = Adviser(resolve, planner, stage.name)
        ways[stage.name] = {gb: adviser.ways(gb * GB) for gb in MEMORY if stage.memory.total > gb * GB}
    if as_json:
        listed = []
        for stage in stages:
            found = {str(size): [way.to_json() for way in some] for size, some in ways[stage.name].items()}
            listed.append(stage.to_json() | {"does_not_fit": found})
        asked = {"gpus": planner.gpus(recipe), "gpu": gpu, "utilisation": utilisation}
        say_json({"recipe": recipe.name, **asked, "stages": listed})
        return
    SafeConsole().print(page(recipe, planner, stages, ways))

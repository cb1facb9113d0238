"""``kikimimi import``."""

from pathlib import Path

import typer

from kikimimi.console.terminal import say


def import_(
    source: str = typer.Argument(..., help="A published speech LLM: a Hub id, or a folder."),
    overrides: list[str] = typer.Argument(None, help="Changes to the recipe, as for train."),
    out: Path = typer.Option(..., "--out", help="The run folder to make."),
) -> None:
    """Take in a published speech LLM, as a run to evaluate, talk to, train and change."""
    from kikimimi.published.importing import import_model

    run = import_model(source, out, overrides or [])
    say(str(run.path))
    say(
        f"its recipe: {run.path / 'recipe.yaml'}\n"
        f"next: kikimimi transcribe {run.path} AUDIO, or kikimimi train {run.path} with your data in "
        "stages.finetune.data",
        error=True,
    )

"""``kikimimi chat``."""

from pathlib import Path

import typer


def chat(
    run: Path = typer.Argument(..., help="A run folder."),
    settings: list[str] = typer.Argument(
        None, metavar="[NAME=VALUE]...", help="How answers are made: temperature=0.7 top_p=0.9"
    ),
    system: str = typer.Option("", "--system", help="A system prompt. Default: what the run's task says."),
    stage: str | None = typer.Option(None, "--stage", help="Weights of this stage. Default: the last one's."),
    language: str | None = typer.Option(
        None,
        "--language",
        help="Language of what audio without words is asked; default: the task's own.",
    ),
) -> None:
    """Talk to a run in the terminal: text, audio files, the microphone. From a pipe, a line is a message."""
    from kikimimi.errors import KikimimiError
    from kikimimi.run.folder import RunFolder
    from kikimimi.talking.chat import TerminalChat, changed
    from kikimimi.talking.modes import TALKING, fixed_request

    folder = RunFolder.open(run)
    folder.newest_weights(stage)
    generation = changed(TALKING, " ".join(settings or []))
    request = fixed_request(folder, language)
    from kikimimi.inference.live import LiveEngine
    from kikimimi.inference.load import open_engine

    engine, _ = open_engine(folder, stage=stage)
    with LiveEngine(engine) as live:
        talk = TerminalChat(
            live, system=system, request=request, generation=generation, name=folder.recipe.name
        )
        failed = talk.run()
    if failed and not talk.watched:
        raise KikimimiError(f"{failed} of the lines could not be answered")

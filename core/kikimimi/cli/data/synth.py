"""``kikimimi data synth``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def synth(
    grammar: Annotated[
        str, typer.Argument(help="A grammar (YAML), or the name of a shipped one: ja_small, ja_dialogue.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for train.csv, held_out.csv and clips/.")],
    count: Annotated[int, typer.Option(min=1, help="Training sentences.")] = 1000,
    held_out: Annotated[int, typer.Option(min=0, help="Held-out sentences; none is in training.")] = 100,
    instructions: Annotated[
        int,
        typer.Option(
            min=0,
            help="Spoken instructions for training (instructions.jsonl); as many are held out as sentences.",
        ),
    ] = 0,
    preferences: Annotated[
        int, typer.Option(min=0, help="Preference pairs beside them (preferences.jsonl).")
    ] = 0,
    texts: Annotated[
        int, typer.Option(min=0, help="Conversations without audio beside them (texts.jsonl).")
    ] = 0,
    voice: Annotated[
        str, typer.Option(help="A registered voice ('kikimimi plugins' lists them).")
    ] = "open_jtalk",
    seed: Annotated[int, typer.Option(help="Of the sentences, and of the speed and pitch of each.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes that speak.")] = 2,
) -> None:
    """Make sentences from a grammar and speak them. Run it again to go on after an interruption."""
    from kikimimi.errors import RequestError
    from kikimimi.synth.synth import DialogueSizes, synth as make

    if (preferences or texts) and not instructions:
        raise RequestError("--preferences and --texts stand beside instructions: give --instructions as well")
    report = make(
        grammar,
        out,
        count=count,
        held_out=held_out,
        dialogue=DialogueSizes(instructions=instructions, preferences=preferences, texts=texts)
        if instructions
        else None,
        voice=voice,
        seed=seed,
        workers=workers,
    )
    typer.echo(report.summary())

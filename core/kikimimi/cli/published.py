"""``kikimimi import`` and ``kikimimi export``."""

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


def export(
    source: Path = typer.Argument(
        ..., metavar="RUN", help="A trained run folder; with --list a recipe, too."
    ),
    to: str = typer.Option(
        "auto", "--to", help="The shape to take: a name that --list prints, or auto for the first that fits."
    ),
    out: Path | None = typer.Option(None, "--out", help="The folder to make."),
    stage: str | None = typer.Option(None, "--stage", help="Stage whose weights are taken. Default: last."),
    lora: str | None = typer.Option(
        None, "--lora", help="Low-rank updates of the LLM: merge them into its weights, or keep peft files."
    ),
    dtype: str | None = typer.Option(
        None, "--dtype", help="Number format of the weights: fp32, bf16, fp16. Default: that of the LLM."
    ),
    audio_token: str | None = typer.Option(
        None, "--audio-token", help="A token of the LLM that stands for clips. Default: the shape's own."
    ),
    push: str | None = typer.Option(
        None, "--push", metavar="ORG/NAME", help="Repository on the Hub to upload it to, once it is whole."
    ),
    private: bool = typer.Option(False, "--private", help="Make that repository a private one."),
    license_accepted: bool = typer.Option(
        False,
        "--license-accepted",
        help="State that you may publish what licences forbid to; the model card tells it.",
    ),
    list_: bool = typer.Option(False, "--list", help="Say which shapes fit, and why others do not."),
) -> None:
    """Write a trained model as one of a class that people serve, without kikimimi, and its model card."""
    from kikimimi.errors import RequestError
    from kikimimi.published.exporting import export_run, fitting
    from kikimimi.run.folder import RunFolder

    if list_:
        given = {"--to": to != "auto", "--out": out, "--stage": stage, "--dtype": dtype, "--push": push}
        given |= {"--private": private, "--license-accepted": license_accepted}
        if unread := [option for option, value in given.items() if value]:
            raise RequestError(f"{', '.join(unread)}: is not read with --list: leave it out")
        for name, problems in fitting(source, lora=lora, audio_token=audio_token).items():
            say(f"{name}: {'; '.join(problems) if problems else 'fits'}")
        return
    if out is None:
        raise RequestError("say with --out which folder to make, or ask with --list what fits")
    made = export_run(
        RunFolder.open(source),
        to,
        out,
        stage=stage,
        lora=lora,
        dtype=dtype,
        audio_token=audio_token,
        push=push,
        private=private,
        license_accepted=license_accepted,
    )
    say(str(made.folder))
    if made.url is not None:
        say(made.url)
    say("\n".join([f"as {made.format}", *made.notes]), error=True)

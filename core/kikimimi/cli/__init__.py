"""The command line. Each command is thin: it calls one public function.

Command modules import nothing heavy at their top, so that ``--help`` answers at once. Exit codes: 0 done,
1 the work failed, 2 the request was wrong.
"""

import sys
from typing import Any

import typer
from typer.core import TyperGroup

from kikimimi import __version__
from kikimimi.cli import data, evaluate, plan, plugins, show, train, transcribe
from kikimimi.console.terminal import say
from kikimimi.errors import KikimimiError, RequestError


class _Group(TyperGroup):
    """Says, when it is stopped, that nothing is lost."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            # Here, as typer turns it into a bare exit code before it reaches `main`.
            say("\nstopped. Run the same command again: it goes on from here.", error=True)
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Group,
    name="kikimimi",
    help="Gives a text LLM ears: speech-aware language models from plugins and recipes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"kikimimi {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", help="Print the version and exit.", callback=_print_version, is_eager=True
    ),
) -> None:
    pass


app.command(name="quickstart")(train.quickstart)
app.command(name="plan")(plan.plan)
app.command(name="train")(train.train)
app.command(name="evaluate")(evaluate.evaluate)
app.command(name="transcribe")(transcribe.transcribe)
app.command(name="show")(show.show)
app.add_typer(plugins.app, name="plugins")
app.command(name="score")(evaluate.score)
app.add_typer(data.app, name="data")


def main() -> None:
    """Run the command line; errors that a user can mend are shown without a traceback."""
    try:
        app()
    except RequestError as error:
        say(f"error: {error}", error=True)
        sys.exit(2)
    except KikimimiError as error:
        say(f"error: {error}", error=True)
        sys.exit(1)

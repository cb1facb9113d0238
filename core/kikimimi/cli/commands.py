"""The commands, together. Each is thin: it calls one public function.

Command modules import nothing heavy at their top, so that ``--help`` answers at once.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

from kikimimi import __version__
from kikimimi.cli import (
    chat,
    check,
    data,
    demo,
    diff,
    evaluate,
    plan,
    plugins,
    published,
    score,
    serve,
    show,
    sweep,
    train,
    transcribe,
)
from kikimimi.console.terminal import say, visible
from kikimimi.training.stop import told


@contextmanager
def _readable() -> Iterator[None]:
    """Let what typer says of the arguments, which holds them as they were given, steer no terminal."""
    try:
        yield
    except Exception as error:
        if hasattr(error, "format_message"):
            said = visible(error.format_message(), lines=True)  # pyright: ignore[reportAttributeAccessIssue]
            error.format_message = lambda: said  # pyright: ignore[reportAttributeAccessIssue]
        raise


class _Group(TyperGroup):
    """Says, when it is stopped, what of it is kept; and what was wrong in visible characters."""

    def make_context(self, *args: Any, **options: Any) -> Any:
        with _readable():
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        try:
            with _readable():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            # Here, as typer turns it into a bare exit code before it reaches `main`.
            say(f"\n{told()}", error=True)
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
app.command(name="sweep")(sweep.sweep)
app.command(name="evaluate")(evaluate.evaluate)
app.command(name="check")(check.verify)
app.command(name="transcribe")(transcribe.transcribe)
app.command(name="chat")(chat.chat)
app.command(name="demo")(demo.demo)
app.command(name="serve")(serve.serve)
app.command(name="show")(show.show)
app.add_typer(plugins.app, name="plugins")
app.command(name="import")(published.import_)
app.command(name="export")(published.export)
app.command(name="score")(score.score)
app.command(name="diff")(diff.diff)
app.add_typer(data.app, name="data")

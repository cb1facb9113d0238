"""``kikimimi plugins``: the list, with its checks, and ``new``."""

from __future__ import annotations

import json
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from kikimimi.contracts.registry import Plugin

_CHECKED_KINDS = ("encoder", "adapter", "llm", "objective", "task", "metric")
_LIST = "list"


class _ListUnlessNamed(TyperGroup):
    """Takes ``plugins whisper --check`` for ``plugins list whisper --check``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = [_LIST, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_ListUnlessNamed,
    help="List the registered plugins and check them, or start a package with a new one.\n\n"
    "'kikimimi plugins', with a name or without, is short for 'kikimimi plugins list'.",
    subcommand_metavar="[list|new] [ARGS]...",
    add_completion=False,
)


@app.command(name=_LIST)
def list_plugins(
    name: str = typer.Argument(None, metavar="[NAME]", help="Only the plugins of this name."),
    check: bool = typer.Option(
        False,
        "--check",
        help="Import each plugin, run the contract's checks on encoders, adapters, LLMs, objectives, "
        "tasks and metrics, and show the traceback of what fails.",
    ),
    as_json: bool = typer.Option(False, "--json", help="Print a JSON list."),
) -> None:
    """List the registered plugins, importing none; with --check, try them."""
    from kikimimi.console.words import listing, nearest
    from kikimimi.contracts.registry import plugins as registered
    from kikimimi.errors import PluginError

    found = list(registered())
    if name is not None:
        names = {plugin.name for plugin in found}
        if name not in names:
            raise PluginError(
                f"no plugin is called '{name}'.{nearest(name, names)} Plugins: {listing(names)}"
            )
        found = [plugin for plugin in found if plugin.name == name]
    claims = [(plugin.kind, plugin.name) for plugin in found]
    rows = [asdict(plugin) | {"duplicate": claims.count((plugin.kind, plugin.name)) > 1} for plugin in found]
    if not check:
        typer.echo(json.dumps(rows, indent=2)) if as_json else _print_table(rows)
        return
    for plugin, row in zip(found, rows, strict=True):
        row["failures"] = _failures(plugin)
        if not as_json:
            _print_outcome(plugin, row["failures"])
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    if any(row["failures"] for row in rows):
        raise typer.Exit(1)


def _failures(plugin: Plugin) -> list[dict[str, str]]:
    """Return what is wrong with a plugin: the name of each failed check and its error."""
    from kikimimi.contracts.registry import load
    from kikimimi.errors import PluginError

    try:
        component = load(plugin.kind, plugin.name)
    except PluginError as error:
        cause = error.__cause__  # what the plugin's own module raised; without one the message says it all
        shown = "".join(traceback.format_exception(cause)) if cause else str(error)
        return [{"check": "import", "error": shown.rstrip()}]
    if plugin.kind not in _CHECKED_KINDS:
        return []
    from kikimimi.testing import run_checks

    results = run_checks(plugin.kind, component)
    return [{"check": result.name, "error": result.error} for result in results if result.error is not None]


def _print_outcome(plugin: Plugin, failures: list[dict[str, str]]) -> None:
    typer.echo(f"{'FAILED' if failures else 'ok':<6}  {plugin}")
    for failure in failures:
        lines = failure["error"].removesuffix("\n").split("\n")
        typer.echo("\n".join([f"        {failure['check']}:", *(f"          {line}" for line in lines)]))


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for column in ("kind", "name", "distribution", "version", "class"):
        table.add_column(column, overflow="fold")
    last = None
    for row in rows:
        if last not in (None, row["kind"]):
            table.add_section()
        kind = "" if row["kind"] == last else row["kind"]
        named = f"{row['name']} (duplicate)" if row["duplicate"] else row["name"]
        cells = [escape(cell) for cell in (kind, named, row["distribution"], row["version"], row["value"])]
        table.add_row(*cells, style="red" if row["duplicate"] else "")
        last = row["kind"]
    console = Console()
    # A pipe has no width to fit into: nothing is wrapped there.
    (console if console.is_terminal else Console(width=1000)).print(table)


@app.command(name="new")
def new_plugin(
    name: str = typer.Argument(metavar="NAME", help="The plugin's name, as recipes will spell it."),
    kind: str = typer.Option(..., "--kind", help="What it is: adapter, encoder or llm."),
    out: Path = typer.Option(None, "--out", help="Folder to write. Default: one called NAME, here."),
) -> None:
    """Write a package with a new plugin: a small component that works, and its test."""
    from shlex import quote

    from kikimimi.scaffold import Scaffold

    package, folder = Scaffold(name, kind), out or Path(name)
    for path in package.write(folder):
        typer.echo(path)
    typer.echo(
        f"\n{kind} '{name}' is the package {package.distribution}. To install and test it:\n"
        f"  cd {quote(str(folder))}\n  pip install -e '.[test]'\n  pytest\n"
        f"  kikimimi plugins {name} --check"
    )

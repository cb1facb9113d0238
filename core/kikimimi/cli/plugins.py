"""``kikimimi plugins``: the list, with its checks, and ``new``."""

from __future__ import annotations

import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from kikimimi.console.terminal import say, say_json

if TYPE_CHECKING:
    from kikimimi.contracts.registry import Plugin

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
    name: str = typer.Argument(None, metavar="[NAME]", help="Only those of this name, or DISTRIBUTION:NAME."),
    check: bool = typer.Option(
        False,
        "--check",
        help="Import each plugin, and run the checks of its kind's contract.",
    ),
    verbose: bool = typer.Option(False, "--verbose", help="Traceback of what fails as well, with --check."),
    as_json: bool = typer.Option(False, "--json", help="Print a JSON list."),
) -> None:
    """List the registered plugins, importing none; show one with its options; with --check, try them."""
    from kikimimi.contracts.registry import find_all, misplaced, plugins as registered

    strange: list[str] = misplaced() if name is None else []
    for line in strange:
        say(line, error=True)
    found = list(registered()) if name is None else find_all(name)
    claims = [(plugin.kind, plugin.name) for plugin in found]
    rows = [asdict(plugin) | {"duplicate": claims.count((plugin.kind, plugin.name)) > 1} for plugin in found]
    if not check:
        if name is not None:
            _add_words(found, rows)
        if as_json:
            say_json(rows, indent=2)
        elif name is None or any(row["duplicate"] for row in rows):
            _print_table(rows)
        else:
            for row in rows:
                _print_words(row)
        return
    for plugin, row in zip(found, rows, strict=True):
        outcome = _check(plugin)
        row |= outcome.as_row()
        if not as_json:
            _print_outcome(plugin, outcome, verbose=verbose)
    if as_json:
        say_json(rows, indent=2)
    if strange or any(row["failures"] for row in rows):
        raise typer.Exit(1)


def _add_words(found: list[Plugin], rows: list[dict[str, Any]]) -> None:
    """Import what is named, unless two claim the name, and add what it is and its options."""
    from kikimimi.errors import PluginError
    from kikimimi.inspect.plugin import plugin_in_words

    for plugin, row in zip(found, rows, strict=True):
        if not row["duplicate"]:
            try:
                row |= asdict(plugin_in_words(plugin))
            except PluginError as error:
                row["error"] = str(error)


def _print_words(row: dict[str, Any]) -> None:
    from rich import box
    from rich.table import Table

    from kikimimi.console.rich_console import SafeConsole

    say(f"{row['kind']} '{row['name']}'")
    say(f"  from      {row['distribution']} {row['version']}\n  class     {row['value']}")
    if "error" in row:
        say(f"  broken    {row['error']}\n")
        return
    say(f"  contract  {row['contract']}\n            version {row['contract_version']} of it")
    say(f"\n{row['about']}")
    if not row["options"]:
        say("\nIt has no options.\n")
        return
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("option", "value", "default", ""):
        table.add_column(column, overflow="fold")
    for option in row["options"]:
        table.add_row(*(text.replace("`", "") for text in option.values()))
    console = SafeConsole()
    (console if console.is_terminal else SafeConsole(width=1000)).print(table)


@dataclass(frozen=True)
class _Outcome:
    """What the checks of a plugin found."""

    number: int
    """Checks that had something to try."""
    failures: list[tuple[str, str, str]]
    """Name of each check that failed, its error, and the traceback of what the plugin raised, if it did."""
    not_tried: list[tuple[str, str]]
    """Name of each check that had nothing to try, and why."""

    @property
    def verdict(self) -> str:
        """What is said of all checks: `ok`, `partly` where some had nothing to try, or `FAILED`."""
        return "FAILED" if self.failures else "partly" if self.not_tried else "ok"

    def as_row(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "verdict": self.verdict.lower(),
            "checks": self.number,
            "failures": [{"check": check, "error": error} for check, error, _ in self.failures],
            "not_tried": [{"check": check, "reason": reason} for check, reason in self.not_tried],
        }


def _check(plugin: Plugin) -> _Outcome:
    """Import a plugin, whoever else claims its name, and run the checks of its kind."""
    from kikimimi.contracts.registry import load
    from kikimimi.errors import PluginError

    try:
        component = load(plugin.kind, f"{plugin.distribution}:{plugin.name}")
    except PluginError as error:
        cause = error.__cause__  # what the plugin's own module raised; without one the message says it all
        raised = "".join(traceback.format_exception(cause)) if cause else ""
        return _Outcome(1, [("import", str(error), raised)], [])
    from kikimimi.testing import run_checks

    results = run_checks(plugin.kind, component)
    tried = [result for result in results if result.not_tried is None]
    failures = [(one.name, one.error, one.traceback) for one in tried if one.error is not None]
    not_tried = [(one.name, one.not_tried) for one in results if one.not_tried is not None]
    return _Outcome(len(tried), failures, not_tried)


def _print_outcome(plugin: Plugin, outcome: _Outcome, *, verbose: bool) -> None:
    from kikimimi.console.words import counted

    failed = f"{len(outcome.failures)} of " if outcome.failures else ""
    say(f"{outcome.verdict:<6}  {plugin}: {failed}{counted(outcome.number, 'check')}")
    for check, error, raised in outcome.failures:
        shown = raised if verbose and raised else error
        lines = shown.removesuffix("\n").split("\n")
        say("\n".join([f"        {check}:", *(f"          {line}" for line in lines)]))
    reasons: dict[str, list[str]] = {}
    for check, reason in outcome.not_tried:
        reasons.setdefault(reason, []).append(check)
    for reason, checks in reasons.items():
        say(f"        not tried: {', '.join(checks)}: {reason}")


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich import box
    from rich.table import Table

    from kikimimi.console.rich_console import SafeConsole

    table = Table(box=box.SIMPLE_HEAD)
    for column in ("kind", "name", "distribution", "version", "class"):
        table.add_column(column, overflow="fold")
    last = None
    for row in rows:
        if last not in (None, row["kind"]):
            table.add_section()
        kind = "" if row["kind"] == last else row["kind"]
        named = f"{row['name']} (duplicate)" if row["duplicate"] else row["name"]
        cells = kind, named, row["distribution"], row["version"], row["value"]
        table.add_row(*cells, style="red" if row["duplicate"] else "")
        last = row["kind"]
    console = SafeConsole()
    # A pipe has no width to fit into: nothing is wrapped there.
    (console if console.is_terminal else SafeConsole(width=1000)).print(table)


@app.command(name="new")
def new_plugin(
    name: str = typer.Argument(metavar="NAME", help="The plugin's name, as recipes will spell it."),
    kind: str = typer.Option(
        ...,
        "--kind",
        help="What it is: encoder, adapter, llm, objective, task, layout, voice, normaliser, metric, "
        "recogniser or judge.",
    ),
    out: Path = typer.Option(None, "--out", help="Folder to write. Default: one called NAME, here."),
) -> None:
    """Write a package with a new plugin: a small component that works, and its test."""
    from shlex import quote

    from kikimimi.scaffold import Scaffold

    package, folder = Scaffold(name, kind), out or Path(name)
    for path in package.write(folder):
        say(path)
    say(
        f"\n{kind} '{name}' is the package {package.distribution}. To install and test it:\n"
        f"  cd {quote(str(folder))}\n  pip install -e '.[test]'\n  pytest\n"
        f"  kikimimi plugins {name} --check"
    )

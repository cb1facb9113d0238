"""``kikimimi data``."""

from __future__ import annotations

import typer

app = typer.Typer(help="Make, pack and index training data.", no_args_is_help=True)

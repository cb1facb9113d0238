"""``kikimimi data``."""

from __future__ import annotations

import typer

from kikimimi.cli.data import check, index, pack, show, stats, synth

app = typer.Typer(help="Make, pack and index training data.", no_args_is_help=True)
app.command(name="synth")(synth.synth)
app.command(name="pack")(pack.pack)
app.command(name="index")(index.index)
app.command(name="check")(check.check)
app.command(name="stats")(stats.stats)
app.command(name="show")(show.show)

"""What the model is shown, on the terminal.

In colour: what the LLM learns to write is bold and underlined, user and system have colours of their own, and
what the chat template adds is dim. Without colour, what is learnt stands between ``[[`` and ``]]``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import groupby

from rich.console import Console
from rich.text import Text

from kikimimi.console.terminal import visible
from kikimimi.console.words import counted
from kikimimi.inspect.show import Shown, ShownStage
from kikimimi.inspect.show_tokens import Piece, Token

LEFT_OUT = 5  # records that are named one by one
_OPEN, _CLOSE = "[[", "]]"
_LEFT, _RIGHT = "\u25d6", "\u25d7"  # half circles around a clip
_RETURN = "\u21b5"  # before each line feed, which otherwise could not be told from a wrapped line
_ROLES = {"system": "magenta", "user": "cyan", "assistant": "green", None: "bright_black"}


def print_stage(console: Console, stage: ShownStage, *, tokens: bool = False) -> None:
    """Print a stage with its records.

    Args:
        console: Where to.
        stage: What to print.
        tokens: Also list the tokens of each record, one on a line.
    """

    def say(text: str | Text, style: str = "") -> None:
        console.print(text if isinstance(text, Text) else Text(text, style), soft_wrap=True)

    options = stage.stage
    say(f"stage {stage.name}", "bold")
    say(", ".join(f"{name}: {counted(count, 'record')}" for name, count in stage.records.items()))
    say(
        f"an epoch has about {math.ceil(stage.micro_batches):,} micro-batches of up to "
        f"{options.batch.budget:g} {options.batch.unit}; "
        f"{options.num_steps:,} steps take {options.num_steps * options.batch.global_:,}"
    )
    if stage.left_out:
        say(f"left out: {counted(len(stage.left_out), 'record')}", "yellow")
        for fault in stage.left_out[:LEFT_OUT]:
            say(f"  {fault.dataset}: {visible(fault.where)}: {visible(fault.reason)}")
        if len(stage.left_out) > LEFT_OUT:
            say(f"  and {len(stage.left_out) - LEFT_OUT:,} more")
    marks = not console.is_terminal or console.no_color
    number = 0
    for number, shown in enumerate(stage.shown, start=1):
        say("")
        say(Text.assemble((f"{number}. {shown.dataset}", "bold"), f"  {visible(shown.where)}"))
        for line in _figures(shown, stage):
            say(f"   {line}", "bright_black")
        if shown.problem is not None:
            say(f"   cannot be used: {visible(shown.problem)}", "red")
            continue
        say(rendered(shown.pieces, marks=marks))
        if shown.rejected is not None:
            say(Text.assemble(("   rejected: ", "red"), visible(shown.rejected)))
        if tokens:
            for token_line in token_lines(shown.tokens, marks=marks):
                say(token_line)
    if number == 0:
        say("no record: the stage is over before one comes")
    say("")


def _figures(shown: Shown, stage: ShownStage) -> Iterable[str]:
    batch = stage.stage.batch
    yield (
        f"step {shown.step}, micro-batch {shown.micro_batch} of {batch.global_}, "
        f"record {shown.place} of {shown.company}, pass {shown.number_of_pass} through the dataset"
    )
    if shown.problem is not None:
        return
    audio = f"{shown.seconds:.2f} s of audio" if shown.audio_tokens else "no audio"
    share = f"{100 * shown.cost / batch.budget:.1f} % of the micro-batch's {batch.budget:g} {batch.unit}"
    if stage.context is not None:
        share = f"{100 * shown.positions / stage.context:.1f} % of the context of {stage.context:,}, {share}"
    yield (
        f"{audio}; {shown.text_tokens:,} text tokens + {shown.audio_tokens:,} audio "
        f"tokens = {shown.positions:,} positions ({share}); {shown.targets:,} targets"
    )


def rendered(pieces: Iterable[Piece], *, marks: bool) -> Text:
    """Return the pieces as one text.

    Args:
        pieces: In order.
        marks: Mark what is learnt by brackets, for where there is no colour.
    """
    text = Text("   ")
    for target, group in groupby(pieces, key=lambda piece: piece.target):
        if marks and target:
            text.append(_OPEN)
        for piece in group:
            text.append(_seen(piece).replace("\n", f"{_RETURN}\n   "), _style(piece))
        if marks and target:
            text.append(_CLOSE)
    return text


def token_lines(tokens: Iterable[Token], *, marks: bool) -> Iterable[Text]:
    """Yield one line for each token: its position, its id, whether it is learnt, and how it is written."""
    for place, token in enumerate(tokens):
        number = "-" if token.id is None else str(token.id)
        shown = repr(token.text) if token.kind == "text" else _seen(token)
        style = _style(token)
        target = "target" if token.target else ""
        line = Text.assemble(f"   {place:>5} {number:>7}  {target:<6}  ", (shown, "" if marks else style))
        yield line


def _seen(piece: Piece | Token) -> str:
    text = visible(piece.text, lines=True)
    return f"{_LEFT}{text}{_RIGHT}" if piece.kind == "audio" else text


def _style(piece: Piece | Token) -> str:
    role = piece.role if isinstance(piece, Piece) else None
    colour = "yellow" if piece.kind == "audio" else "green" if piece.target else _ROLES[role]
    return f"bold underline {colour}" if piece.target else colour

"""What is printed: texts of data, models, servers and strangers are all seen, and none steers a terminal.

Everything that the core prints goes through `say`, `say_json` or `SafeConsole`, JSON that people look into
through `json_text`, and pages through `visible`.
"""

import json
import os
import re
import sys
import unicodedata
from collections.abc import Callable
from typing import Any

CSV_SAFE = "KIKIMIMI_CSV_SAFE"
"""Environment variable that asks for tables in which no text is a formula, where it is ``1``."""

_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Categories of Unicode that show nothing, or move what follows: control, format, surrogates, unassigned."""
_JOINERS = "\u200c\u200d"  # Persian and Hindi are spelled with them, and so are emoji
_FORMULA = re.compile(r"[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")  # also in full width (OWASP, CSV injection)


def visible(text: str, *, lines: bool = False) -> str:
    """Return a text in which characters that show nothing, or steer a terminal, are written as escapes."""
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable()
        or (lines and character == "\n")
        or character in _JOINERS
        or unicodedata.category(character) not in _UNSEEN
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def shortened(text: str, limit: int) -> str:
    """Return the first `limit` characters of a text, and how many more there are."""
    return text if len(text) <= limit else f"{text[:limit]} ... ({len(text) - limit:,} more characters)"


def say(*columns: object, error: bool = False, end: str = "\n") -> None:
    """Print texts as `visible` shows them, with a tab between; line feeds stay.

    Args:
        columns: What to print.
        error: Whether it goes to the standard error instead of the standard output.
        end: What ends the line; empty where the text goes on.
    """
    line = "\t".join(visible(str(column), lines=True) for column in columns)
    print(line, end=end, file=sys.stderr if error else sys.stdout, flush=True)


def say_json(value: Any, *, indent: int | None = None) -> None:
    """Print JSON as `json_text` writes it."""
    say(json_text(value, indent=indent))


def json_text(
    value: Any, *, indent: int | None = None, default: Callable[[Any], object] | None = None
) -> str:
    """Return JSON for people and programs: what `visible` would escape is escaped as JSON does.

    Args:
        value: What is to be written.
        indent: Spaces of each level; None writes one line.
        default: Function that makes something that JSON holds of what it cannot hold.
    """
    text = json.dumps(value, ensure_ascii=False, indent=indent, default=default)
    if text.replace("\n", "").isprintable():
        return text
    return "".join(c if c == "\n" or visible(c) == c else json.dumps(c)[1:-1] for c in text)


def csv_cell(value: Any) -> Any:
    """Return a value as a cell for spreadsheets, where `CSV_SAFE` asks for it: no text begins a formula."""
    wanted = os.environ.get(CSV_SAFE) == "1" and isinstance(value, str) and _FORMULA.match(value)
    return f"'{value}" if wanted else value

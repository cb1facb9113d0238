"""HTML pages that are one file: filled in from a template of this package, and written."""

from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from kikimimi import __version__
from kikimimi.console.terminal import visible
from kikimimi.files.writing import whole_file


def fill_page(template: str, created: datetime, **values: Any) -> str:
    """Return the page that a template becomes."""
    environment = Environment(
        loader=PackageLoader("kikimimi.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = created.strftime("%Y-%m-%d %H:%M %Z").rstrip()
    page = environment.get_template(template).render(created=shown, version=__version__, **values)
    return visible(page, lines=True)


def save_page(path: Path, html: str) -> None:
    """Write a page whole, making its folder where needed."""
    # A text may hold half a surrogate pair, which UTF-8 cannot express: shown as \udXXX.
    with whole_file(path) as unfinished:
        unfinished.write_text(html, encoding="utf-8", errors="backslashreplace", newline="\n")

"""Tables and colours: rich's console, to which texts are texts."""

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.segment import Segment
from rich.text import Text

from kikimimi.console.terminal import visible


class SafeConsole(Console):
    """A console that takes nothing for markup, and writes nothing that steers a terminal but its own styles.

    Args:
        error: Whether it prints to the standard error.
        width: Width [columns], or None for the terminal's.
    """

    def __init__(self, *, error: bool = False, width: int | None = None) -> None:
        super().__init__(stderr=error, width=width, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **kwargs: Any) -> Text:
        """Return a text as it is printed, so that it is measured as such, too."""
        return super().render_str(visible(text, lines=True), **kwargs)

    def render(self, *args: Any, **kwargs: Any) -> Iterator[Segment]:
        """Yield what is printed."""
        for segment in super().render(*args, **kwargs):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(visible(segment.text, lines=True), segment.style)

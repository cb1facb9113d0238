"""Chat templates that come with the package, for models that have none of their own."""

from pathlib import Path

from kikimimi.console.words import listing, nearest

CHAT_TEMPLATES = {path.stem: path for path in sorted(Path(__file__).parent.glob("*.jinja"))}
"""Shipped chat templates: their names, and where they are."""


def find_chat_template(given: str) -> str:
    """Return the Jinja source of a shipped template, or the source itself.

    Args:
        given: A name such as ``plain``, or Jinja, recognised by its braces.

    Raises:
        ValueError: It is neither.
    """
    if "{{" in given or "{%" in given:
        return given
    if given not in CHAT_TEMPLATES:
        raise ValueError(
            f"chat_template: {given!r} is neither Jinja ('{{{{ ... }}}}') nor the name of a shipped template."
            f"{nearest(given, CHAT_TEMPLATES)} Templates: {listing(CHAT_TEMPLATES)}"
        )
    return CHAT_TEMPLATES[given].read_text(encoding="utf-8")

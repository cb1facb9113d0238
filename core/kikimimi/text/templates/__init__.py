"""Chat templates that come with the package, for models that have none of their own."""

from pathlib import Path

from kikimimi.console.words import listing, nearest

TEMPLATES = Path(__file__).parent


def find_template(given: str) -> str:
    """Return the Jinja source of a shipped template, or the source itself.

    Args:
        given: A name such as ``plain``, or Jinja, recognised by its braces.

    Raises:
        ValueError: It is neither.
    """
    if "{{" in given or "{%" in given:
        return given
    shipped = {path.stem: path for path in TEMPLATES.glob("*.jinja")}
    if given not in shipped:
        raise ValueError(
            f"chat_template: {given!r} is neither Jinja ('{{{{ ... }}}}') nor the name of a shipped template."
            f"{nearest(given, shipped)} Templates: {listing(shipped)}"
        )
    return shipped[given].read_text(encoding="utf-8")

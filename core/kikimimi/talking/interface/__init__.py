"""The words of the demo's page, in each of its languages: ``LANGUAGE.yaml``."""

from functools import cache
from pathlib import Path
from typing import Any

from kikimimi.files.yaml_text import read_yaml

LANGUAGES = ("en", "ja")


@cache
def words_of(language: str) -> dict[str, Any]:
    """Return what the page says in one of `LANGUAGES`."""
    words: dict[str, Any] = read_yaml(Path(__file__).with_name(f"{language}.yaml"))
    return words


def preferred(accepted: str) -> str:
    """Return the language of a browser's ``Accept-Language``; English where it asks for no other."""
    weighed: list[tuple[float, int, str]] = []
    for place, part in enumerate(accepted.split(",")):
        language, _, weight = part.strip().partition(";q=")
        try:
            weighed.append((-float(weight or 1), place, language[:2].lower()))
        except ValueError:
            continue
    return next((language for _, _, language in sorted(weighed) if language in LANGUAGES), LANGUAGES[0])

"""Labels: what a labelled clip without a transcript may be learnt by."""

from typing import Any

LEARNT = (
    "answer",
    "caption",
    "captions",
    "emotion",
    "events",
    "keywords",
    "response",
    "scene",
    "translation",
    "vocal_sound",
)
"""Names of what the shipped tasks answer with in place of a transcript."""


def clip_record(text: Any, language: Any, meta: dict[str, Any]) -> dict[str, Any]:
    """Return the record of a labelled clip.

    Args:
        text: The transcript; null is left out where ``meta`` holds one of `LEARNT`, and is empty otherwise.
        language: ISO 639-1 code, or None.
        meta: All else that is known.
    """
    if text is None and any(meta.get(name) for name in LEARNT):
        return {"language": language, "meta": meta}
    return {"text": "" if text is None else text, "language": language, "meta": meta}

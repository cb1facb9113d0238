"""Metadata as JSON holds it: what a corpus knows of a row never costs the row."""

import math
from datetime import date, time
from typing import Any

import numpy as np


def json_value(value: Any) -> Any:
    """Return a value as JSON holds it.

    Numbers that are none (NaN, infinite) become null; dates and times the texts of ISO 8601; bytes the text
    that they hold, or hexadecimal digits; what else JSON lacks (Decimal, durations, identifiers) its text.

    Raises:
        RecursionError: It is nested too deeply.
    """
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(json_value(key)): json_value(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [json_value(inner) for inner in value]
    if isinstance(value, np.generic | np.ndarray):
        return json_value(value.tolist())
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, bytes | bytearray | memoryview):
        return _text(bytes(value))
    return json_value(str(value))


def _text(content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.hex()

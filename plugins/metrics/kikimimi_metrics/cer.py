"""The character error rate."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from kikimimi import ErrorRate


class CER(ErrorRate):
    """Character error rate: edits of characters (Unicode code points) over the references' length."""

    labels: ClassVar[Mapping[str, str]] = {"reference_length": "characters"}

    def units(self, text: str) -> Sequence[str]:
        """Return the characters."""
        return text

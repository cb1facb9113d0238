"""Error rates of characters and of words."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from kikimimi import ErrorRate, Normaliser


class CER(ErrorRate):
    """Character error rate: edits of characters (Unicode code points) over the references' length."""

    labels: ClassVar[Mapping[str, str]] = {"reference_length": "characters"}

    def units(self, text: str) -> Sequence[str]:
        """Return the characters."""
        return text


class WER(ErrorRate):
    """Word error rate: edits of words (between white space) over the references' length."""

    labels: ClassVar[Mapping[str, str]] = {"reference_length": "words"}

    def units(self, text: str) -> Sequence[str]:
        """Return the words."""
        return text.split()

    def check(self, normalise: Normaliser) -> None:
        """Check that a normaliser leaves words apart.

        Raises:
            ValueError: It does not.
        """
        if len(normalise("a b").split()) < 2:
            raise ValueError(
                "compares words, but the normaliser removes the white space between them. Use metric 'cer' "
                "or another normaliser"
            )

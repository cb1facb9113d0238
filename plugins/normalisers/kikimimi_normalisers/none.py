"""The normaliser that changes nothing."""

from kikimimi import Normaliser


class Unchanged(Normaliser):
    """Returns the text as it is: case, punctuation and white space count (the "raw" rate of ASR papers)."""

    def __call__(self, text: str) -> str:
        """Return `text`."""
        return text

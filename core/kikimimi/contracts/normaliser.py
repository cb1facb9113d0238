"""The contract of a text normaliser: what is made of reference and prediction before they are compared."""

from abc import ABC, abstractmethod


class Normaliser(ABC):
    """Normalises a text. Built without arguments; the docstring states the definition and its source.

    A score without the name of its normaliser is meaningless, so every score carries it.
    """

    @abstractmethod
    def __call__(self, text: str) -> str:
        """Return the normalised text, which stays as it is when it is normalised again."""

"""The problems found in a recipe, gathered so that all of them are shown at once."""

from __future__ import annotations

from kikimimi.errors import RecipeError


class Problems:
    """Gathers problems, each once, in the order in which they are found."""

    def __init__(self) -> None:
        self._lines: dict[str, None] = {}

    def add(self, key: str, message: str, where: str) -> None:
        """Add one.

        Args:
            key: Dotted key; empty for the file as a whole.
            message: What is wrong, what is allowed, and the nearest guess.
            where: ``file.yaml:12`` or ``command line: key=value``.
        """
        self._lines[f"{key or 'recipe'}: {message} ({where})"] = None

    def raise_any(self) -> None:
        """Raise if there are any.

        Raises:
            RecipeError: Holding all of them.
        """
        if self._lines:
            raise RecipeError(self._lines)

"""Columns that are laid end to end, shard after shard, in memory that grows in place."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class Column:
    """A column of unknown length.

    What it is made of may be freed piece by piece: at the end there is one copy, without gaps of pieces that
    were kept until all were there.

    Args:
        dtype: Of its values.
        width: Values per row; None for a column of single values.
    """

    def __init__(self, dtype: type[np.generic], width: int | None = None) -> None:
        self._rest = () if width is None else (width,)
        self._values: NDArray[Any] = np.empty((0, *self._rest), dtype=dtype)
        self._filled = 0

    def append(self, piece: NDArray[Any]) -> None:
        """Add values at the end."""
        needed = self._filled + len(piece)
        if needed > len(self._values):
            # realloc() moves pages rather than copying them; no view is alive.
            self._values.resize((max(needed, len(self._values) * 5 // 4), *self._rest), refcheck=False)
        self._values[self._filled : needed] = piece
        self._filled = needed

    def finish(self) -> NDArray[Any]:
        """Return the values; nothing can be added any more."""
        self._values.resize((self._filled, *self._rest), refcheck=False)
        return self._values


class NameColumn:
    """A column of codes for names, of which each piece has codes of its own; -1 is no name."""

    def __init__(self) -> None:
        self._codes = Column(np.int16)
        self._code_of: dict[str, int] = {}

    def append(self, codes: NDArray[np.int16], names: tuple[str, ...]) -> None:
        """Add codes at the end.

        Raises:
            ValueError: There are more names than codes.
        """
        for name in names:
            self._code_of.setdefault(name, len(self._code_of))
        if len(self._code_of) > np.iinfo(np.int16).max:
            raise ValueError(f"more than {np.iinfo(np.int16).max} different names")
        # The last entry is what -1 points to.
        own = np.array([*(self._code_of[name] for name in names), -1], dtype=np.int16)
        self._codes.append(own[codes])

    def finish(self) -> tuple[tuple[str, ...], NDArray[np.int16]]:
        """Return the names, sorted, and the codes."""
        names = tuple(sorted(self._code_of))
        position = {name: number for number, name in enumerate(names)}
        order = np.array([*(position[name] for name in self._code_of), -1], dtype=np.int16)
        return names, order[self._codes.finish()]

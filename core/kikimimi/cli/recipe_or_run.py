"""What a command looks at: a recipe, or the one that a run keeps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kikimimi.recipe import Recipe


def open_recipe(source: Path, overrides: Sequence[str], command: str) -> tuple[Recipe, Path | None]:
    """Return the recipe of a file or of a run folder, and the assets of the run, where it has any.

    Args:
        source: Where it is.
        overrides: Changes to the recipe of a file.
        command: What is called, for messages.

    Raises:
        RequestError: It is not there, is wrong, or is a run and there are overrides.
    """
    from kikimimi.errors import RequestError
    from kikimimi.recipe import load_recipe
    from kikimimi.run.folder import RunFolder

    if not source.is_dir():
        return load_recipe(source, overrides), None
    if overrides:
        raise RequestError(
            f"{source} is a run folder, and a run keeps its recipe. To look at a change: "
            f"{command} {source / 'recipe.yaml'} {' '.join(overrides)}"
        )
    run = RunFolder.open(source)
    return run.recipe, run.assets if run.assets.is_dir() else None

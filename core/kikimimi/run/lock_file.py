"""``lock.json`` of a run as it is read again: its form, and whether it is as it was written."""

from pathlib import Path
from typing import Any, NotRequired, cast

from typing_extensions import TypedDict

from kikimimi.files.reading import MEBIBYTE, damaged, file_there, read_json
from kikimimi.files.yaml_text import parse_yaml
from kikimimi.recipe.show import digest

LOCK = "lock.json"
_REMEDY = "Restore it from a copy of the run folder, or delete it: the next session writes a new one"
_MORE: Any = {"extra": "allow"}
_EARLIER_NUMBERS = ".weights.source."  # factors of a sum's terms were told there


class LockedRecipe(TypedDict):
    """The recipe as YAML, and the SHA-256 of that."""

    sha256: NotRequired[str]
    yaml: str


class LockedPlugin(TypedDict):
    """A plugin, and beside these its weights and the plugins in its options: texts, nulls and sections."""

    __pydantic_config__ = _MORE  # type: ignore[misc]

    name: str
    distribution: str
    version: str


class LockedSession(TypedDict):
    """One training of the run: when, where, by which command, and what had changed."""

    __pydantic_config__ = _MORE  # type: ignore[misc]

    began: str
    host: NotRequired[str]
    command: NotRequired[list[str]]
    changes: NotRequired[list[dict[str, Any]]]
    kept: NotRequired[dict[str, Any]]


class Lengthening(TypedDict):
    """How a finished stage was lengthened: which option, `steps` or `epochs`, from what, and to what."""

    stage: str
    option: str
    old: int
    new: int


class Lock(TypedDict):
    """What is read of a lock again; what else it holds is kept."""

    __pydantic_config__ = _MORE  # type: ignore[misc]

    recipe: LockedRecipe
    python: NotRequired[str]
    libraries: NotRequired[dict[str, str]]
    plugins: NotRequired[dict[str, LockedPlugin]]
    source: NotRequired[dict[str, str]]
    data: NotRequired[dict[str, str | None]]
    sessions: NotRequired[list[LockedSession]]
    lengthened: NotRequired[list[Lengthening]]


def read_lock_file(path: Path) -> dict[str, Any] | None:
    """Read a lock; None where there is none.

    Raises:
        DamagedError: It is damaged.
    """
    if not file_there(path, _REMEDY):
        return None
    held = cast(dict[str, Any], read_json(path, Lock, limit=64 * MEBIBYTE, remedy=_REMEDY))
    recipe = held["recipe"]
    if recipe.get("sha256", digest(recipe["yaml"])) != digest(recipe["yaml"]):
        raise damaged(path, "recipe: it is not as it was written: its SHA-256 differs", _REMEDY)
    try:
        parse_yaml(recipe["yaml"])["stages"].items()
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise damaged(path, "recipe: it is not the recipe of a run", _REMEDY) from error
    if strange := _strange(held.get("plugins"), "plugins"):
        raise damaged(path, f"{strange}: Input should be a text, null or a section", _REMEDY)
    return held


def _strange(value: Any, where: str) -> str:
    """Return the place of the first item of plugins that is none; empty where all are."""
    if isinstance(value, dict):
        return next(filter(None, (_strange(inner, f"{where}.{key}") for key, inner in value.items())), "")
    number = type(value) in (int, float) and _EARLIER_NUMBERS in where
    return "" if value is None or isinstance(value, str) or number else where

"""What is packed: a corpus and the layout that reads it; WebDataset tars only get their indexes."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from kikimimi.console.words import listing, nearest
from kikimimi.contracts import registry
from kikimimi.contracts.layout import Layout, as_on_disk
from kikimimi.data.shards.pattern import expand
from kikimimi.errors import DataError, KikimimiError, PluginError, RequestError
from kikimimi.files.reading import paths_in

_KIND = "layout"
_HUB_NAME = re.compile(r"[\w.-]*\w/[\w.-]+")  # ORGANISATION/NAME


@dataclass(frozen=True)
class PackSource:
    """A corpus, opened.

    Attributes:
        path: Where it is, as the layout takes it.
        name: Registered name of the layout.
        config: The layout's options.
        layout: Reads the rows.
    """

    path: str
    name: str
    config: Any
    layout: Layout

    @classmethod
    def open(cls, path: str | Path, layout: str | None = None, options: Sequence[str] = ()) -> Self:
        """Find the layout of a corpus, and open it.

        Raises:
            RequestError: There is no such corpus, no or more than one layout matches, or an option is wrong.
            DataError: It is malformed, or has no rows.
        """
        local = as_on_disk(Path(path).expanduser())
        path = local if os.path.lexists(local) else path  # the name of a set on the Hub is none of a file
        name = _find(local) if layout is None else layout
        if layout is not None:
            registry.load(_KIND, layout)  # an unknown name is said before what is wrong with its options
        source = cls.build(str(path), name, _config(name, options))
        if not len(source.layout):
            raise DataError(f"{path}: holds no rows (read as layout '{name}')")
        return source

    @classmethod
    def build(cls, path: str, name: str, config: Any) -> Self:
        """Open a corpus whose layout and options are known."""
        return cls(path, name, config, registry.load(_KIND, name)(path, config))

    def __len__(self) -> int:
        return len(self.layout)


def matching(path: Path) -> tuple[list[str], list[str]]:
    """Return the names of the layouts that match a path, and of those that cannot be asked.

    Where several distributions claim a name, each of them is one, ``distribution:name``.
    """
    found: list[str] = []
    broken: list[str] = []
    for name in registry.spelled(_KIND):
        try:
            if registry.load(_KIND, name).matches(path):
                found.append(name)
        except PluginError:
            broken.append(name)
        except KikimimiError:
            raise
        except Exception:  # noqa: BLE001 - whatever a third party's raises: one that nobody names stops nothing
            broken.append(name)
    return found, broken


def _find(path: Path) -> str:
    if not os.path.exists(path):  # also where the system refuses to look it up
        beside = path.parent.iterdir() if os.path.isdir(path.parent) else ()
        guess = nearest(path.name, [other.name for other in beside])
        if _HUB_NAME.fullmatch(str(path)) and not os.path.isdir(path.parent):
            guess = " For a set on the Hub, add --layout hugging_face"
        raise RequestError(f"{path}: no such file or folder.{guess}")
    found, broken = matching(path)
    if len(found) == 1:
        return found[0]
    if found:
        raise RequestError(
            f"{path}: could be read as {len(found)} layouts: {listing(found)}. Choose with --layout NAME"
        )
    asked = [name for name in registry.spelled(_KIND) if name not in broken]
    said = f" Broken: {listing(broken)} ('kikimimi plugins --check' says why)." if broken else ""
    raise RequestError(
        f"{path}: is laid out like none of {listing(asked)}.{said} Where it is one of them "
        "nevertheless, say so with --layout NAME; a CSV with path and text can always be packed"
    )


def _config(name: str, options: Sequence[str]) -> Any:
    # Here, as reading recipes imports OmegaConf.
    from kikimimi.recipe.plugin_options import read_plugin_options

    return read_plugin_options(_KIND, name, options, place=", after SOURCE and OUT")


def find_tars(source: str) -> list[str]:
    """Return the shards that a source names, made elsewhere, or none where a layout reads it.

    Args:
        source: A ``.tar``, a pattern of them with wildcards or braces, or a folder that holds them.

    Raises:
        RequestError: A pattern matches nothing, or names what is missing.
    """
    if source.lower().endswith(".tar"):
        return expand(source)
    # Archives of a corpus may lie beside what a layout reads: they are no shards.
    folder = as_on_disk(Path(source).expanduser())
    tars = paths_in(folder, "*.tar")
    return [str(tar) for tar in tars] if tars and not matching(folder)[0] else []

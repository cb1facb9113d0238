"""FSD50K: sounds and what they are."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from kikimimi import DataError, Layout, LayoutConfig, Row
from kikimimi_layouts.corpus_folder import is_missing, licence_name
from kikimimi_layouts.table import Fields, Table

Split = Literal["dev", "eval"]


@dataclass(kw_only=True, frozen=True)
class FSD50KConfig(LayoutConfig):
    """Options of the layout `fsd50k`."""

    split: Split = "dev"
    """The development or the evaluation set."""
    part: Literal["all", "train", "val"] = "all"
    """Part of the development set: its own training or validation clips, or all."""

    def __post_init__(self) -> None:
        if self.split == "eval" and self.part != "all":
            raise ValueError("part: only the development set has parts; leave it out with split=eval")


class FSD50K(Layout):
    """The folder with ``FSD50K.dev_audio``, ``FSD50K.ground_truth``, ``FSD50K.metadata`` and so on.

    ``dev.csv`` has the columns fname, labels, mids and split, and ``dev_clips_info_FSD50K.json`` tells the
    title, the licence and the uploader of each clip, as https://zenodo.org/records/4060432 describes. The
    text is the labels in words ("Electric guitar, Guitar"); ``meta.license`` is the clip's own.
    """

    Config = FSD50KConfig
    config: FSD50KConfig

    def __init__(self, path: str, config: Any) -> None:
        super().__init__(path, config)
        folder, split = Path(path), config.split
        self.audio = folder / f"FSD50K.{split}_audio"
        truth, metadata = folder / "FSD50K.ground_truth", folder / "FSD50K.metadata"
        info = metadata / f"{split}_clips_info_FSD50K.json"
        if not self.audio.is_dir():
            raise is_missing(folder, self.audio.name, f"the clips of split={split}")
        if not (truth / f"{split}.csv").is_file():
            raise is_missing(truth, f"{split}.csv", "names and labels of the clips")
        if not info.is_file():
            raise is_missing(metadata, info.name, "the licence of each clip")
        self.about = _about(info)
        needs, what = ("fname", "labels"), "the ground truth of FSD50K"
        self.table = Table(truth / f"{split}.csv", needs=needs, what=what, keep=self._is_of_part)

    @classmethod
    def matches(cls, path: Path) -> bool:
        """Tell whether there is the ground truth beside a folder of clips."""
        return (path / "FSD50K.ground_truth").is_dir() and any(
            (path / f"FSD50K.{split}_audio").is_dir() for split in get_args(Split)
        )

    def __len__(self) -> int:
        return len(self.table)

    def rows(self, begin: int, end: int) -> Iterator[Row]:
        """Yield the rows from `begin` to before `end`, in the order of the ground truth."""
        for _, fields in self.table.rows(begin, end):
            labels = fields["labels"].split(",")
            text = ", ".join(label.replace("_", " ") for label in labels)
            meta = {"source": "fsd50k", "labels": labels, **self.about.get(fields["fname"], {})}
            name = f"{fields['fname']}.wav"
            yield Row(name, {"text": text, "language": "en", "meta": meta}, (self.audio / name,))

    def _is_of_part(self, fields: Fields) -> bool:
        return self.config.part in ("all", fields.get("split"))


def _about(info: Path) -> dict[str, dict[str, str]]:
    """Return title, uploader and licence of each clip, as far as they are known."""
    try:
        clips = json.loads(info.read_text(encoding="utf-8"))
        about = {
            name: {key: str(clip[key]) for key in ("title", "uploader", "license") if clip.get(key)}
            for name, clip in clips.items()
        }
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise DataError(f"{info}: not a table of clips by name: {error}") from error
    for clip in about.values():
        if "license" in clip:
            clip["license"] = licence_name(clip["license"])
    return about

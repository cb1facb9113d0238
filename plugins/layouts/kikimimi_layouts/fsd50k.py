"""FSD50K: sounds and what they are."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from kikimimi import DataError, ExampleCorpus, LayoutConfig, Row, read_bytes
from kikimimi_layouts.corpus_folder import MAX_TABLE, find_file, find_folder, licence_name
from kikimimi_layouts.table import Cells, Table, TableLayout

_Split = Literal["dev", "eval"]


class FSD50K(TableLayout):
    """The folder with ``FSD50K.dev_audio``, ``FSD50K.ground_truth``, ``FSD50K.metadata`` and so on.

    ``dev.csv`` has the columns fname, labels, mids and split, and ``dev_clips_info_FSD50K.json`` tells the
    title, the licence and the uploader of each clip, as https://zenodo.org/records/4060432 describes. The
    text is the labels in words ("Electric guitar, Guitar"); ``meta.license`` is the clip's own.
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(LayoutConfig):
        """Options of the layout `fsd50k`."""

        split: _Split = "dev"
        """The development or the evaluation set."""
        part: Literal["all", "train", "val"] = "all"
        """Part of the development set: its own training or validation clips, or all."""

        def __post_init__(self) -> None:
            if self.split == "eval" and self.part != "all":
                raise ValueError("part: only the development set has parts; leave it out with split=eval")

    config: Config

    def __init__(self, path: str, config: Any) -> None:
        super().__init__(path, config)
        folder, split = Path(path), config.split
        self.audio = find_folder(folder / f"FSD50K.{split}_audio", f"the clips of split={split}")
        truth = find_file(folder / "FSD50K.ground_truth" / f"{split}.csv", "names and labels of the clips")
        info = folder / "FSD50K.metadata" / f"{split}_clips_info_FSD50K.json"
        self.about = _about(find_file(info, "the licence of each clip"))
        needs, what = ("fname", "labels"), "the ground truth of FSD50K"
        self.table = Table(truth, needs=needs, what=what, keep=self._is_of_part)

    @classmethod
    def example(cls) -> ExampleCorpus:
        """Return two clips of the part for development."""
        about = {name: {"title": name, "license": "CC0", "uploader": "x"} for name in ("1", "2")}
        return ExampleCorpus(
            {
                "FSD50K.ground_truth/dev.csv": "fname,labels,mids,split\n1,Rain,/m/1,train\n2,Bird,/m/2,val",
                "FSD50K.metadata/dev_clips_info_FSD50K.json": json.dumps(about),
                "FSD50K.dev_audio/1.wav": None,
                "FSD50K.dev_audio/2.wav": None,
            }
        )

    @classmethod
    def matches(cls, path: Path) -> bool:
        """Tell whether there is the ground truth beside a folder of clips."""
        return (path / "FSD50K.ground_truth").is_dir() and any(
            (path / f"FSD50K.{split}_audio").is_dir() for split in get_args(_Split)
        )

    def row(self, where: str, fields: Cells) -> Row:
        """Make a row of a clip's labels."""
        labels = fields["labels"].split(",")
        text = ", ".join(label.replace("_", " ") for label in labels)
        meta = {"source": "fsd50k", "labels": labels, **self.about.get(fields["fname"], {})}
        name = f"{fields['fname']}.wav"
        return Row(name, {"text": text, "language": "en", "meta": meta}, (self.audio / name,))

    def _is_of_part(self, fields: Cells) -> bool:
        return self.config.part in ("all", fields.get("split"))


def _about(info: Path) -> dict[str, dict[str, str]]:
    """Return title, uploader and licence of each clip, as far as they are known."""
    try:
        clips = json.loads(read_bytes(info, limit=MAX_TABLE))
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

"""Clotho: sounds described in sentences."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from kikimimi import DataError, ExampleCorpus, LayoutConfig, Row, read_bytes, read_table
from kikimimi_layouts.corpus_folder import MAX_TABLE, is_missing, licence_name
from kikimimi_layouts.table import Cells, Table, TableLayout

_Split = Literal["development", "validation", "evaluation"]
_CAPTIONS = tuple(f"caption_{number}" for number in range(1, 6))
_TABLES = ("clotho_csv_files", ".")
_AUDIO = ("clotho_audio_files", ".")


class Clotho(TableLayout):
    """The folder with ``clotho_captions_SPLIT.csv``, ``clotho_metadata_SPLIT.csv``, the clips in ``SPLIT/``.

    The tables and the folder of clips may stand in ``clotho_csv_files`` and ``clotho_audio_files``, as
    https://aac-datasets.readthedocs.io leaves them, or side by side, as https://zenodo.org/records/4783391
    does. The text is the first caption, ``meta.captions`` all five. The licence is the clip's own, from the
    metadata, which since version 2 are in ISO 8859-1.
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(LayoutConfig):
        """Options of the layout `clotho`."""

        split: _Split = "development"
        """The set whose clips are taken."""

    config: Config

    def __init__(self, path: str, config: Any) -> None:
        super().__init__(path, config)
        folder = Path(path)
        captions = _find(folder, _TABLES, f"clotho_captions_{config.split}.csv", "file names and captions")
        metadata = _find(folder, _TABLES, f"clotho_metadata_{config.split}.csv", "the licence of each clip")
        self.audio = _find(folder, _AUDIO, config.split, f"the clips of split={config.split}")
        self.about = _about(metadata)
        self.table = Table(
            captions,
            needs=("file_name", *_CAPTIONS),
            texts=_CAPTIONS,
            what="a table of Clotho's captions",
        )

    @classmethod
    def example(cls) -> ExampleCorpus:
        """Return two clips with their captions."""
        captions = ",".join(f"caption_{number}" for number in range(1, 6))
        return ExampleCorpus(
            {
                "clotho_captions_development.csv": f"file_name,{captions}\na.wav,a,b,c,d,e\nb.wav,f,g,h,i,j",
                "clotho_metadata_development.csv": "file_name,keywords,license\na.wav,x;y,CC0\nb.wav,z,CC0\n",
                "development/a.wav": None,
                "development/b.wav": None,
            }
        )

    @classmethod
    def matches(cls, path: Path) -> bool:
        """Tell whether there is a table of captions."""
        names = [f"clotho_captions_{split}.csv" for split in get_args(_Split)]
        return any((path / place / name).is_file() for place in _TABLES for name in names)

    def row(self, where: str, fields: Cells) -> Row:
        """Make a row of a clip's captions."""
        captions, name = [fields[column] for column in _CAPTIONS], fields["file_name"]
        meta = {"source": "clotho", "captions": captions, **self.about.get(name, {})}
        return Row(name, {"text": captions[0], "language": "en", "meta": meta}, (self.audio / name,))


def _find(folder: Path, places: tuple[str, ...], name: str, what: str) -> Path:
    for place in places:
        if (found := folder / place / name).exists():
            return found
    raise is_missing(folder, name, what)


def _about(metadata: Path) -> dict[str, dict[str, Any]]:
    """Return keywords, link, uploader and licence by file name."""
    about: dict[str, dict[str, Any]] = {}
    content = read_bytes(metadata, limit=MAX_TABLE).decode("iso-8859-1").encode()
    rows = read_table(io.BytesIO(content), ".csv")
    header: list[str] = getattr(next(rows, None), "values", None) or []
    if "file_name" not in header:
        raise DataError(f"{metadata}: not a table of Clotho's metadata: no column 'file_name'")
    for row in rows:
        fields = dict(zip(header, row.values or (), strict=False))
        known = {
            "keywords": fields.get("keywords", "").split(";"),
            "link": fields.get("sound_link"),
            "uploader": fields.get("manufacturer"),
            "license": licence_name(fields.get("license", "")),
        }
        about[fields.get("file_name", "")] = {key: value for key, value in known.items() if value}
    return about

"""ReazonSpeech, as its archives and tables are downloaded."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

from kikimimi import BadRow, ExampleCorpus, LayoutConfig, RequestError, Row, listing
from kikimimi_layouts.corpus_folder import is_missing
from kikimimi_layouts.table import Cells, Table, TableLayout

Size = Literal["tiny", "small", "medium", "large", "all"]


class ReazonSpeech(TableLayout):
    """A folder with ``all.tsv`` (or ``tiny``, ``small``, ``medium``, ``large``) and the unpacked archives.

    Each line of the table is ``000/0000a1b2c3.flac``, a tab and the transcript; there is no header. The
    archives ``000.tar`` and so on unpack into folders of these names. As the loader of
    https://huggingface.co/datasets/reazon-research/reazonspeech downloads them. The licence is
    CDLA-Sharing-1.0, for the purposes of Article 30-4 of Japan's Copyright Act.
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(LayoutConfig):
        """Options of the layout `reazonspeech`."""

        size: Size | None = None
        """Table whose clips are taken (``tiny.tsv`` to ``all.tsv``); null takes the only one that is
        there."""
        audio: str = "."
        """Folder into which the archives were unpacked, seen from the folder of the table."""

    config: Config

    def __init__(self, path: str, config: Any) -> None:
        super().__init__(path, config)
        folder = Path(path)
        self.audio = folder / config.audio
        self.table = Table(_table(folder, config.size), columns=("path", "text"), texts=("text",))
        good = (row for row in self.table.rows(0, len(self.table)) if not isinstance(row, BadRow))
        first = PurePosixPath(next(good)[1]["path"]).parent
        for tar in (self.audio / f"{first}.tar", folder / f"{first}.tar"):
            if tar.is_file() and not (self.audio / first).is_dir():
                raise RequestError(
                    f"{tar}: is not unpacked: there is no folder {self.audio / first}. Unpack the archives, "
                    "and name the folder with audio=FOLDER where it is not that of the table"
                )

    @classmethod
    def example(cls) -> ExampleCorpus:
        """Return two clips of the smallest table."""
        said = "000/1.flac\tはい\n000/2.flac\tいいえ\n"
        return ExampleCorpus({"tiny.tsv": said, "000/1.flac": None, "000/2.flac": None})

    @classmethod
    def matches(cls, path: Path) -> bool:
        """Tell whether there is a table of such a name whose first line names a FLAC file."""
        return any(_names_flac(table) for table in _tables(path))

    def row(self, where: str, fields: Cells) -> Row:
        """Make a row of a line of the table."""
        meta = {"license": "CDLA-Sharing-1.0", "source": "reazonspeech"}
        record = {"text": fields["text"], "language": "ja", "meta": meta}
        return Row(fields["path"], record, (self.audio / fields["path"],))


def _tables(folder: Path) -> list[Path]:
    return [table for size in get_args(Size) if (table := folder / f"{size}.tsv").is_file()]


def _table(folder: Path, size: str | None) -> Path:
    names = " or ".join(f"{name}.tsv" for name in get_args(Size))
    tables = _tables(folder) if size is None else [folder / f"{size}.tsv"]
    if not tables or not tables[0].is_file():
        raise is_missing(folder, names if size is None else f"{size}.tsv", "paths and transcripts")
    if len(tables) > 1:
        raise RequestError(
            f"{folder}: holds {listing(table.name for table in tables)}; choose one with "
            f"size={tables[-1].stem}"
        )
    return tables[0]


def _names_flac(table: Path) -> bool:
    with table.open("rb") as file:
        fields = file.readline(1 << 16).split(b"\t")
    return len(fields) == 2 and fields[0].endswith(b".flac")

"""Common Voice, one language of a release."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from kikimimi import DataError, ExampleCorpus, LayoutConfig, RequestError, Row, Text
from kikimimi_layouts.corpus_folder import find_file, find_folder
from kikimimi_layouts.table import Cells, Table, TableLayout

_Split = Literal["train", "dev", "test", "validated", "invalidated", "other"]


class CommonVoice(TableLayout):
    """The folder of one language: ``clips/`` and ``train.tsv``, ``dev.tsv``, ``test.tsv``, ``validated.tsv``.

    Each table has the columns client_id, path, sentence, up_votes, down_votes, age, gender, accents, locale
    and others that changed over the releases: https://github.com/common-voice/cv-dataset. Quotation marks in
    them are letters: https://github.com/coqui-ai/STT/pull/2321 shows what goes wrong otherwise. The sentence
    is the text; what else is known is meta. The licence is CC0-1.0.
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(LayoutConfig):
        """Options of the layout `common_voice`."""

        split: _Split = "train"
        """Table of the release whose clips are taken (``train.tsv``)."""
        language: Text | None = None
        """Language of every clip (ISO 639-1 code); null takes it from the column ``locale``."""

    config: Config

    def __init__(self, path: str, config: Any) -> None:
        super().__init__(path, config)
        self.folder = Path(path)
        find_folder(self.folder / "clips", "the audio of a language of Common Voice")
        table = find_file(self.folder / f"{config.split}.tsv", f"the clips of split={config.split}")
        needs, texts, what = ("path", "sentence"), ("sentence",), "a table of Common Voice"
        self.table = Table(table, needs=needs, texts=texts, what=what, check=self.row)

    @classmethod
    def example(cls) -> ExampleCorpus:
        """Return two clips of the split for training."""
        lines = ["client_id\tpath\tsentence\tlocale", "x\ta.mp3\tはい\tja", "y\tb.mp3\tいいえ\tja"]
        return ExampleCorpus({"train.tsv": "\n".join(lines), "clips/a.mp3": None, "clips/b.mp3": None})

    @classmethod
    def matches(cls, path: Path) -> bool:
        """Tell whether there are ``clips/`` and the tables of a release."""
        return (path / "clips").is_dir() and any((path / f"{n}.tsv").is_file() for n in get_args(_Split))

    def row(self, where: str, fields: Cells) -> Row:
        """Make a row of a line of the table."""
        name, text, locale = fields.pop("path"), fields.pop("sentence"), fields.get("locale", "")
        if not name:
            raise DataError(f"{where}: path: is empty")
        if not (language := self.config.language or locale.partition("-")[0]):
            raise RequestError(f"{where}: no column 'locale'; say the language with language=ja")
        meta = {column: value for column, value in fields.items() if value}
        meta |= {"license": "CC0-1.0", "source": "common_voice"}
        # The tables of the first releases leave the ending out.
        file = self.folder / "clips" / (name if name.endswith(".mp3") else f"{name}.mp3")
        return Row(name, {"text": text, "language": language, "meta": meta}, (file,))

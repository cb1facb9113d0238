"""LJ Speech: one speaker reads English books."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kikimimi import BadRow, DataError, ExampleCorpus, Layout, LayoutConfig, RequestError, Row

LIST = "metadata.csv"
CLIPS = "wavs"


class LJSpeech(Layout):
    """The folder ``LJSpeech-1.1``: ``metadata.csv``, ``wavs/LJ001-0001.wav``.

    Each line of the list is a clip's name, its text and the same with numbers and abbreviations spelt out,
    with ``|`` between them and without quotes. Ito and Johnson, "The LJ Speech Dataset", 2017,
    https://keithito.com/LJ-Speech-Dataset; it is in the public domain.
    """

    contract_version = 1

    @dataclass(kw_only=True, frozen=True)
    class Config(LayoutConfig):
        """What a user may set."""

        spelt_out: bool = True
        """Whether to take the text with numbers and abbreviations spelt out."""

    config: Config

    def __init__(self, path: str, config: Config) -> None:
        super().__init__(path, config)
        self.folder = Path(path)
        if not self.matches(self.folder):
            raise RequestError(f"{path}: is no LJ Speech: expected {LIST} and the folder {CLIPS} in it")
        # At line feeds alone: `splitlines` would also split inside a text.
        lines = (self.folder / LIST).read_bytes().split(b"\n")
        self.lines = [
            (number, line.removesuffix(b"\r")) for number, line in enumerate(lines, start=1) if line.strip()
        ]
        if not any(isinstance(row, Row) for row in self.rows(0, len(self))):
            raise DataError(f"{path}: {LIST} has no line of a clip's name, its text and its text spelt out")

    @classmethod
    def matches(cls, path: Path) -> bool:
        """Tell whether list and folder of clips are there."""
        return (path / LIST).is_file() and (path / CLIPS).is_dir()

    @classmethod
    def example(cls) -> ExampleCorpus:
        """Return the first two clips, with shorter texts."""
        said = "LJ001-0001|Printing, in 1455,|Printing, in fourteen fifty-five,\nLJ001-0002|is new.|is new.\n"
        return ExampleCorpus({LIST: said, **{f"{CLIPS}/LJ001-000{n}.wav": None for n in (1, 2)}})

    def __len__(self) -> int:
        return len(self.lines)

    def rows(self, begin: int, end: int) -> Iterator[Row | BadRow]:
        """Yield a labelled clip for each line."""
        for number, line in self.lines[begin:end]:
            try:
                fields = line.decode("utf-8").split("|")
            except UnicodeDecodeError as error:
                yield BadRow(f"{LIST}:{number}", f"not UTF-8: {error}")
                continue
            if len(fields) != 3 or not all(field.strip() for field in fields):
                expected = "expected a clip's name, its text and its text spelt out, with | between them"
                yield BadRow(f"{LIST}:{number}", expected)
                continue
            clip, written, spelt_out = fields
            name = f"{CLIPS}/{clip}.wav"
            record = {
                "text": (spelt_out if self.config.spelt_out else written).strip(),
                "language": "en",
                "meta": {"license": "LicenseRef-public-domain", "source": "LJ Speech", "book": clip[:5]},
            }
            yield Row(name, record, (self.folder / name,))

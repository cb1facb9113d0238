"""ADU-Bench: spoken questions, written reference answers, subset by subset."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Any

from kikimimi import BadRow, DataError, ExampleCorpus, Layout, LayoutConfig, RequestError, Row, Text, listing
from kikimimi_layouts.corpus_folder import is_missing
from kikimimi_layouts.languages import language_code
from kikimimi_layouts.table import Cells, Table

_NEEDS = ("question", "answer", "audio")


class ADUBench(Layout):
    """The folder that holds ``input/SET/SUBSET.jsonl`` and the audio, as it is on the Hub.

    A line has question, answer, source, category and audio: https://github.com/KuofengGao/ADU-Bench,
    https://huggingface.co/datasets/KuofengGao/ADU-Bench; Gao et al., ACL 2025, arXiv 2412.05167. A row is a
    conversation for the task `chat`: the question is spoken and known in words, the answer is the reference.
    ``meta`` holds set and subset, source and category. The questions of ADU-Multilingual are in the language
    that the subset is called by, the others in English. Audio is looked for below the folder, then by the
    part of its path that begins with the set, then as ``SET/SUBSET/NAME``.
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(LayoutConfig):
        """Options of the layout `adu_bench`."""

        subsets: list[Text] = field(default_factory=lambda: ["*"])
        """Subsets that are taken, as patterns: ``[ADU-Multilingual/japanese]``, ``[ADU-Skill/*]``."""

    config: Config

    def __init__(self, path: str, config: Any) -> None:
        super().__init__(path, config)
        self.folder = Path(path)
        there = _subsets(self.folder)
        if not there:
            raise is_missing(self.folder, "input/SET/SUBSET.jsonl", "the questions of ADU-Bench")
        for pattern in config.subsets:
            if not any(fnmatchcase(name, pattern) for name in there):
                raise RequestError(
                    f"{path}: subsets: there is no '{pattern}'. Subsets: {listing(sorted(there))}"
                )
        self.names = [
            name for name in sorted(there) if any(fnmatchcase(name, pattern) for pattern in config.subsets)
        ]
        self.tables = [
            Table(there[name], needs=_NEEDS, what="questions of ADU-Bench", check=self._reader(name))
            for name in self.names
        ]
        self.ends = list(accumulate(map(len, self.tables)))

    @classmethod
    def example(cls) -> ExampleCorpus:
        """Return two questions in Japanese."""
        lines = [
            {
                "question": question,
                "answer": answer,
                "source": "Azure",
                "category": "japanese",
                "audio": f"ADU-Multilingual/japanese/{number}.wav",
            }
            for number, (question, answer) in enumerate(
                [("空は何色ですか。", "青です。"), ("二足す三は。", "五です。")]
            )
        ]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        clips = {line["audio"]: None for line in lines}
        config = cls.Config(subsets=["ADU-Multilingual/japanese"])
        return ExampleCorpus({"input/ADU-Multilingual/japanese.jsonl": text, **clips}, config=config)

    @classmethod
    def matches(cls, path: Path) -> bool:
        """Tell whether there are questions of one of its sets."""
        return any(name.startswith("ADU-") for name in _subsets(path))

    def __len__(self) -> int:
        return self.ends[-1]

    def rows(self, begin: int, end: int) -> Iterator[Row | BadRow]:
        """Yield the rows from `begin` to before `end`, subset by subset."""
        first = 0
        for name, table, last in zip(self.names, self.tables, self.ends, strict=True):
            read = self._reader(name)
            for found in table.rows(max(begin - first, 0), max(min(end, last) - first, 0)):
                if isinstance(found, BadRow):
                    yield found
                    continue
                try:
                    row: Row | BadRow = read(*found)
                except DataError as error:
                    row = BadRow(found[0], str(error))
                yield row
            first = last

    def _reader(self, name: str) -> Any:
        set_name, _, subset = name.partition("/")
        language = language_code(subset) if set_name == "ADU-Multilingual" else "en"

        def read(where: str, fields: Cells) -> Row:
            for column in _NEEDS:
                if not isinstance(fields[column], str) or not fields[column].strip():
                    raise DataError(f"{where}: {column}: expected a text, not {fields[column]!r}")
            spoken = {"type": "audio", "audio": "0", "text": fields["question"]}
            record = {
                "messages": [
                    {"role": "user", "content": [spoken]},
                    {"role": "assistant", "content": fields["answer"]},
                ],
                "meta": {
                    "source": "adu_bench",
                    "language": language,
                    "set": set_name,
                    "subset": subset,
                    "category": fields.get("category"),
                    "from": fields.get("source"),
                },
            }
            return Row(fields["audio"], record, (self._clip(name, fields["audio"]),))

        return read

    def _clip(self, name: str, said: str) -> Path:
        """Return where the audio of a line lies: what it says may be the path on another machine."""
        path = PurePosixPath(said)
        at = next((n for n, part in enumerate(path.parts) if part == name.partition("/")[0]), None)
        relative = path.relative_to("/") if path.is_absolute() else path
        places = [self.folder / relative]
        if at is not None:
            places.append(self.folder.joinpath(*path.parts[at:]))
        places.append(self.folder / name / path.name)
        return next((place for place in places if place.is_file()), places[0])


def _subsets(folder: Path) -> dict[str, Path]:
    return {f"{file.parent.name}/{file.stem}": file for file in folder.glob("input/*/*.jsonl")}

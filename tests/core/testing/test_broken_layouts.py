"""Layouts that each break the contract in one way, and the check that has to notice."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest

from kikimimi import BadRow, Clip, DataError, ExampleCorpus, Layout, LayoutConfig, RequestError, Row, Segment
from kikimimi.testing import Check, list_checks, parametrize_checks, run_checks
from kikimimi.testing.checks import FOR_LAYOUTS

ELSEWHERE = {check for check in FOR_LAYOUTS if not check.__module__.endswith("layout_checks")}


class Lines(Layout):
    """A list of file names and what is said in them: the smallest layout that keeps the contract."""

    @dataclass(kw_only=True, frozen=True)
    class Config(LayoutConfig):
        language: str = "en"
        """Code of the language."""

    def __init__(self, path: str, config: Any) -> None:
        super().__init__(path, config)
        file = Path(path) / "said.txt"
        if not file.is_file():
            raise RequestError(f"{path}: there is no said.txt")
        self.lines = [line.split(" ", 1) for line in self.read(file).split("\n") if line]

    def read(self, file: Path) -> str:
        try:
            return file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{file}: not UTF-8") from error

    @classmethod
    def matches(cls, path: Path) -> bool:
        return (path / "said.txt").is_file()

    @classmethod
    def example(cls) -> ExampleCorpus:
        return ExampleCorpus({"said.txt": "a.wav yes\nb.flac no\n", "a.wav": None, "b.flac": None})

    def __len__(self) -> int:
        return len(self.lines)

    def rows(self, begin: int, end: int) -> Iterator[Row | BadRow]:
        for name, text in self.lines[begin:end]:
            record = {"text": text, "language": self.config.language, "meta": {}}
            yield Row(name, record, (Path(self.path) / name,))


@parametrize_checks(Lines)
def test_a_layout_of_ones_own_passes(check: Check) -> None:
    if check.name != "import_is_light":  # test_import_check.py
        check()


class OfEveryRow(Lines):
    def row(self, row: Row) -> Row | BadRow:
        return row

    def rows(self, begin: int, end: int) -> Iterator[Row | BadRow]:
        for row in super().rows(begin, end):
            assert isinstance(row, Row)
            yield self.row(row)


class Nowhere(Lines):
    @classmethod
    def example(cls) -> ExampleCorpus:
        raise NotImplementedError


class MatchesEverything(Lines):
    @classmethod
    def matches(cls, path: Path) -> bool:
        return True


class MatchesNothing(Lines):
    @classmethod
    def matches(cls, path: Path) -> bool:
        return False


class ListsWhatIsNotThere(Lines):
    @classmethod
    def matches(cls, path: Path) -> bool:
        return "said.txt" in [found.name for found in path.iterdir()]


class CountsOneMore(Lines):
    def __len__(self) -> int:
        return super().__len__() + 1


class LeavesOneOut(Lines):
    def rows(self, begin: int, end: int) -> Iterator[Row | BadRow]:
        return (row for row in super().rows(begin, end) if row.name != "b.flac")


class IgnoresTheEnd(Lines):
    def rows(self, begin: int, end: int) -> Iterator[Row | BadRow]:
        return super().rows(begin, len(self))


class Shuffles(Lines):
    def __init__(self, path: str, config: Any) -> None:
        super().__init__(path, config)
        self.number = random.SystemRandom().random()

    def rows(self, begin: int, end: int) -> Iterator[Row | BadRow]:
        for row in super().rows(begin, end):
            assert isinstance(row, Row)
            yield replace(row, record=row.record | {"number": self.number})


class OneRow(Lines):
    @classmethod
    def example(cls) -> ExampleCorpus:
        return ExampleCorpus({"said.txt": "a.wav yes\n", "a.wav": None})


class Refuses(OfEveryRow):
    def row(self, row: Row) -> Row | BadRow:
        return BadRow(row.name, "no reason")


class OneName(OfEveryRow):
    def row(self, row: Row) -> Row:
        return replace(row, name="clip")


class HoldsASet(OfEveryRow):
    def row(self, row: Row) -> Row:
        return replace(row, record=row.record | {"meta": {"tags": {"a"}}})


class NothingSaid(OfEveryRow):
    def row(self, row: Row) -> Row:
        return replace(row, record={"text": "", "language": "en"})


class TwoClipsOfOneText(OfEveryRow):
    def row(self, row: Row) -> Row:
        return replace(row, clips=row.clips * 2)


class NamesClipsByFile(OfEveryRow):
    def row(self, row: Row) -> Row:
        audio = {"type": "audio", "audio": row.name}
        talk = [{"role": "user", "content": [audio]}, {"role": "assistant", "content": "yes"}]
        return replace(row, record={"messages": talk})


class LosesTheFolder(OfEveryRow):
    def row(self, row: Row) -> Row:
        return replace(row, clips=(Segment(Path(row.name), 0.1),))


class ClipsByName(OfEveryRow):
    def row(self, row: Row) -> Row:
        return replace(row, clips=(cast(Clip, str(row.clips[0])),))


class HashesTexts(Lines):
    def fingerprint(self, begin: int, end: int) -> str:
        return str(self.lines[begin:end])


class HashesTheFile(Lines):
    def fingerprint(self, begin: int, end: int) -> str:
        return str(self.lines)


class HashesTheTime(Lines):
    def fingerprint(self, begin: int, end: int) -> str:
        return str(random.SystemRandom().random())


class SaysNothing(Lines):
    def __init__(self, path: str, config: Any) -> None:
        try:
            super().__init__(path, config)
        except RequestError:
            self.lines = []


class FailsLate(Lines):
    def __init__(self, path: str, config: Any) -> None:
        try:
            super().__init__(path, config)
        except RequestError as error:
            raise DataError(str(error)) from error


class NamesNothing(Lines):
    def __init__(self, path: str, config: Any) -> None:
        try:
            super().__init__(path, config)
        except RequestError as error:
            raise RequestError("no such file") from error


class LengthOfHalves(Lines):
    def __len__(self) -> int:
        return cast(int, len(self.lines) / 1)


class InTheOrderOfTheDisk(Lines):
    def __init__(self, path: str, config: Any) -> None:
        super().__init__(path, config)
        self.lines = [[clip.name, clip.stem] for clip in Path(path).glob("*.*") if clip.suffix != ".txt"]


class AsListed(InTheOrderOfTheDisk):
    def __init__(self, path: str, config: Any) -> None:
        super().__init__(path, config)
        self.lines = [[name, name] for name in os.listdir(path) if name != "said.txt"]


class OneRecordForAll(Lines):
    def rows(self, begin: int, end: int) -> Iterator[Row | BadRow]:
        self.record = getattr(self, "record", {})
        for row in super().rows(begin, end):
            assert isinstance(row, Row)
            self.record.update(row.record)
            yield replace(row, record=self.record)


class NamesByNumber(OfEveryRow):
    def row(self, row: Row) -> Row | BadRow:
        return replace(row, name=cast(str, len(row.name)))


class ClipsInAList(OfEveryRow):
    def row(self, row: Row) -> Row | BadRow:
        return replace(row, clips=cast("tuple[Clip, ...]", list(row.clips)))


class InMilliseconds(OfEveryRow):
    def row(self, row: Row) -> Row | BadRow:
        (clip,) = row.clips
        return replace(row, clips=(Segment(cast(Path, clip), 100.0, 250.0),))


class LanguageByNumber(OfEveryRow):
    def row(self, row: Row) -> Row | BadRow:
        return replace(row, record=row.record | {"language": 3})


class WritesBesideTheClips(Lines):
    def __len__(self) -> int:
        Path(self.path, "said.txt.cache").write_text("2")
        return super().__len__()


class FailsOnItsOwn(Lines):
    def __init__(self, path: str, config: Any) -> None:
        open(Path(path) / "said.txt").close()
        super().__init__(path, config)


class UTF8Alone(Lines):
    def read(self, file: Path) -> str:
        return file.read_text(encoding="utf-8")


class NeedsALine(Lines):
    def __init__(self, path: str, config: Any) -> None:
        super().__init__(path, config)
        self.first = self.lines[0]


BROKEN = [
    (LengthOfHalves, "rows_are_as_many_as_its_length", "len: expected a whole number, found TypeError"),
    (
        InTheOrderOfTheDisk,
        "rows_are_as_many_as_its_length",
        "where the disk lists its files in another order",
    ),
    (AsListed, "rows_are_as_many_as_its_length", "found others. Sort what is listed"),
    (OneRecordForAll, "rows_are_as_many_as_its_length", "rows of another process: expected the same"),
    (NamesByNumber, "rows_are_records", "name of a row: expected a text, found int"),
    (ClipsInAList, "rows_are_records", "row 'a.wav': expected a tuple of clips, found list"),
    (InMilliseconds, "rows_are_records", "found it left out (segment that is not in its file): "),
    (LanguageByNumber, "rows_are_records", "found it left out (malformed): a.wav: language"),
    (WritesBesideTheClips, "rows_are_records", "found new files: said.txt.cache"),
    (FailsOnItsOwn, "what_is_not_there_is_said", "RequestError, found FileNotFoundError: "),
    (UTF8Alone, "damaged_files_are_said", "said.txt, not in UTF-8: expected bad rows, a kikimimi.DataError"),
    (NeedsALine, "damaged_files_are_said", "said.txt, empty: expected bad rows, a kikimimi.DataError"),
    (MatchesNothing, "the_example_is_recognised", "matches: expected true of its example, found False"),
    (MatchesEverything, "the_example_is_recognised", "matches: expected false of a folder, found True"),
    (
        ListsWhatIsNotThere,
        "the_example_is_recognised",
        "matches of readme.txt: expected false, found",
    ),
    (CountsOneMore, "rows_are_as_many_as_its_length", "expected as many as its length says, 3, found 2"),
    (LeavesOneOut, "rows_are_as_many_as_its_length", "example: expected at least two rows, found 1"),
    (OneRow, "rows_are_as_many_as_its_length", "example: expected at least two rows, found 1"),
    (IgnoresTheEnd, "rows_are_as_many_as_its_length", "rows(0, 0): expected those of all rows, found others"),
    (Shuffles, "rows_are_as_many_as_its_length", "rows of another process: expected the same, found others"),
    (Refuses, "rows_are_records", "example: expected good rows, found a.wav: no reason"),
    (OneName, "rows_are_records", "names: expected one for each row, found ['clip', 'clip']"),
    (
        HoldsASet,
        "rows_are_records",
        "row 'a.wav': expected a record that JSON can hold, found: Object",
    ),
    (
        NothingSaid,
        "rows_are_records",
        "row 'a.wav': expected messages, or the text of a clip, or labels in meta",
    ),
    (TwoClipsOfOneText, "rows_are_records", "expected the one clip that the text is of, found 2"),
    (NamesClipsByFile, "rows_are_records", "expected every one of its 1 clips in the turns, found ['a.wav']"),
    (LosesTheFolder, "rows_are_records", "clip 0: expected an audio file of the example, found none at"),
    (ClipsByName, "rows_are_records", "clip 0: expected a path, bytes or a Segment, found str"),
    (HashesTexts, "fingerprint_follows_the_data", "expected another once a clip is another, found the same"),
    (HashesTheFile, "fingerprint_follows_the_data", "expected others of other rows, found the same"),
    (HashesTheTime, "fingerprint_follows_the_data", "expected the same again, found another"),
    (
        SaysNothing,
        "what_is_not_there_is_said",
        "a path where nothing is: expected a kikimimi.RequestError",
    ),
    (FailsLate, "what_is_not_there_is_said", "expected a kikimimi.RequestError, found DataError: "),
    (NamesNothing, "what_is_not_there_is_said", "nothing, found: no such file"),
]


@pytest.mark.parametrize(("component", "name", "message"), BROKEN)
def test_is_caught(component: type, name: str, message: str) -> None:
    result = next(one for one in list_checks("layout", component) if one.name == name).result()
    assert message in (result.error or "")


def test_every_check_has_something_to_catch() -> None:
    names = {check.__name__ for check in FOR_LAYOUTS if check not in ELSEWHERE}
    assert {name for _, name, _ in BROKEN} == names


def test_without_an_example_nothing_is_called_right() -> None:
    (result,) = run_checks("layout", Nowhere)
    assert result.error == "Nowhere.example: expected a kikimimi.ExampleCorpus to read, found none"

"""LibriSpeech: English audio books."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from kikimimi import BadRow, ExampleCorpus, Layout, LayoutConfig, Row, paths_in
from kikimimi_layouts.corpus_folder import any_good, find_folder, is_missing, read_lines

_Split = Literal[
    "train-clean-100",
    "train-clean-360",
    "train-other-500",
    "dev-clean",
    "dev-other",
    "test-clean",
    "test-other",
    "train-clean-5",
    "dev-clean-2",
]


class LibriSpeech(Layout):
    """The folder ``LibriSpeech``: ``SPLIT/SPEAKER/CHAPTER/SPEAKER-CHAPTER-NUMBER.flac`` and transcripts.

    ``SPEAKER-CHAPTER.trans.txt`` beside the clips has a line for each: its name, a space, the words.
    Panayotov et al., "Librispeech", ICASSP 2015; https://www.openslr.org/12. The licence is CC-BY-4.0. The
    transcripts of the split are held: about 60 MB for train-other-500.
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(LayoutConfig):
        """Options of the layout `librispeech`."""

        split: _Split = "train-clean-100"
        """Folder whose clips are taken; ``train-clean-5`` and ``dev-clean-2`` are those of Mini
        LibriSpeech."""
        case: Literal["lower", "as_is"] = "lower"
        """The transcripts are in capitals, as no LLM writes: lower makes them small, as_is keeps them."""

    config: Config

    def __init__(self, path: str, config: Any) -> None:
        super().__init__(path, config)
        self.folder = find_folder(Path(path) / config.split, f"the clips of split={config.split}")
        transcripts = _transcripts(self.folder)
        if not transcripts:
            raise is_missing(self.folder, "SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt", "the transcripts")
        self.utterances = any_good(
            [line for transcript in transcripts for line in read_lines(transcript, _read)]
        )

    @classmethod
    def example(cls) -> ExampleCorpus:
        """Return two clips of one chapter."""
        place = "train-clean-100/1/2/1-2"
        said = "1-2-0000 YES\n1-2-0001 NO\n"
        clips = {f"{place}-000{number}.flac": None for number in range(2)}
        return ExampleCorpus({f"{place}.trans.txt": said, **clips})

    @classmethod
    def matches(cls, path: Path) -> bool:
        """Tell whether there is a split with a transcript."""
        return any(_transcripts(path / split) for split in get_args(_Split))

    def __len__(self) -> int:
        return len(self.utterances)

    def rows(self, begin: int, end: int) -> Iterator[Row | BadRow]:
        """Yield the rows from `begin` to before `end`, by speaker and chapter."""
        for utterance in self.utterances[begin:end]:
            if isinstance(utterance, BadRow):
                yield utterance
                continue
            name, words = utterance
            speaker, chapter, _ = name.split("-")
            record = {
                "text": words.lower() if self.config.case == "lower" else words,
                "language": "en",
                "meta": {
                    "license": "CC-BY-4.0",
                    "source": "librispeech",
                    "split": self.config.split,
                    "speaker": speaker,
                    "chapter": chapter,
                },
            }
            yield Row(f"{name}.flac", record, (self.folder / speaker / chapter / f"{name}.flac",))


def _transcripts(folder: Path) -> list[Path]:
    return paths_in(folder, "*/*/*.trans.txt")


def _read(line: str) -> tuple[str, str]:
    name, _, words = line.partition(" ")
    if name.count("-") != 2:
        raise ValueError(f"expected SPEAKER-CHAPTER-NUMBER and the words, not {line!r}")
    return name, words.strip()

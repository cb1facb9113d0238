"""JSUT: one speaker reads Japanese sentences."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from kikimimi import BadRow, ExampleCorpus, Layout, LayoutConfig, Row
from kikimimi_layouts.corpus_folder import any_good, find_file, find_folder, is_missing, read_lines

_Subset = Literal[
    "all",
    "basic5000",
    "countersuffix26",
    "loanword128",
    "onomatopee300",
    "precedent130",
    "repeat500",
    "travel1000",
    "utparaphrase512",
    "voiceactress100",
]
_TRANSCRIPT = "transcript_utf8.txt"


class JSUT(Layout):
    """The folder ``jsut_ver1.1``: ``basic5000/transcript_utf8.txt``, ``basic5000/wav/BASIC5000_0001.wav``.

    Each line of a transcript is the name of a clip, a colon and the sentence. Sonobe et al., "JSUT corpus",
    arXiv 1711.00354; https://sites.google.com/site/shinnosuketakamichi/publication/jsut. It has terms of its
    own, which its ``LICENCE.txt`` gives for text and audio: ``LicenseRef-JSUT``.
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(LayoutConfig):
        """Options of the layout `jsut`."""

        subset: _Subset = "basic5000"
        """Folder whose sentences are taken; ``all`` takes every one that is there."""

    config: Config

    def __init__(self, path: str, config: Any) -> None:
        super().__init__(path, config)
        self.folder = Path(path)
        subsets = _subsets(self.folder) if config.subset == "all" else [config.subset]
        if not subsets:
            raise is_missing(self.folder, "basic5000", f"a part of JSUT, with {_TRANSCRIPT} and wav")
        self.sentences = any_good([line for subset in subsets for line in self._read(subset)])

    @classmethod
    def example(cls) -> ExampleCorpus:
        """Return two sentences of the largest part."""
        names = ("BASIC5000_0001", "BASIC5000_0002")
        said = "".join(f"{name}:はい。\n" for name in names)
        clips = {f"basic5000/wav/{name}.wav": None for name in names}
        return ExampleCorpus({"basic5000/transcript_utf8.txt": said, **clips})

    @classmethod
    def matches(cls, path: Path) -> bool:
        """Tell whether there is the transcript of a part."""
        return bool(_subsets(path))

    def __len__(self) -> int:
        return len(self.sentences)

    def rows(self, begin: int, end: int) -> Iterator[Row | BadRow]:
        """Yield the rows from `begin` to before `end`: part by part, each in the order of its transcript."""
        for sentence in self.sentences[begin:end]:
            if isinstance(sentence, BadRow):
                yield sentence
                continue
            subset, name, text = sentence
            meta = {"license": "LicenseRef-JSUT", "source": "jsut", "subset": subset}
            file = self.folder / subset / "wav" / f"{name}.wav"
            yield Row(f"{subset}/wav/{name}.wav", {"text": text, "language": "ja", "meta": meta}, (file,))

    def _read(self, subset: str) -> Iterator[tuple[str, str, str] | BadRow]:
        folder = find_folder(self.folder / subset, f"the sentences of subset={subset}")
        transcript = find_file(folder / _TRANSCRIPT, "names of clips and sentences")

        def read(line: str) -> tuple[str, str, str]:
            name, colon, text = line.partition(":")
            if not colon or not name.strip():
                raise ValueError(f"expected the name of a clip, ':' and its sentence, not {line!r}")
            return subset, name.strip(), text.strip()

        return read_lines(transcript, read)


def _subsets(folder: Path) -> list[str]:
    return [name for name in get_args(_Subset)[1:] if (folder / name / _TRANSCRIPT).is_file()]

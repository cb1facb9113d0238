"""JSUT: one speaker reads Japanese sentences."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from kikimimi import DataError, Layout, LayoutConfig, Row
from kikimimi_layouts.corpus_folder import find_file, find_folder, is_missing, lines_of

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
        self.sentences = [line for subset in subsets for line in self._read(subset)]

    @classmethod
    def matches(cls, path: Path) -> bool:
        """Tell whether there is the transcript of a part."""
        return bool(_subsets(path))

    def __len__(self) -> int:
        return len(self.sentences)

    def rows(self, begin: int, end: int) -> Iterator[Row]:
        """Yield the rows from `begin` to before `end`: part by part, each in the order of its transcript."""
        for subset, name, text in self.sentences[begin:end]:
            meta = {"license": "LicenseRef-JSUT", "source": "jsut", "subset": subset}
            file = self.folder / subset / "wav" / f"{name}.wav"
            yield Row(f"{subset}/wav/{name}.wav", {"text": text, "language": "ja", "meta": meta}, (file,))

    def _read(self, subset: str) -> Iterator[tuple[str, str, str]]:
        folder = find_folder(self.folder / subset, f"the sentences of subset={subset}")
        transcript = find_file(folder / _TRANSCRIPT, "names of clips and sentences")
        for where, line in lines_of(transcript):
            name, colon, text = line.partition(":")
            if not colon or not name.strip():
                raise DataError(f"{where}: expected the name of a clip, ':' and its sentence, not {line!r}")
            yield subset, name.strip(), text.strip()


def _subsets(folder: Path) -> list[str]:
    return [name for name in get_args(_Subset)[1:] if (folder / name / _TRANSCRIPT).is_file()]

"""Data folders of Kaldi (and of ESPnet, icefall and others that took them over)."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kikimimi import (
    BadRow,
    Clip,
    DataError,
    ExampleCorpus,
    Layout,
    LayoutConfig,
    RequestError,
    Row,
    Segment,
    Text,
    clip_name,
)
from kikimimi_layouts.corpus_folder import find_file, find_folder
from kikimimi_layouts.languages import language_code

_MAX_LINE = 1 << 20  # bytes
_PLACE_IN_FILE = re.compile(r":\d+(?:\[[^\]]*\])?$|\.ark(?:\.gz)?$")
_BLANKS = re.compile(r"[ \t]+")
_SIDES = {"A": 0, "B": 1, "1": 0, "2": 1}
_END = -1.0  # of a segment that goes on to the end of its recording
_Entries = dict[str, str | DataError]


@dataclass(frozen=True)
class _Utterance:
    """A line of `segments`, or of `wav.scp` where there is none."""

    name: str
    where: str
    said: str | DataError


class Kaldi(Layout):
    """The folder with ``wav.scp`` and ``text``, and where it is known ``segments``, ``utt2spk`` and so on.

    ``segments`` (utterance, recording, start, end [s], perhaps channel; the end -1 is that of the recording)
    is cut; without it, a recording is an utterance. ``utt2spk`` and ``spk2gender`` are ``meta.speaker`` and
    ``meta.gender``, ``utt2lang`` is the language. Where two recordings are of one file,
    ``reco2file_and_channel`` tells the channel of each (A, B). A command (``sph2pipe ... |``) is never run:
    such an utterance is left out. Names and texts are held: some hundred bytes for each utterance.
    https://kaldi-asr.org/doc/data_prep.html
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(LayoutConfig):
        """Options of the layout `kaldi`."""

        root: Text | None = None
        """Folder in which relative paths of ``wav.scp`` begin (in Kaldi that of the recipe, ``egs/.../s5``);
        null takes the folder of ``wav.scp``."""
        language: Text | None = None
        """Language of every utterance (ISO 639-1 code); null takes ``utt2lang``, where it is there."""
        license: Text | None = None
        """Licence of every utterance (SPDX name)."""

    config: Config

    def __init__(self, path: str, config: Any) -> None:
        super().__init__(path, config)
        self.folder = find_folder(Path(path), "wav.scp and text")
        self.root = self.folder if config.root is None else Path(os.path.expanduser(config.root))
        self.recordings = _mapping(find_file(self.folder / "wav.scp", "the audio file of each recording"))
        self.texts = _mapping(find_file(self.folder / "text", "the transcript of each utterance"))
        self.speakers, self.genders, self.languages = (
            _mapping(self.folder / name) for name in ("utt2spk", "spk2gender", "utt2lang")
        )
        self.channels = self._channels()
        segments = self.folder / "segments"
        self.has_segments = segments.is_file()
        source = segments if self.has_segments else self.folder / "wav.scp"
        self.utterances = [_Utterance(*line) for line in _lines(source)]
        self.repeated = {
            name for name, count in Counter(u.name for u in self.utterances).items() if count > 1
        }
        if not self.utterances:
            raise RequestError(f"{source}: holds no utterances")
        commands = [said for said in self.recordings.values() if isinstance(said, str) and _is_command(said)]
        if commands and len(commands) == len(self.recordings):
            raise RequestError(f"{self.folder / 'wav.scp'}: {_command(commands[0])}")
        known = {utterance.name for utterance in self.utterances}
        self.without_audio = [name for name in self.texts if name not in known]

    @classmethod
    def example(cls) -> ExampleCorpus:
        """Return two segments of one recording."""
        return ExampleCorpus(
            {
                "wav.scp": "a wav/a.wav\n",
                "segments": "a-1 a 0.0 0.2\na-2 a 0.2 0.5\n",
                "text": "a-1 yes\na-2 no\n",
                "utt2spk": "a-1 x\na-2 x\n",
                "wav/a.wav": None,
            }
        )

    @classmethod
    def matches(cls, path: Path) -> bool:
        """Tell whether there is ``wav.scp``."""
        return (path / "wav.scp").is_file()

    def __len__(self) -> int:
        return len(self.utterances) + len(self.without_audio)

    def rows(self, begin: int, end: int) -> Iterator[Row | BadRow]:
        """Yield the rows from `begin` to before `end`, as ``segments`` or ``wav.scp`` has them.

        Utterances that only ``text`` knows come last.
        """
        found = len(self.utterances)
        for utterance in self.utterances[begin:end]:
            try:
                row: Row | BadRow = self._row(utterance)
            except DataError as error:
                row = BadRow(utterance.name, str(error))
            yield row
        for name in self.without_audio[max(begin - found, 0) : max(end - found, 0)]:
            source = "segments" if self.has_segments else "wav.scp"
            yield BadRow(name, f"{self.folder / 'text'}: utterance {name} is not in {source}")

    def _row(self, utterance: _Utterance) -> Row:
        name = utterance.name
        if name in self.repeated:
            raise DataError(f"{utterance.where}: {name} is there twice")
        if not self.has_segments:
            recording, start, seconds, channel = name, 0.0, None, None
        else:
            recording, start, seconds, channel = _segment(utterance)
        file = self._file(recording, utterance.where)
        if channel is None:
            channel = self.channels.get(recording)
        clip: Clip = file
        if start or seconds is not None or channel is not None:
            clip = Segment(file, start, seconds, channel)
        said = self.texts.get(name, "")
        if isinstance(said, DataError):
            raise said
        meta = {"utterance": name, "recording": recording, "license": self.config.license}
        meta["speaker"] = speaker = _plain(self.speakers.get(name))
        meta["gender"] = _plain(self.genders.get(speaker or ""))
        record = {
            "text": said,
            "language": self.config.language or language_code(_plain(self.languages.get(name)) or "") or None,
            "meta": {key: value for key, value in meta.items() if value is not None},
        }
        return Row(name if self.has_segments else clip_name(name, clip), record, (clip,))

    def _file(self, recording: str, where: str) -> Path:
        if recording not in self.recordings:
            raise DataError(f"{where}: wav.scp has no recording {recording}")
        said = self.recordings[recording]
        if isinstance(said, DataError):
            raise said
        place = f"{self.folder / 'wav.scp'}: {recording}"
        if _is_command(said):
            raise DataError(f"{place}: {_command(said)}")
        if not said or said == "-":
            raise DataError(f"{place}: names no audio file")
        file = self.root / said
        if _PLACE_IN_FILE.search(said) and not os.path.isfile(file):
            raise DataError(
                f"{place}: {said} is a place in an archive of Kaldi, which is not read: copy each recording "
                "into an audio file of its own, and name that"
            )
        return file

    def _channels(self) -> dict[str, int]:
        """Return the channels of recordings that share a file."""
        channels: dict[str, int] = {}
        path = self.folder / "reco2file_and_channel"
        of_file: dict[str, list[str]] = {}
        for name, said in self.recordings.items():
            if isinstance(said, str):
                of_file.setdefault(said, []).append(name)
        sides = _mapping(path)
        for names in of_file.values():
            for name in names if len(names) > 1 else []:
                side = (_plain(sides.get(name)) or "").upper().split()[-1:]
                if side and side[0] in _SIDES:
                    channels[name] = _SIDES[side[0]]
        return channels


def _segment(utterance: _Utterance) -> tuple[str, float, float | None, int | None]:
    """Return recording, start [s], length [s] and channel of a line of `segments`."""
    if isinstance(utterance.said, DataError):
        raise utterance.said
    fields = utterance.said.split()
    wrong = DataError(
        f"{utterance.where}: expected UTTERANCE RECORDING START END, and perhaps a CHANNEL from 0, not "
        f"{utterance.name} {utterance.said!r}"
    )
    if len(fields) not in (3, 4):
        raise wrong
    try:
        start, end = float(fields[1]), float(fields[2])
        channel = int(fields[3]) if len(fields) == 4 else None
    except ValueError:
        raise wrong from None
    if end == _END:
        return fields[0], start, None, channel
    if not 0 <= start < end or (channel is not None and channel < 0):
        raise wrong
    return fields[0], start, round(end - start, 6), channel


def _is_command(said: str) -> bool:
    return said.startswith("|") or said.endswith("|")


def _command(said: Any) -> str:
    return (
        f"{str(said)[:200]} is a command, and never run. Run it yourself, into an audio file (COMMAND > "
        "NAME.wav), and name that file in wav.scp"
    )


def _plain(said: str | DataError | None) -> str | None:
    return said if isinstance(said, str) and said else None


def _mapping(path: Path) -> _Entries:
    """Return what a file says of each name; of one that is there twice, an error. No file says nothing."""
    entries: _Entries = {}
    for name, where, said in _lines(path) if path.is_file() else ():
        entries[name] = DataError(f"{where}: {name} is there twice") if name in entries else said
    return entries


def _lines(path: Path) -> Iterator[tuple[str, str, str | DataError]]:
    """Yield the name that begins each line, the place, and the rest, or what is wrong with it."""
    try:
        opened = path.open("rb")
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error.strerror}") from error
    with opened as file:
        for number, line in enumerate(iter(lambda: file.readline(_MAX_LINE), b""), 1):
            where = f"{path}:{number}"
            problem = None
            if len(line) == _MAX_LINE and not line.endswith(b"\n"):
                problem = DataError(f"{where}: longer than {_MAX_LINE:,} bytes")
                while (more := file.readline(_MAX_LINE)) and not more.endswith(b"\n"):
                    pass
            try:
                text = line.decode("utf-8-sig")
            except UnicodeDecodeError as error:
                text = line.decode("utf-8", "backslashreplace")
                problem = problem or DataError(f"{where}: not UTF-8: {error}")
            name, *rest = _BLANKS.split(text.strip(" \t\r\n"), maxsplit=1)
            if name:
                yield name, where, problem or "".join(rest)

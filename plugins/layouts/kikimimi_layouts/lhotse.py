"""Cuts of Lhotse: manifests, and the Shar format."""

import hashlib
import json
import os
import re
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path, PurePosixPath
from typing import Any

from kikimimi import (
    BadRow,
    BrokenTarError,
    Clip,
    DataError,
    ExampleCorpus,
    Layout,
    LayoutConfig,
    RequestError,
    Row,
    Segment,
    Text,
    listing,
    read_entries,
)
from kikimimi_layouts.json_files import record_layout
from kikimimi_layouts.labels import clip_record
from kikimimi_layouts.languages import language_code
from kikimimi_layouts.table import Cells, Table

MAX_MEMBER = 1 << 29
"""Largest recording in a tar of Shar [bytes]."""

_OF_CUTS = re.compile(r"cuts(?:\.(\d+))?\.jsonl(?:\.gz)?")
_CUTS = ("MonoCut", "MultiCut", "Cut")  # the last is what earlier versions wrote
_SAME_SOUND = ("Resample",)  # of the transforms: clips are resampled anyway
_ROUGHLY = 0.02  # lengths that differ by no more mean the same [s]
_LONGEST = 1e9  # start and length [s]
_BEYOND = 0.1  # how far a supervision may go beyond its cut [s]
_Found = tuple[str, Cells] | BadRow


class Lhotse(Layout):
    """Cuts of Lhotse: a file (``.jsonl``, ``.jsonl.gz``), or a folder in the Shar format.

    Every supervision of a cut is a row: the part of the recording that it tells of (its start counts from
    that of the cut), the channel, its text and language; ``speaker``, ``gender`` and all that is custom are
    kept in ``meta``. Recordings are files; in the folder of Shar (``cuts.000000.jsonl.gz`` and
    ``recording.000000.tar``) they lie in tars. What must be mixed, padded, speeded up or fetched is left out:
    MixedCut, PaddingCut, transforms, commands and URLs. Zelasko et al., arXiv 2110.12561;
    https://lhotse.readthedocs.io
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(LayoutConfig):
        """Options of the layout `lhotse`."""

        root: Text | None = None
        """Folder in which relative paths of recordings begin (in Lhotse that of the program that reads
        them); null takes the folder of the cuts."""
        language: Text | None = None
        """Language of every supervision (ISO 639-1 code); null takes what each says, a code or a name such as
        ``English``."""
        license: Text | None = None
        """Licence of every supervision (SPDX name); null takes ``license`` in what is custom."""

    config: Config

    def __init__(self, path: str, config: Any) -> None:
        super().__init__(path, config)
        files = _files(Path(path))
        self.root = files[0].parent if config.root is None else Path(os.path.expanduser(config.root))
        self.cuts = [Table(file, check=_check) for file in files]
        # Rows of each cut, as numbers of the rows before it: 8 bytes for each.
        self.begins = array("q", accumulate((_count(found) for found in self._all()), initial=0))

    def _all(self) -> Iterator[_Found]:
        for table in self.cuts:
            yield from table.rows(0, len(table))

    @classmethod
    def example(cls) -> ExampleCorpus:
        """Return two supervisions of one recording."""
        said = [
            {"id": f"s{number}", "recording_id": "a", "start": 0.25 * number, "duration": 0.25, "text": text}
            for number, text in enumerate(("yes", "no"))
        ]
        source = {"type": "file", "channels": [0], "source": "a.wav"}
        recording = {
            "id": "a",
            "sources": [source],
            "sampling_rate": 16000,
            "num_samples": 8000,
            "duration": 0.5,
        }
        cut = {
            "id": "c",
            "start": 0.0,
            "duration": 0.5,
            "channel": 0,
            "supervisions": said,
            "type": "MonoCut",
        }
        line = json.dumps(cut | {"recording": recording})
        return ExampleCorpus({"cuts.jsonl": line, "a.wav": None}, "cuts.jsonl")

    @classmethod
    def matches(cls, path: Path) -> bool:
        """Tell whether it begins with a cut, or is a folder with ``cuts.000000.jsonl.gz``."""
        if path.is_file():
            return record_layout(path) == "lhotse"
        return path.is_dir() and any(map(_OF_CUTS.fullmatch, os.listdir(path)))

    def __len__(self) -> int:
        return self.begins[-1]

    def rows(self, begin: int, end: int) -> Iterator[Row | BadRow]:
        """Yield the rows from `begin` to before `end`, cut by cut."""
        end = min(end, len(self))
        if begin >= end:
            return
        first = bisect_right(self.begins, begin) - 1
        here = self.begins[first]
        for found, recording in self._cuts(first):
            for row in self._rows(found, recording):
                if here >= end:
                    return
                if here >= begin:
                    yield row
                here += 1

    def fingerprint(self, begin: int, end: int) -> str:
        """Return a hash of the cuts and of the state of their files. Clips in tars are not read for it."""
        tars = [tar for table in self.cuts if (tar := _tar(table.path)) is not None]
        if not tars:
            return super().fingerprint(begin, end)
        files = [*(table.path for table in self.cuts), *tars]
        states = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        return hashlib.sha256(json.dumps([states, begin, end]).encode()).hexdigest()

    def _cuts(self, first: int) -> Iterator[tuple[_Found, "_Recording | None"]]:
        """Yield the cuts from one on, with what a tar holds of each."""
        for table in self.cuts:
            if first >= len(table):
                first -= len(table)
                continue
            cuts, tar = table.rows(first, len(table)), _tar(table.path)
            if tar is None:
                yield from ((found, None) for found in cuts)
            else:
                yield from zip(cuts, islice(_recordings(tar), first, None), strict=False)
            first = 0

    def _rows(self, found: _Found, recording: "_Recording | None") -> Iterator[Row | BadRow]:
        if isinstance(found, BadRow):
            yield found
            return
        where, cut = found
        for supervision in _supervisions(cut) or [{}]:
            name = str(supervision.get("id", cut.get("id", where)))
            try:
                _check(where, cut)
                row: Row | BadRow = self._row(f"{where}: cut {cut.get('id')}", cut, supervision, recording)
            except (DataError, RequestError) as error:
                row = BadRow(name, str(error))
            except RecursionError:
                row = BadRow(name, f"{where}: nested too deeply")
            yield row

    def _row(self, place: str, cut: Cells, supervision: Cells, stored: "_Recording | None") -> Row:
        if not supervision:
            raise DataError(f"{place}: has no supervision, and so no text")
        if stored is not None and stored.problem is None and stored.name != cut.get("id"):
            raise DataError(f"{place}: the tar has the recording of {stored.name} in its place")
        about = _mapping(cut, "recording", place)
        channel = _channel(cut, supervision, place)
        source, index = self._source(about, channel, stored, place)
        start, seconds = _number(cut, "start", place), _number(cut, "duration", place)
        begin, length = _number(supervision, "start", place), _number(supervision, "duration", place)
        if begin < -_BEYOND or begin + length > seconds + _BEYOND:
            raise DataError(
                f"{place}: its supervision goes from {begin:g} to {begin + length:g} s, but the cut has only "
                f"{seconds:g} s: part of the text would have no sound"
            )
        clip = _clip(source, max(start + begin, 0.0), length, index, about)
        said, language = supervision.get("text"), supervision.get("language")
        if not isinstance(said, str | None):
            raise DataError(f"{place}: text: expected a text, not {said!r}")
        meta = {
            "recording": about.get("id"),
            "speaker": supervision.get("speaker"),
            "gender": supervision.get("gender"),
            **_custom(cut),
            **_custom(supervision),
        }
        if self.config.license is not None:
            meta["license"] = self.config.license
        meta = {name: value for name, value in meta.items() if value is not None}
        language = self.config.language or (
            language_code(language) if isinstance(language, str) else language
        )
        name = str(supervision.get("id", cut.get("id")))
        return Row(name, clip_record(said, language, meta), (clip,))

    def _source(
        self, about: Cells, channel: int | None, stored: "_Recording | None", place: str
    ) -> tuple[Path | bytes, int | None]:
        """Return the file of a channel, or the bytes of it, and the channel's number there."""
        if strange := [name for name in _names(about.get("transforms")) if name not in _SAME_SOUND]:
            raise DataError(
                f"{place}: is changed by {listing(strange)} when it is read, which is not done here"
            )
        sources = about.get("sources")
        if not isinstance(sources, list) or not sources or not all(isinstance(s, dict) for s in sources):
            raise DataError(f"{place}: its recording has no sources")
        holding = [source for source in sources if channel is None or channel in _list(source, "channels")]
        if len(holding) != 1:
            raise DataError(f"{place}: {len(holding)} sources hold the channel {channel}; expected one")
        (source,) = holding
        channels = _list(source, "channels")
        index = None if channel is None or len(channels) < 2 else channels.index(channel)
        kind, said = source.get("type"), source.get("source")
        if kind == "shar":
            return _stored(stored, place), index
        if kind != "file" or not isinstance(said, str) or not said:
            raise DataError(f"{place}: {_not_read(kind, said)}")
        return self.root / said, index


@dataclass(frozen=True)
class _Recording:
    """What a tar of Shar holds of one cut: the name and the bytes of a clip, or why there are none."""

    name: str
    content: bytes
    problem: str | None = None


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.iterdir() if _OF_CUTS.fullmatch(file.name))
    if not found:
        raise RequestError(f"{path}: holds no cuts; looked for cuts.000000.jsonl.gz and so on")
    return found


def _tar(cuts: Path) -> Path | None:
    """Return the tar with the recordings of a file of cuts, as Shar has it, or None where there is none."""
    name = _OF_CUTS.fullmatch(cuts.name)
    tar = cuts.with_name(f"recording.{name[1]}.tar") if name and name[1] else None
    return tar if tar is not None and tar.is_file() else None


def _recordings(tar: Path) -> Iterator[_Recording]:
    """Yield what a tar of Shar holds of each cut, in their order; without end where it breaks off."""
    problem = f"{tar}: holds fewer recordings than there are cuts"
    try:
        with tar.open("rb") as file:
            entries = read_entries(file, whole=True, largest=_most)
            for entry in entries:
                about = next(entries, None)  # its JSON, which the cut repeats
                name = str(PurePosixPath(entry.name).with_suffix(""))
                told = None
                if about is None or name != str(PurePosixPath(about.name).with_suffix("")):
                    told = f"{tar}: {entry.name} has no JSON after it"
                elif entry.name.endswith(".nodata") or not entry.regular:
                    told = f"{tar}: holds no recording of {name}"
                elif entry.size > MAX_MEMBER:
                    told = f"{tar}: {entry.name} has {entry.size:,} bytes; at most {MAX_MEMBER:,} are read"
                yield _Recording(name, entry.content, told)
    except (BrokenTarError, OSError) as error:
        problem = f"{tar}: cannot be read any further: {error}"
    while True:
        yield _Recording("", b"", problem)


def _most(name: str) -> int:
    return 0 if name.endswith(".json") else MAX_MEMBER  # what it says, the cut repeats


def _stored(stored: _Recording | None, place: str) -> bytes:
    if stored is None:
        raise DataError(f"{place}: its recording lies in a tar of Shar, which is not beside the cuts")
    if stored.problem is not None:
        raise DataError(f"{place}: {stored.problem}")
    return stored.content


def _check(where: str, cut: Cells) -> None:
    """Raise where no row of a file can be read as cuts."""
    kind = cut.get("type")
    if kind is None and "recording" not in cut:
        what = "recordings" if "sources" in cut else "supervisions" if "recording_id" in cut else "no cuts"
        raise RequestError(
            f"{where}: holds {what}, but cuts are read: CutSet.from_manifests(recordings=..., "
            "supervisions=...) makes them"
        )
    if kind not in (None, *_CUTS):
        raise DataError(f"{where}: {_of_a_kind(kind)}")


def _of_a_kind(kind: Any) -> str:
    told = {"MixedCut": "is mixed from several", "PaddingCut": "is silence"}.get(
        str(kind), "is of no known kind"
    )
    return f"{kind}: a cut that {told} is not read; save its audio, and make a MonoCut of that"


def _not_read(kind: Any, said: Any) -> str:
    shown = str(said)[:200]
    if kind == "command":
        return f"its recording is the output of a command, which is never run: {shown}"
    if kind == "url":
        return f"its recording is not on this machine: download {shown} first"
    return f"its recording is of type {kind!r}, but files are read"


def _supervisions(cut: Cells) -> list[Cells]:
    found = cut.get("supervisions")
    return (
        [supervision for supervision in found if isinstance(supervision, dict)]
        if isinstance(found, list)
        else []
    )


def _count(found: _Found) -> int:
    """Return how many rows a cut makes: one for each supervision, and one where nothing can be read."""
    return 1 if isinstance(found, BadRow) else max(1, len(_supervisions(found[1])))


def _channel(cut: Cells, supervision: Cells, place: str) -> int | None:
    """Return the channel of a cut, or of a supervision where it has several; None for all of them."""
    said = supervision if cut.get("type") == "MultiCut" else cut
    channels = said.get("channel", cut.get("channel", 0))
    channels = channels if isinstance(channels, list) else [channels]
    if not all(isinstance(channel, int) for channel in channels):
        raise DataError(f"{place}: channel: expected numbers, not {channels!r}")
    if len(channels) == 1:
        return int(channels[0])
    if {*channels} != {*map(_whole, _list(_mapping(cut, "recording", place), "channel_ids"))}:
        raise DataError(
            f"{place}: channel: one channel or all of them are taken, not {listing(map(str, channels))}"
        )
    return None


def _clip(source: Path | bytes, start: float, seconds: float, channel: int | None, about: Cells) -> Clip:
    """Return a part of a recording, or all of it: then the file tells its length better than the cut."""
    whole = about.get("duration")
    if start < _ROUGHLY and isinstance(whole, int | float) and abs(whole - start - seconds) < _ROUGHLY:
        return source if channel is None else Segment(source, channel=channel)
    return Segment(source, round(start, 6), round(seconds, 6), channel)


def _mapping(fields: Cells, name: str, place: str) -> Cells:
    value = fields.get(name)
    if not isinstance(value, dict):
        raise DataError(f"{place}: has no {name}; cuts of features alone are not read")
    return value


def _number(fields: Cells, name: str, place: str) -> float:
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _LONGEST:
        raise DataError(f"{place}: {name}: expected a number of seconds, not {value!r}")
    return float(value)


def _custom(fields: Cells) -> Cells:
    value = fields.get("custom")
    return value if isinstance(value, dict) else {}


def _whole(value: Any) -> int:
    return value if isinstance(value, int) else -1


def _list(fields: Cells, name: str) -> list[Any]:
    value = fields.get(name)
    return value if isinstance(value, list) else []


def _names(transforms: Any) -> list[str]:
    found = transforms if isinstance(transforms, list) else []
    return [str(one.get("name")) if isinstance(one, dict) else str(one) for one in found]

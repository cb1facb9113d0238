"""Manifests: tables of audio files and their transcripts, or of conversations."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kikimimi import (
    TABLE_SUFFIXES,
    Clip,
    DataError,
    ExampleCorpus,
    LayoutConfig,
    RequestError,
    Row,
    Text,
    listing,
    nearest,
    table_kind,
)
from kikimimi_layouts.conversations import (
    MARK,
    ConversationReader,
    holds_conversation,
    holds_question,
    row_name,
)
from kikimimi_layouts.json_files import json_kind, record_layout
from kikimimi_layouts.labels import clip_record
from kikimimi_layouts.llama_factory import data_sets
from kikimimi_layouts.segments import USUAL, SegmentFields, segment_of, unread_stretch
from kikimimi_layouts.table import Cells, Table, TableLayout

_STEMS = ("manifest", "metadata")


class Manifest(TableLayout):
    """A CSV, TSV, JSON Lines or JSON file that lists audio files and transcripts, or the folder with it.

    Columns path (relative to the manifest, or absolute), text, language (may be missing), and any others:
    they are kept as ``meta``, the licence as ``meta.license``. Columns such as ``offset`` and ``duration``,
    or ``start``, ``end`` and ``channel`` tell which part of its file a row is (`kikimimi_layouts.segments`).
    A text that is null is left out where another label is there (`kikimimi_layouts.labels`).
    A record in JSON may be a conversation instead, as OpenAI, ShareGPT, LLaMA-Factory and ms-swift write
    them (`kikimimi_layouts.conversations`). A million rows take 16 MB of memory, and some
    seconds to check.
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(LayoutConfig):
        """Options of the layout `manifest`."""

        path: Text = "path"
        """Name of the column with the audio files: relative to the manifest, or absolute."""
        text: Text = "text"
        """Name of the column with the transcripts."""
        language_column: Text = "language"
        """Name of the column with the language (ISO 639-1 code); it may be missing."""
        license_column: Text = "license"
        """Name of the column with the licence (SPDX name); it may be missing."""
        language: Text | None = None
        """Language of every row (ISO 639-1 code); one that says otherwise is malformed."""
        license: Text | None = None
        """Licence of every row (SPDX name); one that says otherwise is malformed."""
        segments: Literal["cut", "ignore"] = "cut"
        """Columns that tell which part of its file a row is: cut takes that part; ignore takes every file
        whole, for files that were cut before."""
        start: Text | None = None
        """Name of the column with where the part begins [s]. Where none of start, end, duration and channel
        is named, the usual names count (offset, start_time, ...)."""
        end: Text | None = None
        """Name of the column with where it ends [s]."""
        duration: Text | None = None
        """Name of the column with its length [s]."""
        channel: Text | None = None
        """Name of the column with the number of its channel, from 0."""
        mark: Text = MARK
        """What stands in the texts of a conversation for a clip that is named beside them (``audios``)."""

        def __post_init__(self) -> None:
            columns = (self.path, self.text, self.language_column, self.license_column)
            if len({*columns}) < len(columns):
                raise ValueError(
                    "path, text, language_column and license_column must name four different columns, "
                    f"not {', '.join(map(repr, columns))}"
                )
            if self.segments == "ignore" and (named := self.names().given()):
                raise ValueError(f"segments: ignores {', '.join(named.values())}: leave one of the two out")

        def names(self) -> SegmentFields:
            """Return the names of the columns that tell of a part."""
            return SegmentFields(self.start, self.end, self.duration, self.channel)

    config: Config

    def __init__(self, path: str, config: Any) -> None:
        super().__init__(path, config)
        file = _manifest(Path(path))
        self.folder, self.may_converse = file.parent, json_kind(file) is not None
        self.names = config.names()
        self.needed = {"path": config.path, "text": config.text, **self.names.given()}
        self.reader = ConversationReader(self.folder, config.mark, cut=config.segments == "cut")
        self.table = Table(file, texts=(config.text,), check=self._read)

    @classmethod
    def example(cls) -> ExampleCorpus:
        """Return a clip with its transcript, and a conversation."""
        talk = [{"role": "user", "content": f"{MARK}What is it?"}, {"role": "assistant", "content": "a tone"}]
        rows = [{"path": "a.wav", "text": "はい"}, {"messages": talk, "audios": ["b.flac"]}]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        return ExampleCorpus({"list.jsonl": lines, "a.wav": None, "b.flac": None}, "list.jsonl")

    @classmethod
    def matches(cls, path: Path) -> bool:
        """Tell whether it is a table, or a folder that holds a manifest and no other table of that kind."""
        if path.is_file():
            return table_kind(path) in (".csv", ".tsv") or record_layout(path) == "manifest"
        if data_sets(path):  # they say themselves what their files hold
            return False
        tables = _tables(path)
        if any(table.stem in _STEMS for table in tables):
            return True
        return len(tables) == 1 and _begins_like_a_manifest(tables[0])

    def row(self, where: str, fields: Cells) -> Row:
        """Make a row of a labelled clip or of a conversation."""
        record, clips = self._read(where, fields)
        return Row(row_name(where, clips), record, tuple(clip for _, clip in clips))

    def _read(self, where: str, fields: Cells) -> tuple[dict[str, Any], list[tuple[str, Clip]]]:
        """Return the record of a row, and its clips with their names."""
        if self.may_converse and (
            holds_conversation(fields) or (self.config.path not in fields and holds_question(fields))
        ):
            return self._conversation(where, fields)
        return self._labelled_clip(where, fields)

    def _labelled_clip(self, where: str, fields: Cells) -> tuple[dict[str, Any], list[tuple[str, Clip]]]:
        for option, column in self.needed.items():
            if column not in fields:
                raise RequestError(
                    f"{where}: no column '{column}'.{nearest(column, fields)} Columns: "
                    f"{listing(map(str, fields))}. Another one is chosen with {option}=COLUMN"
                )
        path, text = fields.pop(self.config.path), fields.pop(self.config.text)
        if not isinstance(path, str) or not path:
            raise DataError(f"{where}: {self.config.path}: expected the name of an audio file, not {path!r}")
        if not (text is None or isinstance(text, str)):
            raise DataError(f"{where}: {self.config.text}: expected a text, not {text!r}")
        if fields.get("audios"):
            raise DataError(
                f"{where}: audios: names clips beside {self.config.path}, but a transcript is of one; give a "
                "conversation (messages), or leave it out"
            )
        file = self.folder / path
        clip = self._part(where, fields, file) if self.config.segments == "cut" else file
        language, meta = self._about(where, fields)
        return clip_record(text, language, meta), [(path, clip)]

    def _part(self, where: str, fields: Cells, file: Path) -> Clip:
        try:
            clip = segment_of(fields, file, where, self.names)
        except DataError as error:
            raise DataError(f"{error}. If files are whole clips: segments=ignore") from error
        if clip is file and self.names == USUAL and (strange := unread_stretch(fields)):
            raise DataError(
                f"{where}: {strange}: may tell which part of its file a row is. Then say start=COLUMN "
                "end=COLUMN; if files are whole clips: segments=ignore"
            )
        return clip

    def _conversation(self, where: str, fields: Cells) -> tuple[dict[str, Any], list[tuple[str, Clip]]]:
        record, clips = self.reader.read(where, fields)
        language, meta = self._about(where, fields)
        record["meta"] = meta if language is None else {**meta, "language": language}
        return record, clips

    def _about(self, where: str, fields: Cells) -> tuple[str | None, dict[str, Any]]:
        """Return the language of a row, and the meta of what is left of it."""
        meta = fields
        if "meta" in fields and isinstance(inner := fields["meta"], dict | None):
            meta = {name: value for name, value in fields.items() if name != "meta"}
            for name, value in (inner or {}).items():
                if meta.setdefault(name, value) != value:
                    raise DataError(f"{where}: {name}: stands both beside meta and in it, and differs")
        language = self._known(where, meta, "language")
        license_name = self._known(where, meta, "license")
        return language, meta if license_name is None else {**meta, "license": license_name}

    def _known(self, where: str, meta: dict[str, Any], name: str) -> str | None:
        """Take what a row says out of its meta, or what is said of every row."""
        said, fixed = meta.pop(getattr(self.config, f"{name}_column"), None), getattr(self.config, name)
        if said != said:  # NaN is how pandas writes that nothing is known
            said = None
        if not (said is None or isinstance(said, str)):
            raise DataError(f"{where}: {name}: expected a text, not {said!r}")
        if said and fixed and said != fixed:
            raise DataError(
                f"{where}: {name}: is {said!r} here, but {name}={fixed} says that of every row; leave it out "
                "to take what the rows say"
            )
        return said or fixed or None


def _tables(folder: Path) -> list[Path]:
    return (
        sorted(
            path
            for path in folder.iterdir()
            if table_kind(path) and path.is_file() and not path.name.startswith(".")
        )
        if folder.is_dir()
        else []
    )


def _manifest(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise RequestError(f"{path}: no such manifest")
    tables = _tables(path)
    found = [table for table in tables if table.stem in _STEMS] or tables
    if len(found) == 1:
        return found[0]
    looked = f"looked for one of {', '.join(TABLE_SUFFIXES)}, such as metadata.csv"
    if not found:
        raise RequestError(f"{path}: holds no manifest; {looked}")
    raise RequestError(
        f"{path}: holds {len(found)} manifests: {listing(table.name for table in found)}; "
        "name the one to pack"
    )


def _begins_like_a_manifest(table: Path) -> bool:
    with table.open("rb") as file:
        first = file.readline(1 << 16).decode("utf-8-sig", errors="replace")
    return '"messages"' in first or ("path" in first and "text" in first)

"""Data sets of the Hugging Face Hub, and parquet and Arrow files."""

import dataclasses
import glob
import hashlib
import json
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from kikimimi import (
    BadRow,
    DataError,
    ExampleCorpus,
    Layout,
    LayoutConfig,
    MissingExtraError,
    RequestError,
    Row,
    encode_audio,
    listing,
    nearest,
)
from kikimimi_layouts.fields import FieldsRow, load_fields, shipped_fields

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_FILES = {".parquet": "parquet", ".arrow": "arrow"}
MAX_GROUP = 1 << 31
"""Largest group of rows of a parquet file, unpacked [bytes]."""
_AT_ONCE = 16  # rows that are read together: long clips are megabytes each


class HuggingFace(Layout):
    """A data set by its name on the Hub (``org/name``), or parquet or Arrow files: one, or a folder of them.

    A folder may also be what `save_to_disk` wrote. Read by the library `datasets`, which keeps a copy in its
    cache; a set's own code is never run. Clips are taken as they are stored, not decoded. The file of fields
    (`Fields`) says which columns are what::

        audio: audio                              # a labelled clip: names of columns
        text: transcription
        language: ja                              # the same in every row ...
        license: {column: license}                # ... or from a column
        meta: {source: example, speaker: {column: speaker_id}}

    or, for a conversation, names columns for every turn::

        turns:
          - {role: system, fixed: Answer briefly.}
          - {role: user, audio: q1_audio, transcript: q1}
          - {role: assistant, text: a1}
          - {role: user, audio: q2_audio, if_null: end}
          - {role: assistant, text: a2}

    or the column that holds them::

        messages: {column: prompt, role: from, text: value, audio: audio, roles: {human: user}}
        chosen: chosen
        rejected: rejected
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(LayoutConfig):
        """Options of the layout `hugging_face`."""

        fields: str | None = None
        """YAML file that says which columns are what, or the name of a shipped one; it must be given."""
        split: str | None = None
        """Split of the set; null takes ``train``, or the only one that there is. Several are written
        ``law+biology``."""
        subset: str | None = None
        """Subset (configuration) of the set; null takes its default."""
        revision: str | None = None
        """Commit, tag or branch on the Hub; null takes the newest."""

    config: Config

    def __init__(self, path: str, config: Any) -> None:
        super().__init__(path, config)
        if config.fields is None:
            raise RequestError(
                f"{path}: which columns are what? Say so with fields=FILE.yaml, or with the name of one that "
                f"is shipped: {listing(shipped_fields())}"
            )
        self.fields = load_fields(config.fields)
        wanted_splits = [None] if config.split is None else config.split.split("+")
        parts = [_loaded(path, dataclasses.replace(config, split=split)) for split in wanted_splits]
        self.splits = [str(part.split or "row") for part in parts]
        self.ends = list(accumulate(map(len, parts)))
        data = _joined(path, parts)
        columns, wanted = data.column_names, self.fields.columns()
        if unknown := [name for name in wanted if name not in columns]:
            said = " ".join(f"no column '{name}'.{nearest(name, columns)}" for name in unknown)
            raise RequestError(f"{path}: fields={config.fields}: {said} The columns: {listing(columns)}")
        self.made_of = "+".join(str(part._fingerprint) for part in parts)
        # As Arrow: clips stay the bytes that they are.
        told = [name for name in columns if self.fields.may_tell_of_a_part(name) and name not in wanted]
        self.data = data.select_columns([*wanted, *told]).with_format("arrow")
        local = Path(path)
        self.maker = FieldsRow(
            self.fields, None if not local.exists() else local if local.is_dir() else local.parent
        )

    @classmethod
    def example(cls) -> ExampleCorpus:
        """Return a parquet file with two captioned clips."""
        try:
            import pyarrow as pa
            from pyarrow.parquet import write_table
        except ImportError:
            raise MissingExtraError("The layout 'hugging_face'", "datasets", "datasets") from None
        sound = encode_audio(np.full(8000, 0.1, np.float32), 16_000, kind="WAV", subtype="PCM_16")
        clips = [{"bytes": sound, "path": name} for name in ("a.wav", "b.wav")]
        file = pa.BufferOutputStream()
        write_table(pa.table({"audio": clips, "caption": ["rain", "a bird"]}), file)
        config = cls.Config(fields="fsd50k-cc0-captioned")
        return ExampleCorpus({"rows.parquet": file.getvalue().to_pybytes()}, "rows.parquet", config)

    @classmethod
    def matches(cls, path: Path) -> bool:
        """Tell whether it is a parquet or an Arrow file, or a folder of such."""
        if path.is_file():
            return path.suffix.lower() in _FILES
        return _is_saved(path) or any(
            not found.name.startswith(".")  # as those that macOS adds
            for pattern in ("*.parquet", "*/*.parquet")
            for found in path.glob(pattern)
        )

    def __len__(self) -> int:
        return len(self.data)

    def rows(self, begin: int, end: int) -> Iterator[Row | BadRow]:
        """Yield the rows from `begin` to before `end`, in the order of the set."""
        end = min(end, len(self))
        for first in range(begin, end, _AT_ONCE):
            table = self.data[first : min(first + _AT_ONCE, end)]
            for number, values in enumerate(_values(table), first):
                part = bisect_right(self.ends, number)
                split, before = self.splits[part], self.ends[part - 1] if part else 0
                name = f"{split}[{number - before}]"
                try:
                    row: Row | BadRow = self.maker.row(name, values, split)
                except DataError as error:
                    row = BadRow(name, f"{name}: {error}")
                yield row

    def fingerprint(self, begin: int, end: int) -> str:
        """Return a hash of what `datasets` calls the fingerprint of the set, the fields and the range.

        Clips are not read for it.
        """
        made_of = [self.made_of, dataclasses.asdict(self.fields), begin, end]
        return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()


def _values(table: Any) -> list[dict[str, Any]]:
    """Return the rows of an Arrow table. A value that Python cannot hold is a text, or none."""
    try:
        rows: list[dict[str, Any]] = table.to_pylist()
    except (ValueError, OverflowError, NotImplementedError):
        return [
            {name: _value(table.column(name)[row]) for name in table.column_names}
            for row in range(table.num_rows)
        ]
    return rows


def _value(scalar: Any) -> Any:
    for read in (scalar.as_py, lambda: scalar.cast("string").as_py()):
        try:
            return read()
        except (ValueError, OverflowError, NotImplementedError):  # a date beyond the year 9999, no UTF-8
            continue
    return None


def _is_saved(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def _check_groups(local: Path) -> None:
    """Refuse parquet that would not be read in pieces: `datasets` holds one group of rows at a time."""
    from pyarrow import ArrowException
    from pyarrow.parquet import read_metadata

    files = sorted(local.rglob("*.parquet")) if local.is_dir() else [local]
    for file in files:
        if file.suffix.lower() != ".parquet" or not file.is_file():
            continue
        try:
            about = read_metadata(file)
        except (ArrowException, OSError):  # `datasets` says what is wrong with it
            continue
        largest = max((about.row_group(n).total_byte_size for n in range(about.num_row_groups)), default=0)
        if largest > MAX_GROUP:
            raise DataError(
                f"{file}: a group of its rows holds {largest:,} bytes, and at most {MAX_GROUP:,} are read at "
                "a time. Write it again with smaller groups: pyarrow.parquet.write_table(..., "
                "row_group_size=100)"
            )


def _loaded(path: str, config: HuggingFace.Config) -> Any:
    """Open the set at one split."""
    local = Path(path)
    if not local.exists() and not _HUB_ID.fullmatch(path):
        raise RequestError(f"{path}: no such file or folder, and not the name of a set on the Hub (org/name)")
    if local.exists() and config.revision is not None:
        raise RequestError(f"revision: is of a set on the Hub, but {path} is on this machine; leave it out")
    try:
        import datasets
        from datasets.exceptions import DatasetsError
    except ImportError:
        raise MissingExtraError("The layout 'hugging_face'", "datasets", "datasets") from None
    _check_groups(local)
    try:
        if local.is_file():
            if local.suffix.lower() not in _FILES:
                raise RequestError(f"{path}: a file is one of {listing(_FILES)}, not '{local.suffix}'")
            found = _load(datasets, _FILES[local.suffix.lower()], data_files=glob.escape(path))
        elif _is_saved(local):
            found = datasets.load_from_disk(path)
        elif local.exists() and glob.has_magic(path):  # which `datasets` would take for a pattern
            found = _load(datasets, "parquet", data_dir=glob.escape(path))
        else:
            return _split_of_hub(datasets, path, config)
    except RequestError:
        raise
    except (DatasetsError, OSError, ValueError, RuntimeError) as error:
        raise _failed(path, error) from error
    if config.subset is not None:
        raise RequestError(
            f"subset: {path} has none: only sets on the Hub, or cloned from it, do; leave it out"
        )
    return _split(path, found, config.split)


def _joined(path: str, parts: Sequence[Any]) -> Any:
    """Return the rows of splits one after the other."""
    if len(parts) == 1:
        return parts[0]
    from datasets import concatenate_datasets

    try:
        return concatenate_datasets(list(parts))
    except ValueError as error:
        raise RequestError(f"{path}: its splits are of different columns: {error}") from error


def _load(datasets: Any, path: str, **options: Any) -> Any:
    try:
        return datasets.load_dataset(path, **options)
    except datasets.exceptions.DatasetsError as error:
        if "BatchSize must be greater than 0" not in str(error.__cause__):
            raise
    # A parquet file without rows, by which `datasets` would measure how many to read at a time.
    return datasets.load_dataset(path, batch_size=_AT_ONCE, **options)


def _split_of_hub(datasets: Any, path: str, config: HuggingFace.Config) -> Any:
    """Open one split of a set without preparing the others."""
    options = {"name": config.subset, "revision": config.revision}
    split = config.split
    if split is None:
        names = datasets.get_dataset_split_names(path, config_name=config.subset, revision=config.revision)
        split = _chosen(path, names, None)
    return _load(datasets, path, split=split, **options)


def _split(path: str, found: Any, wanted: str | None) -> Any:
    if isinstance(found, dict):
        return found[_chosen(path, list(found), wanted)]
    if wanted is not None and wanted != str(found.split):
        raise RequestError(
            f"split: {path} holds one split only ({found.split}), not '{wanted}'; leave it out"
        )
    return found


def _chosen(path: str, names: list[str], wanted: str | None) -> str:
    if wanted is None and (len(names) == 1 or "train" in names):
        return "train" if "train" in names else names[0]
    if wanted in names:
        return wanted
    said = "choose one with split=NAME" if wanted is None else f"there is no split '{wanted}'"
    raise RequestError(f"{path}: {said}.{nearest(wanted or '', names)} Splits: {listing(names)}")


def _failed(path: str, error: Exception) -> RequestError | DataError:
    """Return what `datasets` said, as an error of ours: a request where nothing was found, else the data."""
    cause = error.__cause__ or error
    message = f"{path}: {' '.join(str(cause).split())}"
    if "corresponds to no data" in message:
        return RequestError(f"{path}: holds no rows")
    if isinstance(error, FileNotFoundError | ConnectionError | ValueError | RuntimeError):
        return RequestError(message)
    return DataError(message)

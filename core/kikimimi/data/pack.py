"""Packing: a manifest of audio files becomes shards of resampled FLAC with their indexes.

The same manifest and files always give the same bytes. Each shard holds a fixed range of the manifest's rows,
is written under another name until it is whole, and then gets a note of what it was made from: an interrupted
run goes on where it stopped. What is left out is counted in ``ledger.json``, with the reason.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kikimimi.data.audio import decode, encode_flac, is_silent, probe
from kikimimi.data.index import ShardIndex, build_index
from kikimimi.data.ledger import MISSING, NO_TEXT, UNDECODABLE, Dropped, PackedShard, PackReport, write_json
from kikimimi.data.manifest import ManifestRow, read_manifest
from kikimimi.errors import AudioError, DataError, RequestError
from kikimimi.progress import Progress

_VERSION = 1  # of how shards are made: part of the note, so that a newer version makes them again


def pack(
    manifest: Path,
    out: Path,
    *,
    sample_rate: int = 16_000,
    records_per_shard: int = 1000,
    prefix: str = "shard",
    progress: Progress | None = None,
) -> PackReport:
    """Pack the clips of a manifest into shards.

    Args:
        manifest: See `kikimimi.data.manifest.read_manifest`; columns beside path, text and language become
            the records' meta.
        out: Folder of the shards ``PREFIX-000000.tar`` and so on, and of ``ledger.json``.
        sample_rate: Of the packed audio [Hz].
        records_per_shard: Rows of the manifest for each shard.
        prefix: What the shards' names begin with.
        progress: Counts the rows, where given.

    Raises:
        RequestError: The manifest, the prefix or a number is wrong, or `out` has other shards of the prefix.
        DataError: The manifest is malformed, or none of its rows can be used.
    """
    if records_per_shard < 1 or sample_rate < 1:
        raise RequestError("records_per_shard and sample_rate must be at least 1")
    if not prefix or set(prefix) & set("/\\{}*?[] "):
        raise RequestError(f"prefix {prefix!r} must be a plain file name without wildcards, braces or spaces")
    rows = read_manifest(manifest)
    out.mkdir(parents=True, exist_ok=True)
    parts = [rows[begin : begin + records_per_shard] for begin in range(0, len(rows), records_per_shard)]
    names = [f"{prefix}-{number:06d}.tar" for number in range(len(parts))]
    if foreign := sorted({path.name for path in out.glob(f"{prefix}-*.tar")} - set(names)):
        raise RequestError(
            f"{out}: holds {foreign[0]}, which this manifest does not make (it makes {len(names)} shards). "
            "Remove it, or choose another folder or prefix"
        )
    shards = []
    kept = 0
    for name, part in zip(names, parts, strict=True):
        made_from = _fingerprint(part, manifest.parent, sample_rate)
        shard = _finished(out / name, made_from)
        if shard is None:
            shard = _Writer(out / name, manifest.parent, sample_rate, progress).write(part, made_from)
        else:
            kept += 1
            if progress is not None:
                progress.advance(len(part))
        shards.append(shard)
    first, last = names[0][len(prefix) + 1 : -4], names[-1][len(prefix) + 1 : -4]
    pattern = str(out / (names[0] if len(names) == 1 else f"{prefix}-{{{first}..{last}}}.tar"))
    report = PackReport(out, pattern, len(rows), shards, kept)
    report.write(manifest, sample_rate)
    if not report.records:
        raise DataError(
            f"{manifest}: none of its {len(rows)} rows can be used; {out / 'ledger.json'} says why"
        )
    return report


def _fingerprint(part: Sequence[ManifestRow], folder: Path, sample_rate: int) -> str:
    digest = hashlib.sha256(f"{_VERSION} {sample_rate}\n".encode())
    for row in part:
        path = folder / row.path
        stat = path.stat() if path.is_file() else None
        state = [stat.st_size, stat.st_mtime_ns] if stat else None
        digest.update(json.dumps([asdict(row), state], ensure_ascii=False, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def _note(shard: Path) -> Path:
    return shard.with_name(f"{shard.name}.pack.json")


def _finished(shard: Path, made_from: str) -> PackedShard | None:
    """Return the note of a shard that is whole and was made from the same, or None."""
    try:
        data = json.loads(_note(shard).read_text(encoding="utf-8"))
        packed = PackedShard(**{**data, "dropped": [Dropped(**drop) for drop in data["dropped"]]})
        whole = packed.made_from == made_from and len(ShardIndex.load(shard)) == packed.records
    except (OSError, ValueError, TypeError, KeyError, DataError):  # not there, or of another version
        return None
    return packed if whole else None


class _Writer:
    def __init__(self, shard: Path, folder: Path, sample_rate: int, progress: Progress | None) -> None:
        self.shard, self.folder, self.sample_rate, self.progress = shard, folder, sample_rate, progress
        self.dropped: list[Dropped] = []
        self.records, self.samples, self.silent = 0, 0, 0

    def write(self, part: Sequence[ManifestRow], made_from: str) -> PackedShard:
        from webdataset.writer import TarWriter

        unfinished = self.shard.with_name(f"{self.shard.name}.{os.getpid()}.tmp")
        try:
            # Fixed time and owner: the same input gives the same bytes.
            with (
                unfinished.open("wb") as file,
                TarWriter(file, user="kikimimi", group="kikimimi", mtime=0, encoder=False) as tar,
            ):
                for row in part:
                    members = self._members(row)
                    if members is not None:
                        tar.write({"__key__": f"{row.number:09d}", **members})
                    if self.progress is not None:
                        self.progress.advance()
            # The old note goes first: an interruption from here on leaves a shard without one, made again.
            _note(self.shard).unlink(missing_ok=True)
            unfinished.replace(self.shard)
        finally:
            unfinished.unlink(missing_ok=True)
        build_index(self.shard)
        seconds = round(self.samples / self.sample_rate, 3)
        packed = PackedShard(self.shard.name, made_from, self.records, seconds, self.silent, self.dropped)
        write_json(_note(self.shard), asdict(packed))
        return packed

    def _members(self, row: ManifestRow) -> dict[str, bytes] | None:
        path = self.folder / row.path
        if not path.is_file():
            self._drop(row, MISSING, f"{row.path}: no such file")
            return None
        if not row.text.strip():
            self._drop(row, NO_TEXT, f"{row.path}: has no transcript", path)
            return None
        try:
            samples = decode(path, sample_rate=self.sample_rate, name=row.path)
        except AudioError as error:
            self._drop(row, UNDECODABLE, str(error), path)
            return None
        self.records += 1
        self.samples += len(samples)
        self.silent += is_silent(samples)
        data: dict[str, Any] = {"text": row.text, "language": row.language, "meta": row.meta}
        return {
            "json": json.dumps(data, ensure_ascii=False).encode("utf-8"),
            "0.flac": encode_flac(samples, self.sample_rate),
        }

    def _drop(self, row: ManifestRow, reason: str, detail: str, path: Path | None = None) -> None:
        seconds = None if path is None else _length(path)
        self.dropped.append(Dropped(row.number, row.path, reason, detail, seconds))


def _length(path: Path) -> float | None:
    try:
        return round(probe(path, path.name)[0], 3)
    except AudioError:
        return None

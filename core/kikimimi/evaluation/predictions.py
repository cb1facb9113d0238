"""What systems said to the records of an evaluation, kept so that nothing is recognised twice."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kikimimi.data.corpus import Corpus
from kikimimi.files.writing import add_lines, whole_file


class Predictions:
    """What a system said, one JSON line per record, appended as it goes so that nothing is done twice.

    Args:
        path: The file.
        identity: What the predictions depend on; a file of another identity is begun anew.
        begin: Whether to write the file; otherwise what is there is only read.
    """

    def __init__(self, path: Path, identity: str, *, begin: bool = True) -> None:
        self.path = path
        self.texts: dict[str, str] = {}
        self.seconds = 0.0
        lines = _read_lines(path)
        if lines and lines[0].get("identity") == identity:
            for line in lines[1:]:
                self.texts[line["key"]] = line["prediction"]
                self.seconds += line["seconds"]
        self._lines = lines if self.texts else [{"identity": identity}]
        if begin:
            self._write()  # also drops a last line that a kill cut short

    def copy(self, other: Predictions) -> None:
        """Take over the predictions of another file, where this one has none yet."""
        if other.texts and not self.texts:
            self.texts, self.seconds, self._lines = dict(other.texts), other.seconds, other._lines
            self._write()

    def _write(self) -> None:
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in self._lines)
        with whole_file(self.path) as unfinished:
            unfinished.write_text(text, encoding="utf-8")

    def add(
        self, keys: Iterable[str], texts: Iterable[str], references: Iterable[str], seconds: float
    ) -> None:
        """Append the predictions of a batch that took `seconds` of computing."""
        entries = list(zip(keys, texts, references, strict=True))
        lines = [
            {"key": key, "reference": reference, "prediction": text, "seconds": seconds / len(entries)}
            for key, text, reference in entries
        ]
        add_lines(self.path, (json.dumps(line, ensure_ascii=False) for line in lines))
        self.texts.update((key, text) for key, text, _ in entries)
        self.seconds += seconds


def read_predictions(path: Path) -> dict[str, dict[str, Any]]:
    """Return the lines of a predictions file by key."""
    return {line["key"]: line for line in _read_lines(path)[1:]}


def _read_lines(path: Path) -> list[dict[str, Any]]:
    lines = []
    # Bytes: a kill may cut a character in two, and a prediction may hold characters that end a line of text.
    for line in path.read_bytes().split(b"\n") if path.is_file() else []:
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines


def row_keys(corpus: Corpus) -> list[str]:
    """Return what predictions call each row: its key, which a second shard's row of the same key extends."""
    seen: Counter[str] = Counter()
    keys = []
    for row in range(len(corpus.shards)):
        key = corpus.shards.key(row)
        seen[key] += 1
        keys.append(key if seen[key] == 1 else f"{key} ({seen[key]})")
    return keys

"""What systems said to the records of an evaluation, kept so that nothing is recognised twice."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, cast

from typing_extensions import TypedDict

from kikimimi.console.terminal import json_text, say
from kikimimi.console.words import counted
from kikimimi.contracts.answer import Answer
from kikimimi.files.reading import damaged, file_there, read_json_lines
from kikimimi.files.writing import add_lines, whole_file, writing

if TYPE_CHECKING:
    from kikimimi.data.corpus import Corpus

_AGAIN = "Delete it: 'kikimimi evaluate' makes it again"
_NO_HEADING = "it does not say what the predictions depend on"
Identity = str | dict[str, Any]
"""What predictions depend on, by name: weights, data, task, and of a model how it generates and computes; not
how they are scored. In earlier versions a text, which told weights and data alone."""


class _Heading(TypedDict):
    identity: Identity


class PredictionLine(TypedDict):
    """A line of a predictions file, after the first, which says what all of them depend on.

    Attributes:
        key: The record's key.
        reference: What is right.
        prediction: What the system wrote, thoughts included.
        seconds: Share of the time that its batch took [s].
        cut: Whether it ended because no more tokens were allowed; absent where that is not known.
    """

    key: str
    reference: str
    prediction: str
    seconds: float
    cut: NotRequired[bool]


_Lines = list[_Heading | PredictionLine]


class Predictions:
    """What a system said, one JSON line per record, appended as it goes so that nothing is done twice.

    A damaged line is left out, with a word: its record is answered again. What the same weights said where it
    was generated otherwise is put aside under another name, and comes back when it is asked for.

    Args:
        path: The file.
        identity: What the predictions depend on; a file of other weights is begun anew.
        keys: What predictions call the rows, see `row_keys`: what is there of others is left out, with a
            word. None takes all.
        begin: Whether to write the file; otherwise what is there is only read.
    """

    def __init__(
        self, path: Path, identity: Identity, keys: Collection[str] | None = None, *, begin: bool = True
    ) -> None:
        self.path = path
        self.identity = identity
        self.texts: dict[str, Answer] = {}
        self.seconds = 0.0
        wrong: list[str] = []
        if begin:
            _exchange(path, self.identity)
        lines = _read_lines(path, wrong)
        if wrong:
            count = counted(len(wrong), "damaged line")
            say(f"{path}: {count} left out, and answered again: {wrong[0]}", error=True)
        elif lines and "identity" not in lines[0]:
            say(f"{path}: {_NO_HEADING}: the records are answered again", error=True)
        held = {line["key"]: line for line in _predictions(lines)} if _identity(lines) == identity else {}
        strange = set() if keys is None else held.keys() - set(keys)
        if strange:
            count = counted(len(strange), "line")
            say(f"{path}: {count} left out: the data has no record {min(strange)!r}", error=True)
        self._lines: _Lines = [{"identity": identity}]
        for key, line in held.items():
            if key not in strange:
                self.texts[key] = Answer(line["prediction"], cut=line.get("cut"))
                self.seconds += line["seconds"]
                self._lines.append(line)
        if begin:
            self._write()  # also drops a last line that a kill cut short

    def copy(self, other: Predictions) -> None:
        """Take over the predictions of another file, where this one has none yet."""
        if other.texts and not self.texts:
            self.texts, self.seconds, self._lines = dict(other.texts), other.seconds, other._lines
            self._write()

    def _write(self) -> None:
        text = "".join(json_text(line) + "\n" for line in self._lines)
        with whole_file(self.path) as unfinished:
            unfinished.write_text(text, encoding="utf-8")

    def add(
        self, keys: Iterable[str], texts: Iterable[str], references: Iterable[str], seconds: float
    ) -> None:
        """Append the predictions of a batch that took `seconds` of computing."""
        answers = [text if isinstance(text, Answer) else Answer(text) for text in texts]
        entries = list(zip(keys, answers, references, strict=True))
        lines = [
            {
                "key": key,
                "reference": reference,
                "prediction": answer,
                "seconds": seconds / len(entries),
                **({} if answer.cut is None else {"cut": answer.cut}),
            }
            for key, answer, reference in entries
        ]
        add_lines(self.path, [json_text(line) for line in lines])
        self.texts.update((key, answer) for key, answer, _ in entries)
        self.seconds += seconds


def read_predictions(path: Path) -> dict[str, PredictionLine]:
    """Return the lines of a predictions file by key; a last line cut short by a kill is left out.

    Raises:
        DamagedError: Another line is damaged.
    """
    lines = _read_lines(path, None)
    if lines and "identity" not in lines[0]:
        raise damaged(path, f"line 1: {_NO_HEADING}", _AGAIN)
    return {line["key"]: line for line in _predictions(lines)}


def held_identity(path: Path) -> Identity:
    """Return what the predictions of a file depend on; empty where there is none."""
    return _identity(_read_lines(path, []))


def _identity(lines: _Lines) -> Identity:
    return cast(_Heading, lines[0])["identity"] if lines and "identity" in lines[0] else ""


def _exchange(path: Path, identity: Identity) -> None:
    """Put predictions aside that were generated otherwise, and take up those that are asked for."""
    held = held_identity(path)
    if held == identity:
        return
    if isinstance(held, dict) and isinstance(identity, dict) and held.get("weights") == identity["weights"]:
        _move(path, _aside(path, held))
    if file_there(wanted := _aside(path, identity), _AGAIN):
        _move(wanted, path)


def _move(old: Path, new: Path) -> None:
    with writing(new):
        old.replace(new)


def _aside(path: Path, identity: Identity) -> Path:
    # No system's name holds a tilde.
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return path.with_name(f"{path.name.removesuffix('.jsonl')}~{digest[:12]}.jsonl")


def _read_lines(path: Path, wrong: list[str] | None) -> _Lines:
    kind = cast(type[Any], _Heading | PredictionLine)
    lines: _Lines = read_json_lines(path, kind, remedy=_AGAIN, damaged_lines=wrong)
    return lines


def _predictions(lines: _Lines) -> list[PredictionLine]:
    return [cast(PredictionLine, line) for line in lines[1:] if "key" in line]


def row_keys(corpus: Corpus) -> list[str]:
    """Return what predictions call each row: its key, which a second shard's row of the same key extends."""
    seen: Counter[str] = Counter()
    keys = []
    for row in range(len(corpus.shards)):
        key = corpus.shards.key(row)
        seen[key] += 1
        keys.append(key if seen[key] == 1 else f"{key} ({seen[key]})")
    return keys

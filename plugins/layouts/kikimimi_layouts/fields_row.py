"""One row of a data set becomes a row of a layout, as its fields say."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np

from kikimimi import Row, encode_audio
from kikimimi_layouts.fields_schema import Fields, Messages, Part, Turn, column_of

Clip = bytes | Path


class FieldsRow:
    """Makes rows. What a row lacks stays visible in its record, so that it is counted as malformed.

    Args:
        fields: Which columns are what.
        folder: Where paths of clips begin; None where clips are bytes or paths from the root.
    """

    def __init__(self, fields: Fields, folder: Path | None = None) -> None:
        self.fields, self.folder = fields, folder

    def row(self, name: str, values: dict[str, Any]) -> Row:
        """Make the row of these values.

        Args:
            name: What messages call it.
            values: Column to value, as Arrow gives it.
        """
        fields = self.fields
        meta = {key: _plain(_constant(value, values)) for key, value in fields.meta.items()}
        meta = {key: value for key, value in meta.items() if value is not None}
        language, license_name = _constant(fields.language, values), _constant(fields.license, values)
        if license_name is not None:
            meta["license"] = license_name
        clips: list[Clip] = []
        if fields.audio is not None and fields.text is not None:
            clip = self._clip(values[fields.audio])
            text = values[fields.text]
            labelled = {"text": "" if text is None else text, "language": language, "meta": meta}
            return Row(name, labelled, () if clip is None else (clip,))
        if language is not None:
            meta["language"] = language
        turns = (
            self._turns(values, clips)
            if fields.messages is None
            else self._messages(fields.messages, values, clips)
        )
        record: dict[str, Any] = {"messages": turns}
        for key in ("chosen", "rejected"):
            if (column := getattr(fields, key)) is not None:
                record[key] = "" if values[column] is None else values[column]
        return Row(name, {**record, "meta": meta}, tuple(clips))

    def _turns(self, values: dict[str, Any], clips: list[Clip]) -> list[dict[str, Any]]:
        turns: list[dict[str, Any]] = []
        for turn in self.fields.turns:
            if turn.if_null != "error" and any(self._is_null(part, values) for part in turn.parts):
                if turn.if_null == "end":
                    break
                continue
            turns.append({"role": turn.role, "content": self._parts(turn, values, clips)})
        return turns

    def _is_null(self, part: Part, values: dict[str, Any]) -> bool:
        if part.audio is not None:
            return self._clip(values[part.audio]) is None
        return part.text is not None and values[part.text] is None

    def _parts(self, turn: Turn, values: dict[str, Any], clips: list[Clip]) -> list[dict[str, Any]]:
        parts: list[dict[str, Any]] = []
        for part in turn.parts:
            if part.audio is not None:
                said = None if part.transcript is None else values[part.transcript]
                parts.append(_audio(self._clip(values[part.audio]), said, clips))
            else:
                text = part.fixed if part.text is None else values[part.text]
                parts.append({"type": "text", "text": text})
        return parts

    def _messages(
        self, messages: Messages, values: dict[str, Any], clips: list[Clip]
    ) -> list[dict[str, Any]]:
        turns: list[dict[str, Any]] = []
        if messages.system is not None:
            turns.append({"role": "system", "content": messages.system})
        for turn in values[messages.column] or ():
            role, content = turn.get(messages.role), []
            clip = None if messages.audio is None else self._clip(turn.get(messages.audio))
            text = None if messages.text is None else turn.get(messages.text)
            if clip is not None:
                said = None if messages.transcript is None else turn.get(messages.transcript)
                content.append(_audio(clip, said, clips))
            if text is not None and (clip is None or messages.text != messages.transcript):
                content.append({"type": "text", "text": text})
            turns.append({"role": messages.roles.get(role, role), "content": content})
        return turns

    def _clip(self, value: Any) -> Clip | None:
        """Return a clip from any of the forms in which Arrow holds audio."""
        if isinstance(value, dict):
            if value.get("bytes"):
                return bytes(value["bytes"])
            if value.get("array") is not None:
                return _wav(value["array"], value.get("sampling_rate"))
            value = value.get("path")
        if isinstance(value, bytes):
            return value or None
        if isinstance(value, str) and value:
            return Path(value) if self.folder is None else self.folder / value
        return None


def _constant(value: Any, values: dict[str, Any]) -> Any:
    column = column_of(value)
    return value if column is None else values[column]


def _plain(value: Any) -> Any:
    """Return a value as JSON holds it: moments as texts."""
    return value.isoformat() if isinstance(value, datetime.date | datetime.time) else value


def _audio(clip: Clip | None, said: Any, clips: list[Clip]) -> dict[str, Any]:
    part: dict[str, Any] = {"type": "audio", "audio": None if clip is None else str(len(clips))}
    if clip is not None:
        clips.append(clip)
    return part if said is None else {**part, "text": said}


def _wav(samples: Any, rate: Any) -> bytes | None:
    """Return samples that were stored as numbers as a WAV file of 32-bit floats."""
    if not isinstance(rate, int) or not len(samples):
        return None
    return encode_audio(np.asarray(samples, dtype=np.float32), rate, kind="WAV", subtype="FLOAT")

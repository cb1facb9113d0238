"""Manifests of NeMo: a line of JSON for each utterance."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kikimimi import Clip, DataError, ExampleCorpus, Text, as_on_disk
from kikimimi_layouts.conversations import holds_conversation
from kikimimi_layouts.json_files import record_layout
from kikimimi_layouts.manifest import Manifest
from kikimimi_layouts.table import Cells

_MAX_TEXT = 1_000_000  # bytes of a text_filepath
_NOTHING = ("na", "n/a", "-", "")  # what Canary's manifests write where there is no answer


class NeMo(Manifest):
    """A manifest of NeMo: JSON Lines (``.json``, ``.jsonl``, ``.gz``) with ``audio_filepath`` and ``text``.

    ``offset`` and ``duration`` [s] are cut. ``text`` may stand in ``normalized_text``, or in a file
    (``text_filepath``); ``lang`` or ``source_lang`` is the language. Where ``target_lang`` is another one,
    ``answer``, or else ``text``, is a translation: ``meta.translation``. ``context`` or ``question`` with
    ``answer`` are ``meta.question`` and ``meta.answer``. All else is kept in ``meta``. Paths are relative to
    the manifest. What lies in tars (``shard_id``) is not read, and what ``_skipme`` marks is left out.
    https://docs.nvidia.com/nemo/speech/latest/asr/datasets.html
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(Manifest.Config):
        """Options of the layout `nemo`."""

        path: Text = "audio_filepath"
        """Name of the field with the audio files: relative to the manifest, or absolute."""

    @classmethod
    def example(cls) -> ExampleCorpus:
        """Return two parts of one file."""
        rows = [
            {"audio_filepath": "a.wav", "offset": offset, "duration": 0.2, "text": text}
            for offset, text in ((0.0, "yes"), (0.2, "no"))
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        return ExampleCorpus({"manifest.json": lines, "a.wav": None}, "manifest.json")

    @classmethod
    def matches(cls, path: Path) -> bool:
        """Tell whether its first line has ``audio_filepath`` or ``audio_filename``."""
        return path.is_file() and record_layout(path) == "nemo"

    def _read(self, where: str, fields: Cells) -> tuple[dict[str, Any], list[tuple[str, Clip]]]:
        fields = dict(fields)
        if holds_conversation(fields):
            return self._conversation(where, fields)
        if fields.pop("_skipme", None):
            raise DataError(f"{where}: _skipme: marks it as one to pass over")
        if "shard_id" in fields:
            raise DataError(
                f"{where}: shard_id: its clip lies in audio_{fields['shard_id']}.tar, and tars of NeMo are "
                "not read: give the manifest of which they were made"
            )
        if "audio_filename" in fields:
            fields.setdefault(self.config.path, fields.pop("audio_filename"))
        path = fields.get(self.config.path)
        if isinstance(path, str) and path.startswith("~"):
            fields[self.config.path] = os.path.expanduser(path)
        self._name_language(fields)
        self._label(where, fields)
        return self._labelled_clip(where, fields)

    def _name_language(self, fields: Cells) -> None:
        for name in ("lang", "source_lang"):
            if isinstance(said := fields.get(name), str):
                fields.pop(name)
                fields.setdefault(self.config.language_column, said)
        column = self.config.language_column
        if isinstance(said := fields.get(column), str):
            fields[column] = said.replace("_", "-")

    def _label(self, where: str, fields: Cells) -> None:
        """Name what stands beside the transcript as tasks know it."""
        text = self._text(where, fields)
        answer = fields.pop("answer", None)
        answer = None if isinstance(answer, str) and answer.lower() in _NOTHING else answer
        if self._is_translated(fields):
            target = fields["target_lang"].replace("_", "-")
            fields["translation"] = {target: text if answer is None else answer}
            fields[self.config.text] = None if answer is None else text or None
            return
        question = fields.pop("context", None) or fields.pop("question", None)
        if question is not None and answer is not None:
            fields |= {"question": question, "answer": answer, self.config.text: text or None}
            return
        fields[self.config.text] = answer if text is None else text
        if question is not None:
            fields["question"] = question

    def _is_translated(self, fields: Cells) -> bool:
        source, target = fields.get(self.config.language_column), fields.get("target_lang")
        if not (isinstance(source, str) and isinstance(target, str)):
            return False
        return source.split("-")[0] != target.replace("_", "-").split("-")[0]

    def _text(self, where: str, fields: Cells) -> Any:
        if (text := fields.pop(self.config.text, None)) is not None:
            return text
        if isinstance(name := fields.pop("text_filepath", None), str):
            return self._text_of(where, name)
        return fields.get("normalized_text")

    def _text_of(self, where: str, name: str) -> str:
        path = as_on_disk(self.folder / os.path.expanduser(name))
        if not os.path.isfile(path):
            raise DataError(f"{where}: text_filepath: no such file: {path}")
        try:
            with path.open("rb") as file:
                content = file.read(_MAX_TEXT + 1)
            if len(content) > _MAX_TEXT:
                raise DataError(f"{where}: text_filepath: {name} has more than {_MAX_TEXT:,} bytes")
            return content.decode("utf-8-sig").replace("\r", "").replace("\n", "")
        except (OSError, ValueError) as error:
            raise DataError(f"{where}: text_filepath: {name} cannot be read: {error}") from error

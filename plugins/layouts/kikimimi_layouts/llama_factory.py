"""Data folders of LLaMA-Factory: `dataset_info.json` says what each file holds."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kikimimi import ExampleCorpus, LayoutConfig, RequestError, Row, Text, as_on_disk, listing, nearest
from kikimimi_layouts.conversations import MARK, ConversationReader, row_name
from kikimimi_layouts.table import Cells, Table, TableLayout

_INFO = "dataset_info.json"
_MAX_INFO = 1 << 24  # bytes
_PLACES = ("file_name", "hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name")
_ALPACA = {"prompt": "instruction", "query": "input", "response": "output"}
_STANDARD = {**_ALPACA, "messages": "messages"}  # what the reader of conversations calls them
_ANSWERS = ("chosen", "rejected")
_TAGS = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "system_tag": "system",
}
_OPENAI_TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
}


class LlamaFactory(TableLayout):
    """The folder with LLaMA-Factory's ``dataset_info.json``; ``dataset`` names one of its data sets.

    Formats ``alpaca``, ``sharegpt`` and ``openai``, with ``columns`` and ``tags``, and ``ranking`` for
    preference pairs. The file (JSON, JSON Lines or CSV) and its clips (``audios``) are named relative to the
    folder; every mark ``<audio>`` takes one clip. All rows are read, whatever ``num_samples`` says. Columns
    that it does not name are kept in ``meta``. A file of that kind alone is read by the layout `manifest`.
    https://github.com/hiyouga/LLaMA-Factory/tree/main/data
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(LayoutConfig):
        """Options of the layout `llama_factory`."""

        dataset: Text | None = None
        """Name of the data set; null takes the only one whose file is in the folder."""
        mark: Text = MARK
        """What stands for a clip in the texts."""
        language: Text | None = None
        """Language of every row (ISO 639-1 code)."""
        license: Text | None = None
        """Licence of every row (SPDX name)."""

    config: Config

    def __init__(self, path: str, config: Any) -> None:
        super().__init__(path, config)
        folder = Path(path)
        name, self.info = _chosen(folder, config.dataset)
        self.place = f"{folder / _INFO}: {name}"
        self.columns = self._columns()
        self.tags = {**_TAGS, **(_OPENAI_TAGS if self._format() == "openai" else {}), **self._section("tags")}
        self.reader = ConversationReader(folder, config.mark)
        file = as_on_disk(folder / self.info["file_name"])
        self.table = Table(file, texts=tuple(self.columns.values()), check=self.row)

    @classmethod
    def example(cls) -> ExampleCorpus:
        """Return a data set with two questions about clips."""
        asked = {"role": "user", "content": "<audio>What is it?"}
        rows = [
            {"messages": [asked, {"role": "assistant", "content": said}], "audios": [name]}
            for name, said in (("a.wav", "a tone"), ("b.wav", "a bird"))
        ]
        about = {
            "file_name": "t.json",
            "formatting": "openai",
            "columns": {"messages": "messages", "audios": "audios"},
        }
        files = {_INFO: json.dumps({"asked": about}), "t.json": json.dumps(rows)}
        return ExampleCorpus({**files, "a.wav": None, "b.wav": None})

    @classmethod
    def matches(cls, path: Path) -> bool:
        """Tell whether ``dataset_info.json`` is of LLaMA-Factory (`datasets` has one of that name, too)."""
        return path.is_dir() and bool(data_sets(path))

    def row(self, where: str, fields: Cells) -> Row:
        """Make a row of a conversation."""
        standard = {
            what: fields.pop(column)
            for what, column in self.columns.items()
            if fields.get(column) is not None
        }
        if isinstance(turns := standard.get("messages"), list):
            standard["messages"] = [self._turn(turn) for turn in turns]
        for name in _ANSWERS:
            if isinstance(turn := standard.get(name), dict):
                standard[name] = self._turn(turn)
        rest = {**{name: value for name, value in fields.items() if name not in standard}, **standard}
        record, clips = self.reader.read(where, rest)
        about = {"language": self.config.language, "license": self.config.license}
        record["meta"] = {**rest, **{name: value for name, value in about.items() if value is not None}}
        return Row(row_name(where, clips), record, tuple(clip for _, clip in clips))

    def _format(self) -> str:
        said: str = self.info.get("formatting", "alpaca")
        if said not in (formats := ("alpaca", "sharegpt", "openai")):
            raise RequestError(f"{self.place}: formatting: {said!r} is not one of {listing(formats)}")
        return said

    def _columns(self) -> dict[str, str]:
        """Return the columns by what the reader of conversations calls what is in them."""
        is_alpaca = self._format() == "alpaca"
        turns = _ALPACA if is_alpaca else {"messages": "conversations"}
        columns = {**({} if is_alpaca and "columns" in self.info else turns), **self._section("columns")}
        if not self.info.get("ranking"):
            columns = {what: column for what, column in columns.items() if what not in _ANSWERS}
        return {_STANDARD.get(what, what): column for what, column in columns.items()}

    def _section(self, name: str) -> dict[str, str]:
        section = self.info.get(name) or {}
        if not isinstance(section, dict) or not all(isinstance(value, str) for value in section.values()):
            raise RequestError(f"{self.place}: {name}: expected names, not {section!r}")
        return section

    def _turn(self, turn: Any) -> Any:
        """Give a turn the usual names."""
        if not isinstance(turn, dict) or self.tags["role_tag"] not in turn:
            return turn
        role, content = self.tags["role_tag"], self.tags["content_tag"]
        roles = {self.tags[f"{name}_tag"]: name for name in ("user", "assistant", "system")}
        said = {name: value for name, value in turn.items() if name not in (role, content)}
        who = turn[role]
        return {
            **said,
            "role": roles.get(who, who) if isinstance(who, str) else who,
            "content": turn.get(content),
        }


def data_sets(folder: Path) -> dict[str, dict[str, Any]]:
    """Return what LLaMA-Factory's ``dataset_info.json`` in a folder says; nothing where there is none."""
    path = folder / _INFO
    try:
        if path.stat().st_size > _MAX_INFO:
            return {}
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return {}
    is_one = isinstance(found, dict) and all(
        isinstance(about, dict) and any(isinstance(about.get(place), str) for place in _PLACES)
        for about in found.values()
    )
    return found if is_one else {}


def _chosen(folder: Path, wanted: str | None) -> tuple[str, dict[str, Any]]:
    found = data_sets(folder)
    if not found:
        raise RequestError(f"{folder}: holds no {_INFO} that says which files are data sets (file_name)")
    named = {name: about["file_name"] for name, about in found.items() if "file_name" in about}
    here = [
        name
        for name, file in named.items()
        if isinstance(file, str) and os.path.isfile(as_on_disk(folder / file))
    ]
    if wanted is None and len(here) == 1:
        wanted = here[0]
    if wanted not in found:
        said = "choose one with dataset=NAME" if wanted is None else f"there is no data set '{wanted}'"
        raise RequestError(
            f"{folder / _INFO}: {said}.{nearest(wanted or '', found)} Data sets: {listing(found)}"
        )
    if not isinstance(named.get(wanted), str):
        raise RequestError(
            f"{folder / _INFO}: {wanted} is on a hub, not in the folder: read it with --layout hugging_face"
        )
    return wanted, found[wanted]

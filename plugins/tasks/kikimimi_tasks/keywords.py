"""Keyword extraction as a task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kikimimi_tasks.list_answers import ListConfig, ListTask


@dataclass(kw_only=True, frozen=True)
class KeywordsConfig(ListConfig):
    """Options of the task `keywords`."""

    bank_name: ClassVar[str] = "keywords"


class Keywords(ListTask[KeywordsConfig]):
    """Asks for the keywords of what is said: ``keywords``, a list or one text."""

    name = "keywords"
    field = "keywords"
    what = "the keywords"
    Config = KeywordsConfig

"""Speaker recognition as a task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kikimimi_tasks.list_answers import ListConfig, ListTask


@dataclass(kw_only=True, frozen=True)
class SpeakersConfig(ListConfig):
    """Options of the task `speakers`."""

    bank_name: ClassVar[str] = "speakers"


class Speakers(ListTask[SpeakersConfig]):
    """Asks who speaks: ``speakers``, a list of names or descriptions, one text, or their number."""

    name = "speakers"
    field = "speakers"
    what = "the speakers"
    Config = SpeakersConfig

"""Audio event detection as a task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kikimimi_tasks.labelled_clip import LabelledClip
from kikimimi_tasks.list_answers import ListConfig, ListTask


@dataclass(kw_only=True, frozen=True)
class AudioEventsConfig(ListConfig):
    """Options of the task `audio_events`."""

    bank_name: ClassVar[str] = "audio_events"


class AudioEvents(ListTask[AudioEventsConfig]):
    """Asks which sounds follow each other: ``events``, a list in order, or one text."""

    name = "audio_events"
    field = "events"
    what = "the sound events"
    Config = AudioEventsConfig

    def said(self, clip: LabelledClip) -> str | None:
        """Return None: what sounds here need not be speech."""
        return None

"""Titles of music as a task."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import ClassVar

from kikimimi_tasks.banks import BankConfig, BankTask
from kikimimi_tasks.labelled_clip import LabelledClip


@dataclass(kw_only=True, frozen=True)
class MusicTitleConfig(BankConfig):
    """Options of the task `music_title`."""

    bank_name: ClassVar[str] = "music_title"


class MusicTitle(BankTask[MusicTitleConfig]):
    """Asks for a title of a piece of music: ``title``."""

    name = "music_title"
    Config = MusicTitleConfig

    def answer(self, clip: LabelledClip, rng: Random | None) -> str:
        """Return the title."""
        return clip.text("title", what="the title of the music")

    def said(self, clip: LabelledClip) -> str | None:
        """Return None: what sounds here need not be speech."""
        return None

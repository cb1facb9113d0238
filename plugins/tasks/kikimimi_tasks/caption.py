"""Audio captioning as a task."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import ClassVar

from kikimimi_tasks.banks import BankConfig, BankTask
from kikimimi_tasks.labelled_clip import LabelledClip


def caption(clip: LabelledClip, rng: Random | None) -> str:
    """Return one of a record's captions; without `rng` the first.

    Raises:
        ValueError: It has none.
    """
    captions = clip.texts("captions", "caption", "text", what="a caption")
    return captions[0] if rng is None else rng.choice(captions)


@dataclass(kw_only=True, frozen=True)
class CaptionConfig(BankConfig):
    """Options of the task `caption`."""

    bank_name: ClassVar[str] = "caption"


class Caption(BankTask[CaptionConfig]):
    """Asks what there is to hear: ``captions``, a list of which one is drawn, or ``caption``, or ``text``."""

    name = "caption"
    Config = CaptionConfig

    def answer(self, clip: LabelledClip, rng: Random | None) -> str:
        """Return a caption."""
        return caption(clip, rng)

    def said(self, clip: LabelledClip) -> str | None:
        """Return None: a caption is not what is said."""
        return None

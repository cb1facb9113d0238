"""Hierarchical tags in place of a request, as Qwen-Audio's pre-training has them (arXiv 2311.07919).

A sequence such as ``<|startoftranscript|><|en|><|transcribe|><|en|><|notimestamps|><|wo_itn|>`` says what is
wanted. The spelling is that of Qwen-Audio's tokenizer; here tags are spelled in ordinary tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Literal

from kikimimi import check_choice
from kikimimi_tasks.clip_task import ClipTask, ClipTaskConfig
from kikimimi_tasks.documents import TimedText, read_segments
from kikimimi_tasks.labelled_clip import LabelledClip
from kikimimi_tasks.labels import caption
from kikimimi_tasks.translate import language_names, translation

SEPARATOR = ", "
"""What stands between the items of an answer that is a list."""

TagKind = Literal[
    "transcribe",
    "translate",
    "caption",
    "keyword",
    "emotion_recognition",
    "event",
    "speaker_meta",
    "song_meta",
]

_Answer = Callable[[LabelledClip, Random | None], str]
_ANSWERS: dict[TagKind, _Answer] = {
    "transcribe": lambda clip, rng: clip.text("text", what="the transcript"),
    "caption": caption,
    "keyword": lambda clip, rng: SEPARATOR.join(clip.texts("keywords", what="the keywords")),
    "emotion_recognition": lambda clip, rng: clip.text("emotion", what="the speaker's emotion"),
    "event": lambda clip, rng: SEPARATOR.join(clip.texts("events", what="the sound events")),
    "speaker_meta": lambda clip, rng: SEPARATOR.join(clip.texts("speakers", what="the speakers")),
    "song_meta": lambda clip, rng: clip.text("title", what="the title of the music"),
}
OF_SOUND = ("caption", "event", "song_meta")
"""Kinds whose clip need not be speech: its language is unknown."""


@dataclass(kw_only=True, frozen=True)
class TagsConfig(ClipTaskConfig):
    """Options of the task `tags`."""

    kind: TagKind = "transcribe"
    """What is wanted; also the tag that says so. It decides which field of the record is the answer: text,
    translation, captions (or caption), keywords, emotion, events, speakers or title."""
    target: str | None = None
    """ISO 639 code of the answer's language; null takes the record's."""
    timestamps: bool = False
    """The transcript says when each of the record's ``segments`` begins and ends."""
    itn: bool | None = False
    """Whether numbers are written in figures (inverse text normalisation); null leaves the tag out."""

    def __post_init__(self) -> None:
        if self.kind == "translate" and self.target is None:
            raise ValueError("target: must be given where kind is 'translate'")
        if self.target is not None:
            check_choice("target", self.target, language_names()["en"])
        if self.timestamps and self.kind != "transcribe":
            raise ValueError(
                "timestamps: only a transcript has them: leave it out, or set kind to transcribe"
            )
        super().__post_init__()


class Tags(ClipTask[TagsConfig]):
    """Asks by a sequence of tags: start, spoken language, kind, language of the answer, timestamps, form."""

    name = "tags"
    Config = TagsConfig

    def request(self, language: str | None, clip: LabelledClip | None, rng: Random | None) -> str | None:
        """Return the tags."""
        config = self.config
        written = config.target or language
        if written is None:
            raise ValueError(
                "language: the record has none; give it there, or set option 'target' of task 'tags'"
            )
        start = "startoftranscript" if config.kind in ("transcribe", "translate") else "startofanalysis"
        spoken = "unknown" if language is None or config.kind in OF_SOUND else language
        tags = [start, spoken, config.kind, written, "timestamps" if config.timestamps else "notimestamps"]
        if config.itn is not None:
            tags.append("itn" if config.itn else "wo_itn")
        return "".join(f"<|{tag}|>" for tag in tags)

    def answer(self, clip: LabelledClip, rng: Random | None) -> str:
        """Return what the kind asks for."""
        if self.config.kind == "translate":
            assert self.config.target is not None
            return translation(clip, self.config.target)
        if self.config.timestamps:
            return "".join(_timed(read_segments(self.name, clip.record, [clip.audio])))
        return _ANSWERS[self.config.kind](clip, rng)

    def said(self, clip: LabelledClip) -> str | None:
        """Return what is said in the clip, where it is speech."""
        return None if self.config.kind in OF_SOUND else super().said(clip)

    def phrasings(self) -> list[str]:
        """Return the tags, and what the languages' and the times' are made of."""
        config = self.config
        names = ["startoftranscript", "startofanalysis", "unknown", config.kind]
        names += [
            "timestamps" if config.timestamps else "notimestamps",
            *([config.target] if config.target else []),
        ]
        names += [] if config.itn is None else ["itn" if config.itn else "wo_itn"]
        listed = config.kind in ("keyword", "event", "speaker_meta")
        pieces = ["<|", "|>", *([SEPARATOR] if listed else []), *(".0123456789" if config.timestamps else "")]
        return [*super().phrasings(), *(f"<|{name}|>" for name in names), *pieces]


def _timed(segments: list[TimedText]) -> list[str]:
    """Return texts between their times; a time that ends one segment and begins the next stands once."""
    pieces: list[str] = []
    last = -1.0
    for segment in segments:
        if segment.start is None or segment.end is None:
            raise ValueError(f"{segment.where}: task 'tags' needs start and end (timestamps: true)")
        if not last <= segment.start <= segment.end:
            raise ValueError(
                f"{segment.where}: begins at {segment.start} s and ends at {segment.end} s: segments follow "
                "each other in time"
            )
        if f"{segment.start:.2f}" != f"{last:.2f}":
            pieces.append(f"<|{segment.start:.2f}|>")
        pieces += [segment.text, f"<|{segment.end:.2f}|>"]
        last = segment.end
    return pieces

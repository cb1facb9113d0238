"""Hierarchical tags in place of a request, as Qwen-Audio's pre-training has them (arXiv 2311.07919).

A sequence such as ``<|startoftranscript|><|en|><|transcribe|><|en|><|notimestamps|><|wo_itn|>`` says what is
wanted: whether it is a transcript, the spoken language, one of four tasks, the language of the answer, times,
and last the form of the answer. What is neither transcript, translation nor caption has the task ``keyword``,
and its form says what it is. The spelling is that of Qwen-Audio's tokenizer (`AUDIO_ST` in its
tokenization_qwen.py), the sequences are those of its evaluations (eval_audio/evaluate_*.py): of transcripts
with and without times, translations, captions, emotions, scenes and vocal sounds; the others are built alike.
Here tags are spelled in ordinary tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Literal

from kikimimi import ClipTask, ClipTaskConfig, LabelledClip, check_choice, listing
from kikimimi_tasks.documents import TimedText, read_segments
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
    "scene",
    "event",
    "vocal_classification",
    "speaker_meta",
    "song_meta",
]
TagForm = Literal["wo_itn", "itn", "caption_plain", "caption_audiocaps", "caption_clotho"]

_Answer = Callable[[LabelledClip, Random | None], str]
_ANSWERS: dict[TagKind, _Answer] = {
    "transcribe": lambda clip, rng: clip.text("text", what="the transcript"),
    "caption": caption,
    "keyword": lambda clip, rng: SEPARATOR.join(clip.texts("keywords", what="the keywords")),
    "emotion_recognition": lambda clip, rng: clip.text("emotion", what="the speaker's emotion"),
    "scene": lambda clip, rng: clip.text("scene", what="where the clip was recorded"),
    "event": lambda clip, rng: SEPARATOR.join(clip.texts("events", what="the sound events")),
    "vocal_classification": lambda clip, rng: clip.text("vocal_sound", what="the vocal sound"),
    "speaker_meta": lambda clip, rng: SEPARATOR.join(clip.texts("speakers", what="the speakers")),
    "song_meta": lambda clip, rng: clip.text("title", what="the title of the music"),
}
OF_SOUND = ("caption", "scene", "event", "vocal_classification", "song_meta")
"""Kinds whose clip need not be speech: its language is unknown."""
_FORMS: dict[TagKind, tuple[TagForm, ...]] = {
    "transcribe": ("wo_itn", "itn"),
    "translate": ("itn", "wo_itn"),
    "caption": ("caption_plain", "caption_audiocaps", "caption_clotho"),
}
"""Forms of the answer that a kind takes; the first is the one that it has unless told otherwise."""


@dataclass(kw_only=True, frozen=True)
class TagsConfig(ClipTaskConfig):
    """Options of the task `tags`."""

    kind: TagKind = "transcribe"
    """What is wanted. It decides which field of the record is the answer: text, translation, captions (or
    caption), keywords, emotion, scene, events, vocal_sound, speakers or title."""
    target: str | None = None
    """ISO 639 code of the answer's language; null takes the record's."""
    timestamps: bool = False
    """The transcript says when each of the record's ``segments`` begins and ends."""
    form: TagForm | None = None
    """Form of the answer: with numbers in figures (itn, inverse text normalisation) or in words (wo_itn), or
    the style of a caption. Null takes wo_itn for transcripts, itn for translations, caption_plain for
    captions; other kinds, and transcripts with times, take none."""

    def __post_init__(self) -> None:
        if self.kind == "translate" and self.target is None:
            raise ValueError("target: must be given where kind is 'translate'")
        if self.target is not None:
            check_choice("target", self.target, language_names()["en"])
        if self.timestamps and self.kind != "transcribe":
            raise ValueError(
                "timestamps: only a transcript has them: leave it out, or set kind to transcribe"
            )
        forms = () if self.timestamps else _FORMS.get(self.kind, ())
        if self.form is not None and self.form not in forms:
            what = "a transcript with times" if self.timestamps else f"kind '{self.kind}'"
            takes = f"takes {listing(forms)}" if forms else "takes none: leave it out"
            raise ValueError(f"form: {what} {takes}")
        super().__post_init__()

    def tags(self) -> tuple[str, str, list[str]]:
        """Return how a sequence starts, its task, and what follows the language of the answer."""
        spoken = self.kind in ("transcribe", "translate")
        times = "timestamps" if self.timestamps else "notimestamps"
        forms = _FORMS.get(self.kind, ())
        last: str | None = self.form or next(iter(forms), None)
        if self.timestamps or self.kind == "keyword":
            last = None
        elif not forms:
            last = self.kind
        task = self.kind if forms else "keyword"
        return "startoftranscript" if spoken else "startofanalysis", task, [times, *([last] if last else [])]


class Tags(ClipTask[TagsConfig]):
    """Asks by a sequence of tags: start, spoken language, task, language of the answer, times, form."""

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
        start, task, rest = config.tags()
        spoken = "unknown" if language is None or config.kind in OF_SOUND else language
        return "".join(f"<|{tag}|>" for tag in (start, spoken, task, written, *rest))

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
        start, task, rest = config.tags()
        names = [start, "unknown", task, *([config.target] if config.target else []), *rest]
        listed = config.kind in ("keyword", "event", "speaker_meta")
        pieces = ["<|", "|>", *([SEPARATOR] if listed else []), *(".0123456789" if config.timestamps else "")]
        return [*super().phrasings(), *dict.fromkeys(f"<|{name}|>" for name in names), *pieces]


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

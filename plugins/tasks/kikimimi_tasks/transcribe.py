"""Speech recognition without a request, as Voxtral's transcription mode does it (arXiv 2507.13264)."""

from dataclasses import dataclass
from random import Random

from kikimimi import ClipTask, ClipTaskConfig, LabelledClip, Text


@dataclass(kw_only=True, frozen=True)
class TranscribeConfig(ClipTaskConfig):
    """Options of the task `transcribe`."""

    tag: Text | None = None
    """A fixed text in the place of a request, such as ``[TRANSCRIBE]``; null leaves the audio alone. It is
    spelled in ordinary tokens."""

    unasked = "tag is null"

    @property
    def asks(self) -> bool:
        """Whether there is a tag."""
        return self.tag is not None


class Transcribe(ClipTask[TranscribeConfig]):
    """The transcript of a clip in any language, unasked: ``text``."""

    name = "transcribe"
    Config = TranscribeConfig
    transcribes = True

    def request(self, language: str | None, clip: LabelledClip | None, rng: Random | None) -> str | None:
        """Return the tag."""
        return self.config.tag

    def answer(self, clip: LabelledClip, rng: Random | None) -> str:
        """Return the transcript."""
        return clip.text("text", what="the transcript")

    def phrasings(self) -> list[str]:
        """Return the tag."""
        return super().phrasings() + ([] if self.config.tag is None else [self.config.tag])

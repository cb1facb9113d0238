"""Another trained run as a recogniser, so that a recipe can be compared with an earlier one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kikimimi import Answer, Recogniser, RecogniserConfig, RunFolder, Text, Transcriber


class RunRecogniser(Recogniser):
    """Transcribes with the newest weights of a run folder."""

    @dataclass(kw_only=True, frozen=True)
    class Config(RecogniserConfig):
        """Options of the `run` recogniser."""

        folder: Text
        """The run folder."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._transcriber = Transcriber.open(Path(config.folder))
        self.sample_rate = self._transcriber.sample_rate
        self.max_seconds = self._transcriber.max_seconds

    @classmethod
    def identity(cls, config: Config) -> str:
        """Return the folder and what tells its newest weights from earlier ones."""
        return f"{config.folder} {RunFolder.open(Path(config.folder)).weights_identity()}"

    def transcribe(self, clips: Sequence[NDArray[np.float32]], language: str | None) -> list[Answer]:
        """Transcribe clips of (S,) mono float32 at `sample_rate`."""
        told = None if self._transcriber.hears_language else language
        return self._transcriber.transcribe(clips, told)

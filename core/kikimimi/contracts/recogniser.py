"""The contract of a recogniser: a finished system that an evaluation is compared with."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from kikimimi.contracts.conversation import Conversation
from kikimimi.contracts.options import Options


@dataclass(kw_only=True, frozen=True)
class RecogniserConfig(Options):
    """Base of every recogniser's nested `Config`."""


class Recogniser(ABC):
    """Transcribes clips. Built as `Recogniser(config)`, weights loaded.

    Attributes:
        sample_rate: Expected sampling rate [Hz].
        max_seconds: Longest clip it can take [s]; None means unbounded.
    """

    Config: ClassVar[type[RecogniserConfig]]
    sample_rate: int
    max_seconds: float | None

    def __init__(self, config: Any) -> None:
        self.config = config

    @classmethod
    def identity(cls, config: Any) -> str:
        """Return what its transcripts depend on; saved ones of another identity are made again. Default: all
        options.
        """
        return repr(config)

    @classmethod
    def example(cls, folder: Path) -> Any:
        """Write a small model with random weights into a folder, for the checks of plugins.

        Returns:
            The config of a recogniser that reads it; None, the default, where there is none: then its
            transcripts are not checked.
        """
        return None

    @abstractmethod
    def transcribe(self, clips: Sequence[NDArray[np.float32]], language: str | None) -> Sequence[str]:
        """Transcribe clips of (S,) mono float32 at `sample_rate`, batched.

        Args:
            clips: Waveforms.
            language: ISO 639-1 code, or None where it is not known.

        Returns:
            What was said in each; an `Answer` says of itself whether it was cut.
        """

    def respond(
        self, prompts: Sequence[Conversation], clips: Sequence[NDArray[np.float32]], language: str | None
    ) -> Sequence[str]:
        """Answer what an evaluation asks about clips, batched; this is what it calls.

        Here it transcribes, whatever is asked. A system that takes requests answers them.

        Args:
            prompts: What is asked about each clip: turns up to the user's last one. Each holds one
                `AudioPart`, where the clip stands.
            clips: Waveforms of (S,) mono float32 at `sample_rate`, one for each prompt.
            language: ISO 639-1 code of what is said, or None where it is not known.

        Returns:
            An answer to each; an `Answer` says of itself whether it was cut.
        """
        return self.transcribe(clips, language)

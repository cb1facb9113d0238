"""The match error rate: the share of aligned units that do not match."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import jiwer

from kikimimi import Metric, MetricConfig, Normaliser


class MatchErrorRate(Metric):
    """Match error rate: (S + D + I) / (H + S + D + I) of the alignment with the fewest edits [%].

    Unlike an error rate over the reference's length it never exceeds 100 %, whatever is inserted. Morris,
    Maier and Green, "From WER and RIL to MER and WIL", Interspeech 2004. Empty references are left out.
    """

    contract_version = 1

    @dataclass(kw_only=True, frozen=True)
    class Config(MetricConfig):
        """What a recipe may set."""

        unit: Literal["words", "characters"] = "words"
        """What is aligned: words (between white space), or characters (Unicode code points)."""

    config: Config
    unit: ClassVar[str] = "%"
    better: ClassVar[Literal["lower", "higher"]] = "lower"
    labels: ClassVar[Mapping[str, str]] = {"hits": "matches"}

    def check(self, normalise: Normaliser) -> None:
        """Check that a normaliser leaves words apart, where words are aligned."""
        if self.config.unit == "words" and len(normalise("a b").split()) < 2:
            raise ValueError(
                "aligns words, but the normaliser removes the white space between them. "
                "Use unit: characters, or another normaliser"
            )

    def measure(
        self, references: Sequence[str], predictions: Sequence[str]
    ) -> list[Mapping[str, float] | None]:
        """Return matches and edits of each utterance; None where the reference is empty."""
        return [
            self._edits(reference, prediction) if reference.strip() else None
            for reference, prediction in zip(references, predictions, strict=True)
        ]

    def value(self, details: Mapping[str, float]) -> float:
        """Return edits over edits and matches [%]."""
        edits = details["substitutions"] + details["deletions"] + details["insertions"]
        return 100 * edits / (edits + details["hits"])

    def _edits(self, reference: str, prediction: str) -> Mapping[str, float]:
        align = jiwer.process_words if self.config.unit == "words" else jiwer.process_characters
        found = align(reference, prediction)
        names = ("hits", "substitutions", "deletions", "insertions")
        return {name: int(getattr(found, name)) for name in names}

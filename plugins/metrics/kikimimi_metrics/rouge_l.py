"""ROUGE-L, for captions and summaries."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from rapidfuzz.distance import LCSseq

from kikimimi import Details, Metric, MetricConfig, Normaliser
from kikimimi_metrics.written_words import check_words_stand_apart

_WORD = re.compile(r"[^\W_]+")
_CHARACTER = re.compile(r"[^\W_]")


class RougeL(Metric):
    """Mean ROUGE-L F1 of the utterances [percent]: the longest common subsequence of words, in order.

    Lin 2004, as the package rouge-score of Google computes it without stemming: with L words in common
    that are in the same order in both texts (other words may stand between), precision is L over the
    answer's words, recall L over the reference's, and F1 their harmonic mean. In lower case;
    words are runs of letters and digits, in any script. An utterance whose reference has none is left out.

    Text without spaces between words (Japanese) is refused with ``tokenize: words``: choose ``characters``.
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(MetricConfig):
        """Options of the metric `rouge_l`."""

        tokenize: Literal["words", "characters"] = "words"
        """What is compared: words, or each letter and digit (Japanese). Punctuation plays no part."""

    unit = "%"
    better: ClassVar[Literal["lower", "higher"]] = "higher"
    config: Config

    def check(self, normalise: Normaliser) -> None:
        """Check that a normaliser leaves words apart, where words count.

        Raises:
            ValueError: It does not.
        """
        if self.config.tokenize == "words" and len(normalise("a b").split()) < 2:
            raise ValueError(
                "tokenize: words looks for words between white space, which the normaliser removes. Set "
                "tokenize: characters, or use normaliser 'none'"
            )

    def measure(self, references: Sequence[str], predictions: Sequence[str]) -> Sequence[Details | None]:
        """Return the F1 [0 to 1] of each utterance."""
        return [self._one(r, p) for r, p in zip(references, predictions, strict=True)]

    def value(self, details: Details) -> float:
        """Return the mean F1 [percent]."""
        return 100 * details["f1"] / details["texts"]

    def _one(self, reference: str, prediction: str) -> Details | None:
        wanted, given = self._units(reference), self._units(prediction)
        if not wanted:
            return None
        if self.config.tokenize == "words":
            check_words_stand_apart(reference, "set tokenize: characters")
        common = LCSseq.similarity(wanted, given)
        # The harmonic mean of common / given and common / wanted.
        return {"texts": 1, "f1": 2 * common / (len(wanted) + len(given))}

    def _units(self, text: str) -> list[str]:
        pattern = _WORD if self.config.tokenize == "words" else _CHARACTER
        return pattern.findall(text.lower())

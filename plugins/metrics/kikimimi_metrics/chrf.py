"""chrF, as sacrebleu computes it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import sacrebleu
from annotated_types import Ge, Le

from kikimimi import Details, Metric, MetricConfig, Normaliser
from kikimimi_metrics.written_words import check_words_stand_apart


class Chrf(Metric):
    """Character n-gram F-score of a corpus [0 to 100], in any language: no words have to be found.

    Popovic 2015 and 2017, computed by sacrebleu with its defaults (chrF2: recall counts twice; 1 to 6
    characters; white space plays no part). Precision and recall of each order are those of the whole corpus,
    and orders that are longer than every text are left out. With `word_order` 2 it is chrF++. An utterance
    whose reference is empty is left out.
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(MetricConfig):
        """Options of the metric `chrf`."""

        char_order: Annotated[int, Ge(1), Le(10)] = 6
        """Longest n-grams [characters]."""
        word_order: Annotated[int, Ge(0), Le(10)] = 0
        """Longest n-grams of words between white space [words]: 0 is chrF, 2 is chrF++. Above 0, text without
        spaces between words (Japanese) is refused."""
        beta: Annotated[int, Ge(1), Le(10)] = 2
        """How many times as much recall counts as precision."""
        lowercase: bool = False
        """Whether upper and lower case are the same."""

    unit = ""
    better: ClassVar[Literal["lower", "higher"]] = "higher"
    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._chrf = sacrebleu.CHRF(
            char_order=config.char_order,
            word_order=config.word_order,
            beta=config.beta,
            lowercase=config.lowercase,
        )
        characters = [f"{n}" for n in range(1, config.char_order + 1)]
        words = [f"{n}w" for n in range(1, config.word_order + 1)]
        self._names = [
            f"{what}_{n}" for n in (*characters, *words) for what in ("given", "wanted", "matches")
        ]

    def check(self, normalise: Normaliser) -> None:
        """Check that a normaliser leaves words apart, where words count.

        Raises:
            ValueError: It does not.
        """
        if self.config.word_order and len(normalise("a b").split()) < 2:
            raise ValueError(
                "word_order: looks for words between white space, which the normaliser removes. Set "
                "word_order: 0, or use normaliser 'none'"
            )

    def measure(self, references: Sequence[str], predictions: Sequence[str]) -> Sequence[Details | None]:
        """Return of each order how many n-grams the answer has, the reference has, and both have."""
        return [self._one(r, p) for r, p in zip(references, predictions, strict=True)]

    def value(self, details: Details) -> float:
        """Return chrF of the counts, added up."""
        return float(self._chrf._compute_f_score([int(details[name]) for name in self._names]))

    def _one(self, reference: str, prediction: str) -> Details | None:
        if not reference.strip():
            return None
        if self.config.word_order:
            check_words_stand_apart(reference, "set word_order: 0")
        # sacrebleu has no public way to an utterance's counts.
        (counts,) = self._chrf._extract_corpus_statistics([prediction], [[reference]])
        return dict(zip(self._names, map(int, counts), strict=True))

"""BLEU, as sacrebleu computes it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import sacrebleu
from annotated_types import Ge, Le

from kikimimi import Details, Metric, MetricConfig, MissingExtraError, Normaliser
from kikimimi_metrics.written_words import check_words_stand_apart

_JAPANESE_TOO = ("char", "ja-mecab", "none")
_REMOVED_SPACES_DO_NOT_MATTER = ("char", "ja-mecab")


class Bleu(Metric):
    """BLEU of a corpus [0 to 100]: how many of the answers' word n-grams the references hold, and the length.

    Papineni et al. 2002, computed by sacrebleu (Post 2018) with its defaults: one reference, exponential
    smoothing, case counts. The geometric mean of the precisions of 1 to 4 words, each over the whole corpus,
    times ``exp(1 - R / P)`` where all answers have fewer words (P) than all references (R). An utterance
    whose reference is empty is left out.

    What a word is, is `tokenize`. Of text without spaces between words (Japanese, Chinese) the default
    would make one word of each sentence, so it is refused: choose ``ja-mecab`` or ``char``. Figures of
    different tokenizers cannot be compared.
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(MetricConfig):
        """Options of the metric `bleu`."""

        tokenize: Literal["13a", "intl", "zh", "char", "ja-mecab", "none"] = "13a"
        """What words are, by sacrebleu's names: ``13a`` (European languages, the field's default), ``intl``
        (the same by Unicode), ``zh`` (Chinese: each ideograph), ``char`` (each character; Japanese without a
        dictionary), ``ja-mecab`` (Japanese by MeCab and its IPA dictionary: the extra `mecab`), ``none``
        (what stands between white space: texts that were cut before)."""
        lowercase: bool = False
        """Whether upper and lower case are the same."""
        max_ngram_order: Annotated[int, Ge(1), Le(10)] = 4
        """Longest n-grams [words]."""

    unit = ""
    better: ClassVar[Literal["lower", "higher"]] = "higher"
    labels: ClassVar[Mapping[str, str]] = {"reference_length": "words", "prediction_length": "answered words"}
    config: Config

    def __init__(self, config: Config) -> None:
        """Take the options.

        Raises:
            MissingExtraError: The tokenizer needs packages that are not installed.
        """
        super().__init__(config)
        try:
            self._bleu = sacrebleu.BLEU(
                lowercase=config.lowercase,
                force=True,  # no warnings about texts that were cut before
                tokenize=config.tokenize,
                max_ngram_order=config.max_ngram_order,
            )
        except RuntimeError as error:
            raise MissingExtraError("bleu.tokenize: ja-mecab", "sacrebleu[ja]", "mecab") from error

    def check(self, normalise: Normaliser) -> None:
        """Check that a normaliser leaves words apart, where they are what is between white space.

        Raises:
            ValueError: It does not.
        """
        if self.config.tokenize not in _REMOVED_SPACES_DO_NOT_MATTER and len(normalise("a b").split()) < 2:
            raise ValueError(
                f"tokenize: {self.config.tokenize} looks for words between white space, which the normaliser "
                "removes. Use normaliser 'none', or tokenize: char or ja-mecab"
            )

    def measure(self, references: Sequence[str], predictions: Sequence[str]) -> Sequence[Details | None]:
        """Return lengths [words], and of each order how many n-grams match and how many an answer has."""
        return [self._one(r, p) for r, p in zip(references, predictions, strict=True)]

    def value(self, details: Details) -> float:
        """Return BLEU of the counts, added up."""
        orders = range(1, self.config.max_ngram_order + 1)
        found = self._bleu.compute_bleu(
            [int(details[f"matches_{n}"]) for n in orders],
            [int(details[f"ngrams_{n}"]) for n in orders],
            int(details["prediction_length"]),
            int(details["reference_length"]),
            smooth_method="exp",
            max_ngram_order=self.config.max_ngram_order,
        )
        return float(found.score)

    def _one(self, reference: str, prediction: str) -> Details | None:
        if self.config.tokenize not in _JAPANESE_TOO:
            cut = self._bleu.tokenizer(reference)
            check_words_stand_apart(cut, "set tokenize: ja-mecab or char (none if words do stand apart)")
        # sacrebleu has no public way to an utterance's counts without a score of it.
        (counts,) = self._bleu._extract_corpus_statistics([prediction], [[reference]])
        most = self.config.max_ngram_order
        if not counts[1]:
            return None
        return {
            "prediction_length": int(counts[0]),
            "reference_length": int(counts[1]),
            **{f"matches_{n}": int(counts[1 + n]) for n in range(1, most + 1)},
            **{f"ngrams_{n}": int(counts[1 + most + n]) for n in range(1, most + 1)},
        }

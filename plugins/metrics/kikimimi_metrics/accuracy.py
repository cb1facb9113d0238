"""Accuracy: of answers to the letter, of choices that are named, of labels that are said."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Literal

from kikimimi import Details, Metric, MetricConfig, Normaliser, Text, counted, listing, nearest

_ENGLISH_CUE = r"(?:answer|option|choice|letter)s?\s*(?:is|would be|must be)?\s*[:=]?\s*(?:option\s*)?"
_JAPANESE_CUE = r"(?:答え|正解|解答|回答|選択肢|正しいのは)[はが]?\s*[:=、]?\s*(?:選択肢)?"
_OPENS, _CLOSES = r"[\s(\[{<「『\"'*_]*", r"[\s)\]}>」』\"'*_.:。、!]*"
_OTHER_LETTER = r"[A-Za-z0-9'\u2019+#\-]"
_AFTER_AN_ARTICLE = r" +(?!(?:and|as|because|but|is|nor|or|since)\b)[a-z]"
_KATAKANA = r"[\u30a1-\u30ff]"


class Accuracy(Metric):
    """Share of right answers [percent]: equal to the reference, or the one choice or label that they name.

    Without options an answer is right where it is the reference, to the character, after the normaliser.

    With `choices` a letter is looked for in a free answer, after Unicode NFKC. All of these name B: ``B``,
    ``b.``, ``(b)`` and ``[B]`` anywhere, ``B) Tokyo``, ``b. Tokyo`` and ``B: Tokyo`` at the start of a line,
    ``the answer is b``, ``option B``, and a capital that stands alone, such as in Japanese text. The article
    does not: ``A dog``, ``the answer is a dog``. A digit has to be marked in one of these ways, too. With
    `labels` the labels that occur in the answer count, whole words where they are written in ASCII,
    whatever their case; where one is part of a longer one, the longer one counts.

    An answer that names none, or two, is wrong, and counted as `unclear`. Who denies a choice names it:
    ``not A but B`` is wrong. An utterance whose reference is empty is left out.
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(MetricConfig):
        """Options of the metric `accuracy`."""

        choices: str = ""
        """The choices, a capital letter, digit or katakana each: ``ABCD``. References name one of them."""
        labels: list[Text] = field(default_factory=list)
        """The labels that an answer may say (``[happy, sad, angry]``). References are one of them."""

        def __post_init__(self) -> None:
            if self.choices and self.labels:
                raise ValueError("choices: what is looked for is choices or labels, not both")
            if self.choices and not re.fullmatch(r"[A-Z0-9\u30a2-\u30f3]{2,}", self.choices):
                raise ValueError(
                    f"choices: {self.choices!r} is no row of two or more capital letters, digits or "
                    "katakana, such as ABCD"
                )
            for name, given in (("choices", list(self.choices)), ("labels", [_fold(x) for x in self.labels])):
                if len(set(given)) < len(given):
                    raise ValueError(f"{name}: {listing(given)} holds one twice, whatever its case")
            if len(self.labels) == 1:
                raise ValueError("labels: one label is no choice: name two or more")

    unit = "%"
    better: ClassVar[Literal["lower", "higher"]] = "higher"
    config: Config

    def check(self, normalise: Normaliser) -> None:
        """Check that a normaliser leaves what the choices or the labels are found by.

        Raises:
            ValueError: It does not.
        """
        for choice in self.config.choices:
            for form in ("({}) x", "{}) Tokyo", "The answer is {}.", "答えは{}です"):
                text = form.format(choice)
                if self._named(normalise(text)) != {choice}:
                    raise ValueError(
                        f"choices: the normaliser makes {normalise(text)!r} of {text!r}, which does not name "
                        f"{choice}. Use normaliser 'none'"
                    )
        for label in self.config.labels:
            if _fold(normalise(label)) != _fold(label):
                raise ValueError(
                    f"labels: the normaliser makes {normalise(label)!r} of {label!r}: write that, or use "
                    "normaliser 'none'"
                )
            if self._named(normalise(f"x {label} x")) != {label}:
                raise ValueError(
                    f"labels: {label!r} is looked for as a word, and the normaliser removes the white space "
                    "between words. Use normaliser 'none'"
                )

    def measure(self, references: Sequence[str], predictions: Sequence[str]) -> Sequence[Details | None]:
        """Return whether each answer is right and, with choices or labels, whether it is unclear.

        Raises:
            ValueError: A reference names no choice, or is none of the labels.
        """
        return [self._one(r.strip(), p.strip()) for r, p in zip(references, predictions, strict=True)]

    def value(self, details: Details) -> float:
        """Return the share of right answers [percent]."""
        return 100 * details["right"] / details["answers"]

    def _one(self, reference: str, prediction: str) -> Details | None:
        if not reference:
            return None
        if not (self.config.choices or self.config.labels):
            return {"answers": 1, "right": int(reference == prediction)}
        wanted, given = self._wanted(reference), self._named(prediction)
        return {"answers": 1, "right": int(given == {wanted}), "unclear": int(len(given) != 1)}

    def _wanted(self, reference: str) -> str:
        if labels := self.config.labels:
            for label in labels:
                if _fold(label) == _fold(reference):
                    return label
            raise ValueError(
                f"reference {reference[:40]!r} is none of the labels.{nearest(reference, labels)} "
                f"Labels: {listing(labels)}"
            )
        found = self._named(reference)
        if len(found) != 1:
            raise ValueError(
                f"reference {reference[:40]!r} names {counted(len(found), 'choice')} of "
                f"{self.config.choices}, and has to name one"
            )
        return found.pop()

    def _named(self, text: str) -> set[str]:
        """Return the choices or labels that a text names."""
        if self.config.labels:
            return {self._folded[found] for found in self._labels.findall(_fold(text))}
        text = unicodedata.normalize("NFKC", text).strip()
        if whole := self._whole.fullmatch(text):
            return {whole[1].upper()}
        return {
            found[1].upper()
            for pattern in self._marked
            for found in pattern.finditer(text)
            if not _is_a_word(text, found)
        }

    @cached_property
    def _folded(self) -> dict[str, str]:
        return {_fold(label): label for label in self.config.labels}

    @cached_property
    def _labels(self) -> re.Pattern[str]:
        longest_first = sorted(self._folded, key=len, reverse=True)
        return re.compile("|".join(map(_as_word, longest_first)))

    @cached_property
    def _whole(self) -> re.Pattern[str]:
        one = f"([{self.config.choices}{self.config.choices.lower()}])"
        return re.compile(rf"{_OPENS}{one}{_CLOSES}(?:番)?(?:です|だ|である)?{_CLOSES}")

    @cached_property
    def _marked(self) -> tuple[re.Pattern[str], ...]:
        choices = self.config.choices
        either = f"([{choices}{choices.lower()}])"
        capitals = "".join(choice for choice in choices if choice.isalpha())
        alone = rf"(?![A-Za-z0-9]|{_KATAKANA}|[.,]\d)"
        patterns = [
            rf"[(\[]\s*{either}\s*[)\]]",
            rf"^{_OPENS}{either}[)\]*_\"']*[):.、。](?=\s|$|\W|[^\x00-\x7f])",
            rf"(?i:\b{_ENGLISH_CUE}){_OPENS}{either}{alone}",
            rf"{_JAPANESE_CUE}{_OPENS}{either}{alone}",
            rf"(?<![A-Za-z0-9.]){either}番?(?:が|は)(?:正解|答え|正しい)",
        ]
        if capitals:
            before, after = rf"(?<!{_OTHER_LETTER})(?<!{_KATAKANA})", rf"(?!{_OTHER_LETTER}|{_KATAKANA})"
            patterns.append(rf"{before}([{capitals}]){after}")
        return tuple(re.compile(pattern, re.MULTILINE) for pattern in patterns)


def _fold(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold().strip()


def _as_word(label: str) -> str:
    """Return a pattern of a label: letters of ASCII at its ends have no other beside them."""
    before = "(?<![a-z0-9])" if re.match("[a-z0-9]", label) else ""
    after = "(?![a-z0-9])" if re.search("[a-z0-9]$", label) else ""
    return f"{before}{re.escape(label)}{after}"


def _is_a_word(text: str, found: re.Match[str]) -> bool:
    """Return whether a letter is an English word: ``A dog``, ``the answer is a dog``, ``I am``."""
    letter, rest = found[1], text[found.end(1) :]
    if letter not in ("a", "A", "i", "I") or not re.match(_AFTER_AN_ARTICLE, rest):
        return False
    if letter == "A":
        return not text[: found.start(1)].strip() or bool(re.search(r"[.!?:)\]]\s*$", text[: found.start(1)]))
    return True

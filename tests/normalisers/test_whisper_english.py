from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings, strategies as st

from kikimimi.contracts.registry import load
from kikimimi_normalisers.whisper_english import WhisperEnglish, _upstream

# By hand, after the appendix of the paper and the tests of openai/whisper.
EXAMPLES = [
    ("Let's go!", "let us go"),
    ("he's like", "he is like"),
    ("she's been like", "she has been like"),
    ("10km", "10 km"),
    ("Mr. Park visited Assoc. Prof. Kim Jr.", "mister park visited associate professor kim junior"),
    ("two", "2"),
    ("thirty one", "31"),
    ("nine hundred and ninety nine", "999"),
    ("three hundred thousand", "300000"),
    ("twenty nineteen", "2019"),
    ("nineteen eighties", "1980s"),
    ("one oh one", "101"),
    ("$1,234.50 and twenty million dollars", "$1234.50 and $20000000"),
    ("one hundred and five percent", "105%"),
    ("Colours of the theatre, um, (laughs) [noise] cafés", "colors of the theater cafes"),
    ("The realised centre's grey cheque", "the realized center is gray check"),
    ("", ""),
    ("  Hello,  world!  ", "hello world"),
]
TEXT = """\
the cat sat, won't; isn't Mr. Dr. St. twenty-one nineteen hundred and five thousand million 3 4.5 12,000 $20
£3 percent % cents dollars double oh seven point o colour realise theatre programme uh um (aside) [noise]
minus first 2nd twelfth 90s co-operate naïve Straße it's I'd've gonna y'all ... ? ! - — & a one"""
WORDS = TEXT.split()


@pytest.mark.parametrize(("text", "expected"), EXAMPLES)
def test_examples(text: str, expected: str) -> None:
    assert WhisperEnglish()(text) == expected


def test_equals_upstream_on_many_sentences() -> None:
    normalise, draw = WhisperEnglish(), random.Random(0)
    sentences = [" ".join(draw.choices(WORDS, k=draw.randint(1, 15))) for _ in range(2000)]
    pairs = [" ".join(pair) for pair in itertools.product(WORDS, WORDS)]
    assert [text for text in [*sentences, *pairs] if normalise(text) != _upstream()(text).strip()] == []


@settings(deadline=None)
@given(st.text(st.one_of(st.characters(), st.sampled_from("[]<>().,$%'1 2ast")), max_size=30))
def test_any_text_is_taken(text: str) -> None:
    assert WhisperEnglish()(text) == _upstream()(text).strip()


def test_the_spellings_are_whispers() -> None:
    assert len(_upstream().standardize_spellings.mapping) == 1739


def test_equals_the_package_of_openais_code() -> None:
    """Another copy of it, with the same spellings."""
    english = pytest.importorskip("whisper_normalizer.english").EnglishTextNormalizer()
    assert [text for text, _ in EXAMPLES if english(text).strip() != WhisperEnglish()(text)] == []


@pytest.mark.parametrize("text", ["7" * 10_000, "$" + "12" * 4000 + ".5", "one " + "0" * 9000])
def test_a_digit_without_end_ends_nothing(text: str) -> None:
    found = WhisperEnglish()(text)
    assert sum(map(str.isdigit, found)) >= 1
    assert WhisperEnglish()("a b c") == "a b c"


def test_is_registered() -> None:
    assert load("normaliser", "whisper-english") is WhisperEnglish

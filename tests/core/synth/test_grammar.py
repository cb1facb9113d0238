from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from kikimimi.errors import RequestError
from kikimimi.synth.grammar import Exchange, Grammar

SMALL = """
language: ja
sentences: ["{a}と{a}です。", "{a}は{b}です。", "はい。"]
words: {a: [犬, 猫, 鳥], b: [犬, 白]}
"""


def texts(exchanges: list[Exchange]) -> list[str]:
    """Return the sentences; nothing answers them."""
    assert not any(exchange.answer or exchange.rejected for exchange in exchanges)
    return [exchange.request for exchange in exchanges]


@pytest.fixture
def small(tmp_path: Path) -> Grammar:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL, encoding="utf-8")
    return Grammar.load(str(path))


def test_makes_every_sentence_once(small: Grammar) -> None:
    split = small.split(10, 3, seed=5)
    sentences = texts(split.train + split.held_out)
    assert len(set(sentences)) == 13
    assert "犬と犬です。" not in sentences
    assert "犬は犬です。" in sentences
    with pytest.raises(
        RequestError, match=r"makes 13 different sentences; 14 are asked for \(10 \+ 4 held out\)"
    ):
        small.split(10, 4, seed=5)
    with pytest.raises(RequestError, match="count: must be at least 1, not 0"):
        small.split(0, 4, seed=5)


@settings(max_examples=10)
@given(st.integers(0, 2**32))
def test_shipped_grammar(seed: int) -> None:
    grammar = Grammar.load("ja_small")
    split = grammar.split(300, 60, seed)
    train, held_out = texts(split.train), texts(split.held_out)
    assert (len(set(train)), len(set(held_out))) == (300, 60)
    assert not set(train) & set(held_out)
    assert set("".join(held_out)) <= set("".join(train))
    assert split.unseen == ""
    assert all(sentence.endswith("。") and len(sentence) <= 30 for sentence in train)
    assert split == grammar.split(300, 60, seed)


def test_shipped_grammar_is_large_and_in_order() -> None:
    grammar = Grammar.load("ja_small")
    assert grammar.language == "ja"
    assert len(grammar.split(10_000, 0, 0).train) == 10_000
    assert grammar.split(300, 60, 0) != grammar.split(300, 60, 1)
    # The same seed gives the same sentences tomorrow.
    assert texts(grammar.split(40, 3, 0).held_out) == [
        "木曜日の午前十時に喫茶店で会いましょう。",
        "広場までは歩いて二時間です。",
        "田中さんの誕生日は六月二日です。",
    ]


def test_templates_take_turns() -> None:
    grammar = Grammar.load("ja_small")
    train = texts(grammar.split(900, 90, 0).train)
    assert 40 <= sum(sentence.endswith("食べました。") for sentence in train) <= 60


def test_characters_that_training_lacks_are_told(small: Grammar) -> None:
    split = small.split(1, 3, seed=0)
    assert split.unseen
    assert set(split.unseen) == set("".join(texts(split.held_out))) - set("".join(texts(split.train)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("language: [", "not YAML"),
        ("- a", "a grammar has exactly the keys language, sentences, words"),
        ("{language: ja, sentences: [はい], words: {}, extra: 1}", "has exactly the keys"),
        ("{language: 1, sentences: [はい], words: {}}", "language: expected a code such as 'ja'"),
        ("{language: ja, sentences: [], words: {}}", "sentences: expected a list of at least one text"),
        ("{language: ja, sentences: [はい], words: []}", "words: expected named lists"),
        (
            "{language: ja, sentences: ['{a}'], words: {a: [1]}}",
            r"words\.a\[0\]: expected a text, not 1; put it in",
        ),
        ("{language: ja, sentences: ['{a}'], words: {a: [犬, 犬]}}", r"words\.a\[1\]: '犬' is there twice"),
        (
            "{language: ja, sentences: ['{citi}'], words: {city: [津]}}",
            r"no words for slot 'citi'\. Did you mean 'city'",
        ),
        ("{language: ja, sentences: ['{a}{a}'], words: {a: [犬]}}", r"2 slots 'a', but words\.a has only 1"),
        ("{language: ja, sentences: ['{a'], words: {a: [犬]}}", r"sentences\[0\]: a brace is not closed"),
        ("{language: ja, sentences: [はい], words: {a: [犬]}}", r"no sentence or request uses words\.a"),
    ],
)
def test_refuses_malformed_grammars(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "g.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(RequestError, match=message):
        Grammar.load(str(path))


def test_unknown_grammar() -> None:
    with pytest.raises(
        RequestError, match=r"ja_smal: no such .* Did you mean 'ja_small'\? Shipped: ja_dialogue, ja_small"
    ):
        Grammar.load("ja_smal")

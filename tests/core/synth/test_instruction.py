"""What a grammar's instructions make: requests, answers, what is held out, and errors."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from kikimimi.errors import RequestError
from kikimimi.synth.grammar import Grammar

SMALL = """
language: ja
sentences: ["{a}です。"]
copy: 書いてください。
instructions:
  - requests: ["{a}は何と鳴きますか。", "{b}、{a}の声を教えてください。"]
    answer: "{a}は{a.cry}と鳴きます。"
    rejected: [知りません。, "{a}？"]
words:
  a: {犬: {cry: ワン}, 猫: {cry: ニャー}, 牛: {cry: モー}}
  b: [先生, ねえ]
"""


@pytest.fixture
def small(tmp_path: Path) -> Grammar:
    return load(tmp_path, SMALL)


def load(folder: Path, text: str) -> Grammar:
    path = folder / "g.yaml"
    path.write_text(text, encoding="utf-8")
    return Grammar.load(str(path))


def test_requests_and_their_answers(small: Grammar) -> None:
    split = small.split(9, 0, 0, "request")
    told = {exchange.request: exchange for exchange in split.train}
    assert set(told) == {
        *(f"{a}は何と鳴きますか。" for a in ("犬", "猫", "牛")),
        *(f"{b}、{a}の声を教えてください。" for a in ("犬", "猫", "牛") for b in ("先生", "ねえ")),
    }
    assert told["猫は何と鳴きますか。"].answer == "猫はニャーと鳴きます。"
    assert told["ねえ、牛の声を教えてください。"].answer == "牛はモーと鳴きます。"
    rejected = [exchange.rejected for exchange in split.train]
    assert rejected.count("知りません。") == 5
    assert all(e.rejected in ("知りません。", f"{e.answer[0]}？") for e in split.train)
    assert small.copy == "書いてください。"
    # Words with facts are words like others.
    assert {e.request for e in small.split(3, 0, seed=0).train} == {"犬です。", "猫です。", "牛です。"}


def test_what_is_held_out_can_be_learnt(small: Grammar) -> None:
    split = small.split(6, 3, 3, "request")
    assert not {e.request for e in split.train} & {e.request for e in split.held_out}
    assert {*"".join(e.request + e.answer for e in split.held_out)} <= {
        *"".join(e.request + e.answer for e in split.train)
    }
    assert split.unseen == ""
    assert split == small.split(6, 3, 3, "request")
    assert split != small.split(6, 3, 4, "request")
    few = small.split(1, 8, 0, "request")
    text = ["".join(e.request + e.answer + e.rejected for e in part) for part in (few.train, few.held_out)]
    assert set(few.unseen) == set(text[1]) - set(text[0]) != set()


def test_refuses_what_it_cannot_make(small: Grammar) -> None:
    with pytest.raises(RequestError, match=r"makes 9 different requests; 10 are asked for \(9 \+ 1 held out"):
        small.split(9, 1, 0, "request")
    with pytest.raises(RequestError, match="held_out: must be at least 0, not -1"):
        small.split(1, -1, 0, "request")
    with pytest.raises(RequestError, match="ja_small: has no instructions, and 12 are asked for"):
        Grammar.load("ja_small").split(10, 2, 0, "request")


@settings(max_examples=5)
@given(st.integers(0, 2**32))
def test_the_shipped_dialogue(seed: int) -> None:
    grammar = Grammar.load("ja_dialogue")
    split = grammar.split(900, 40, seed, "request")
    assert (len({e.request for e in split.train}), len({e.request for e in split.held_out})) == (900, 40)
    assert not {e.request for e in split.train} & {e.request for e in split.held_out}
    # All that is asked for when held out was also said in the first 500.
    known = frozenset().union(*(e.parts for e in split.train[:500]))
    assert all(e.parts <= known for e in split.held_out)
    everything = [*split.train, *split.held_out]
    assert all(e.answer.endswith("。") and e.rejected.endswith("。") for e in everything)
    assert all(len(e.request) <= 30 and len(e.answer) <= 30 for e in everything)
    # A request that is heard the same must not be answered in two ways.
    assert len({e.rejected for e in everything}) > 15


def test_the_shipped_dialogue_stays_the_same() -> None:
    grammar = Grammar.load("ja_dialogue")
    assert grammar.copy == "そのまま書いてください。"
    assert [(e.request, e.answer, e.rejected) for e in grammar.split(500, 3, 0, "request").held_out] == [
        ("鈴木と申します。", "鈴木さん、よろしくお願いします。", "誰。"),
        ("あの、牛は何と鳴きますか。", "牛はモーモーと鳴きます。", "うるさいな。"),
        ("ねえ、草の色を教えてください。", "草は緑色です。", "知らない。"),
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("copy: 書いてください。", "copy: 1"), r"copy\[0\]: expected a text, not 1"),
        (("instructions:", "instruction:"), "and, where wanted, instructions, copy"),
        (
            ("answer:", "answr:"),
            r"instructions\[0\]: an instruction has exactly the keys requests, answer, rej",
        ),
        (
            ('answer: "{a}は{a.cry}と鳴きます。"', "answer: 1"),
            r"instructions\[0\]\.answer\[0\]: expected a text",
        ),
        (('"{a}は何と', '"{c}は何と'), r"requests\[0\]: no words for slot 'c'.* Lists: a, b"),
        (('"{a}は何と', '"{a}と{a}は何と'), r"requests\[0\]: two slots 'a': an answer could not tell which"),
        (('"{a}は何と', '"{a は何と'), r"requests\[0\]: a brace is not closed or not opened"),
        (("と鳴きます。", "}と鳴きます。"), r"answer: a brace is not closed or not opened"),
        (
            ("と鳴きます。", "と{b}は鳴きます。"),
            r"answer: not every request has the slot 'b'.* of all requests: a$",
        ),
        (("{a.cry}", "{a.cri}"), r"words\.a says nothing of 'cri'\. Did you mean 'cry'\? It says: cry"),
        (('"{a}？"', '"{a}は{a.cry}と鳴きます。"'), r"rejected\[1\]: is the answer that is preferred to it"),
        (("{a.cry}", ""), "no answer tells a.cry"),
        (
            ("牛: {cry: モー}", "牛: モー"),
            r"words\.a\.牛: expected facts, such as \{prefecture: \.\.\.\}, not 'モー'",
        ),
        (
            ("牛: {cry: モー}", "牛: {voice: モー}"),
            r"words\.a\.牛: says voice, but 犬 says cry; say the same",
        ),
        (("牛: {cry: モー}", "牛: {cry: 1}"), r"words\.a\.牛\.cry\[0\]: expected a text, not 1"),
        (('"{b}、{a}の', '"{a}の'), "no sentence or request uses words.b"),
    ],
)
def test_refuses_malformed_instructions(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    assert change[0] in SMALL
    with pytest.raises(RequestError, match=message):
        load(tmp_path, SMALL.replace(*change, 1))


def test_instructions_are_a_list(tmp_path: Path) -> None:
    text = "{language: ja, sentences: [はい], words: {}, instructions: {}}"
    with pytest.raises(RequestError, match="instructions: expected a list of at least one instruction"):
        load(tmp_path, text)


def test_an_answer_that_words_make_the_rejected_one(tmp_path: Path) -> None:
    text = """
language: ja
sentences: [はい]
instructions: [{requests: ["{a}は？"], answer: "{a.b}", rejected: [白]}]
words: {a: {犬: {b: 白}}}
"""
    with pytest.raises(RequestError, match="'犬は？': is answered with '白', which is rejected, too"):
        load(tmp_path, text).split(1, 0, 0, "request")

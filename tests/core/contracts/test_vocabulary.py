from __future__ import annotations

from pathlib import Path

import pytest

from kikimimi import CharacterVocabulary, TokenizerVocabulary
from kikimimi.contracts.vocabulary import BytesVocabulary
from kikimimi.errors import DamagedError
from kikimimi_llms.scratch import build_tokenizer


def test_characters() -> None:
    vocabulary = CharacterVocabulary.of_texts(["はい", "いいえ"])
    assert vocabulary.size == 4
    assert vocabulary.encode("いは?") == [1, 3, 0]
    assert vocabulary.decode([1, 3, 0]) == "いは\ufffd"


def test_characters_come_back_from_a_file(tmp_path: Path) -> None:
    vocabulary = CharacterVocabulary("かきく")
    vocabulary.save(tmp_path / "new" / "vocabulary.json")
    again = CharacterVocabulary.load(tmp_path / "new" / "vocabulary.json")
    assert again.characters == vocabulary.characters
    (tmp_path / "broken.json").write_text("{", encoding="utf-8")
    for name in ("broken.json", "missing.json"):
        with pytest.raises(DamagedError, match=f"{name}: no vocabulary can be read"):
            CharacterVocabulary.load(tmp_path / name)
    for content in ("5", '{"a": 1}', '["ab"]', "[1]"):
        (tmp_path / "other.json").write_text(content, encoding="utf-8")
        with pytest.raises(DamagedError, match=r"other.json: .* it is no list of single characters"):
            CharacterVocabulary.load(tmp_path / "other.json")


def test_bytes() -> None:
    vocabulary = BytesVocabulary()
    assert vocabulary.encode("あa") == [0xE3, 0x81, 0x82, 0x61]
    assert max(vocabulary.encode("\U0010ffff")) < vocabulary.size
    assert vocabulary.decode([0xE3, 0x81, 0x82, 0xFF]) == "あ\ufffd"


def test_tokens_of_an_llm() -> None:
    tokenizer = build_tokenizer("bytes", ())
    vocabulary = TokenizerVocabulary(tokenizer, 300)
    assert vocabulary.size == 300
    ids = vocabulary.encode("聞き耳 ok")
    assert len(ids) == len("聞き耳 ok".encode())
    assert vocabulary.decode([*ids, tokenizer.eos_token_id]) == "聞き耳 ok"


def test_control_tokens_are_named() -> None:
    assert BytesVocabulary().control == {}
    tokenizer = build_tokenizer("bytes", [], ["<|audio|>"])
    vocabulary = TokenizerVocabulary(tokenizer, 300)
    assert vocabulary.control[2] == "<|end|>"
    assert "<|audio|>" in vocabulary.control.values()
    assert vocabulary.decode(list(vocabulary.control)) == ""
    assert not set(vocabulary.encode("<|end")) & set(vocabulary.control)

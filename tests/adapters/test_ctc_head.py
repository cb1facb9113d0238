from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    HubertConfig,
    HubertForCTC,
    ParakeetCTCConfig,
    ParakeetEncoderConfig,
    ParakeetForCTC,
    Wav2Vec2Config,
    Wav2Vec2ForCTC,
    WhisperConfig,
)

from kikimimi import AdapterContext, CharacterVocabulary, WeightsError
from kikimimi.contracts.vocabulary import BytesVocabulary
from kikimimi.errors import DamagedError
from kikimimi_adapters.ctc import CTCAdapter

TEXTS = ["abc", "cab"]


def context(in_dim: int = 5, out_dim: int = 5, **known: Any) -> AdapterContext:
    given: dict[str, Any] = {"texts": lambda: TEXTS, **known}
    return AdapterContext(in_dim=in_dim, out_dim=out_dim, frame_rate=50.0, **given)


def build(known: AdapterContext | None = None, **options: Any) -> CTCAdapter:
    torch.manual_seed(0)
    return CTCAdapter(CTCAdapter.Config(**options), known or context()).eval()


def test_vocabularies() -> None:
    characters = build().ctc
    assert characters.vocabulary.encode("cab!") == [3, 1, 2, 0]
    assert (characters.blank_id, characters.head.out_features) == (4, 5)
    bytes_ = build(context(texts=None), vocabulary="bytes").ctc
    assert bytes_.vocabulary.encode("あ") == [0xE3, 0x81, 0x82]
    assert bytes_.vocabulary.decode([0xE3, 0x81, 0x82, 0xFF]) == "あ\ufffd"
    assert (bytes_.blank_id, bytes_.head.out_features) == (256, 257)
    llm = build(context(vocabulary=CharacterVocabulary("xyz"), texts=None), vocabulary="llm").ctc
    assert llm.vocabulary.encode("zx") == [3, 1]


def test_characters_come_back_from_the_assets(tmp_path: Path) -> None:
    adapter = build()
    adapter.save_assets(tmp_path)
    again = build(context(texts=None, assets=tmp_path))
    again.load_state_dict(adapter.state_dict())
    assert again.ctc.vocabulary.encode("cab!") == [3, 1, 2, 0]
    (tmp_path / "ctc_vocabulary.json").write_text("[")
    with pytest.raises(DamagedError, match=r"ctc_vocabulary.json: no vocabulary can be read"):
        build(context(texts=None, assets=tmp_path))


def test_other_vocabularies_leave_no_assets(tmp_path: Path) -> None:
    build(vocabulary="bytes").save_assets(tmp_path)
    build(context(vocabulary=CharacterVocabulary("xyz")), vocabulary="llm").save_assets(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [
        ("characters", "vocabulary: characters is built from the transcripts .* Allowed without: bytes, llm"),
        ("llm", "vocabulary: llm needs an LLM, and there is none here. Allowed: characters, bytes"),
    ],
)
def test_refuses_a_vocabulary_that_cannot_be_had(vocabulary: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(context(texts=None), vocabulary=vocabulary)


def test_bytes_spell_every_text() -> None:
    text = "聞き耳 ears"
    assert BytesVocabulary().decode(BytesVocabulary().encode(text)) == text


LABELS = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, "A": 5, "B": 6, "'": 7}


def save_ctc_model(folder: Path, architecture: str = "wav2vec2") -> Tensor:
    """Save a tiny CTC model of transformers with its vocabulary; return the weight of its head."""
    small: dict[str, Any] = {
        "vocab_size": 8,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "conv_dim": (8,),
        "conv_kernel": (4,),
        "conv_stride": (4,),
        "num_conv_pos_embeddings": 4,
        "num_conv_pos_embedding_groups": 2,
    }
    weight: Tensor
    if architecture == "parakeet":
        encoder = ParakeetEncoderConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
        )
        parakeet = ParakeetForCTC(ParakeetCTCConfig(vocab_size=8, pad_token_id=7, encoder_config=encoder))
        parakeet.save_pretrained(folder)
        weight = parakeet.ctc_head.weight.detach()[..., 0]
    else:
        model = (
            Wav2Vec2ForCTC(Wav2Vec2Config(**small))
            if architecture == "wav2vec2"
            else HubertForCTC(HubertConfig(**small))
        )
        model.save_pretrained(folder)
        weight = model.lm_head.weight.detach()
    (folder / "vocab.json").write_text(json.dumps(LABELS))
    return weight


def from_head(folder: Path, in_dim: int = 16, **options: Any) -> CTCAdapter:
    adapter = build(context(in_dim), vocabulary="head", head_weights=str(folder), **options)
    adapter.load_weights()
    return adapter


@pytest.mark.parametrize("architecture", ["wav2vec2", "hubert", "parakeet"])
def test_takes_the_head_of_a_ctc_model(tmp_path: Path, architecture: str) -> None:
    weight = save_ctc_model(tmp_path, architecture)
    adapter = from_head(tmp_path, freeze_head=True, loss_weight=0.0)
    assert torch.equal(adapter.ctc.head.weight, weight)
    assert adapter.ctc.blank_id == (7 if architecture == "parakeet" else 0)
    assert adapter.pretrained_names() == {"ctc.head.weight", "ctc.head.bias"}
    frozen = {name for name, p in adapter.named_parameters() if not p.requires_grad}
    assert frozen == adapter.pretrained_names()
    assert not adapter.uses_transcripts


def test_a_head_that_is_not_frozen_learns() -> None:
    assert build().uses_transcripts
    assert all(p.requires_grad for p in build().parameters())
    assert build().pretrained_names() == set()


def test_a_heads_own_spelling(tmp_path: Path) -> None:
    save_ctc_model(tmp_path)
    vocabulary = from_head(tmp_path).ctc.vocabulary
    assert vocabulary.encode("ab B'é") == [5, 6, 4, 6, 7, 3]
    assert vocabulary.decode([5, 6, 4, 6]) == "AB B"
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"unk_token": "'", "word_delimiter_token": "A"})
    )
    assert from_head(tmp_path).ctc.vocabulary.encode("a é") == [5, 5, 7]


def test_no_character_becomes_blank(tmp_path: Path) -> None:
    save_ctc_model(tmp_path)
    (tmp_path / "vocab.json").write_text(json.dumps({"_": 0, "<unk>": 3}))
    assert from_head(tmp_path).ctc.vocabulary.encode("_") == [3]


def test_a_head_with_a_tokenizer_file(tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit

    save_ctc_model(tmp_path, "parakeet")
    (tmp_path / "vocab.json").unlink()
    tokenizer = Tokenizer(WordLevel({"one": 0, "two": 1, "?": 2}, unk_token="?"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    vocabulary = from_head(tmp_path).ctc.vocabulary
    assert (vocabulary.encode("two one three"), vocabulary.size) == ([1, 0, 2], 8)


def test_refuses_a_head_of_another_width(tmp_path: Path) -> None:
    save_ctc_model(tmp_path)
    with pytest.raises(
        WeightsError, match=r"lm_head: does not fit CTCHead .*weight \(is \[8, 16\], needs \[8, 5\]"
    ):
        from_head(tmp_path, in_dim=5)


def test_refuses_a_model_without_a_head(tmp_path: Path) -> None:
    save_ctc_model(tmp_path)
    save_file({"encoder.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"holds no CTC head. Read are the tensors lm_head.weight"):
        from_head(tmp_path)


def test_refuses_a_model_that_names_no_blank(tmp_path: Path) -> None:
    WhisperConfig().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "pad_token_id": None}))
    with pytest.raises(WeightsError, match=r"config.json has no pad_token_id, as those of CTC models have"):
        from_head(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 3, "pad_token_id": 3}))
    with pytest.raises(WeightsError, match="pad_token_id 3 is no label of 3"):
        from_head(tmp_path)


@pytest.mark.parametrize(
    ("vocab", "message"),
    [
        (None, "says nowhere what the labels of its head are"),
        ({"a": 8}, r"labels that are no numbers below 8, the number of the head's: 'a'"),
        ({"jpn": {"a": 1}}, "'jpn'. A vocabulary for each language is not read"),
        ({"a": 1}, "vocab.json has no '<unk>'"),
    ],
)
def test_refuses_a_head_without_labels(tmp_path: Path, vocab: Any, message: str) -> None:
    save_ctc_model(tmp_path)
    (tmp_path / "vocab.json").unlink()
    if vocab is not None:
        (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    with pytest.raises(WeightsError, match=message):
        from_head(tmp_path)

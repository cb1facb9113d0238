from __future__ import annotations

import json
from dataclasses import replace
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

from kikimimi import AdapterContext, CharacterVocabulary, Padded, WeightsError
from kikimimi.errors import RunError
from kikimimi.testing import parametrize_checks
from kikimimi_adapters.ctc import CTCAdapter, group_runs
from kikimimi_adapters.ctc_head import CTCHead
from kikimimi_adapters.ctc_vocabulary import ByteVocabulary
from kikimimi_adapters.mlp import MLP

TEXTS = ["abc", "cab"]
BLANK = 4
"""Of a head over a, b, c: 0 stands for an unknown character, 1 to 3 for these."""


def context(in_dim: int = 5, out_dim: int = 5, **known: Any) -> AdapterContext:
    given: dict[str, Any] = {"texts": lambda: TEXTS, **known}
    return AdapterContext(in_dim=in_dim, out_dim=out_dim, frame_rate=50.0, **given)


def build(known: AdapterContext | None = None, **options: Any) -> CTCAdapter:
    torch.manual_seed(0)
    return CTCAdapter(CTCAdapter.Config(**options), known or context()).eval()


def forced(**options: Any) -> CTCAdapter:
    """Return an adapter whose head reads the label off the frame (one-hot) and that copies averages."""
    adapter = build(**options)
    (proj,) = adapter.proj
    with torch.no_grad():
        for layer in (adapter.ctc.head, proj):
            assert isinstance(layer, torch.nn.Linear)
            layer.weight.copy_(torch.eye(5))
            layer.bias.zero_()
    return adapter


def frames_of(labels: str) -> Tensor:
    """Return frames with these labels (`_` is blank), the k-th of size k + 1."""
    at = ["?abc_".index(label) for label in labels]
    return torch.nn.functional.one_hot(torch.tensor(at), 5) * (torch.arange(len(at)) + 1.0)[:, None]


def sized(*values: dict[str, float]) -> list[list[float]]:
    return [[token.get(label, 0.0) for label in "?abc_"] for token in values]


@parametrize_checks(
    CTCAdapter,
    non_blank=CTCAdapter.Config(),
    average=CTCAdapter.Config(mode="average", num_layers=2),
)
def test_contract(check: Any) -> None:
    check()


def test_average_makes_a_token_of_every_run() -> None:
    out = forced(mode="average")(Padded.stack([frames_of("__aab_b")])).tokens
    expected = sized({"_": 1.5}, {"a": 3.5}, {"b": 5.0}, {"_": 6.0}, {"b": 7.0})
    assert out.values[0].tolist() == expected
    assert out.lengths.tolist() == [5]


def test_non_blank_drops_blanks_and_keeps_what_they_separate_apart() -> None:
    out = forced()(Padded.stack([frames_of("__aab_b")])).tokens
    assert out.values[0].tolist() == sized({"a": 3.5}, {"b": 5.0}, {"b": 7.0})
    assert out.lengths.tolist() == [3]


@pytest.mark.parametrize("mode", ["average", "non_blank"])
def test_a_clip_of_blanks_is_one_token_the_average_of_all_its_frames(mode: str) -> None:
    out = forced(mode=mode)(Padded.stack([frames_of("___"), frames_of("_")])).tokens
    assert out.lengths.tolist() == [1, 1]
    assert out.values[:, 0].tolist() == sized({"_": 2.0}, {"_": 1.0})


def test_a_batch_of_unequal_lengths() -> None:
    adapter = forced()
    batch = Padded.stack([frames_of("a_bb_c"), frames_of("__"), frames_of("bbb")])
    dirty = Padded(batch.values.masked_fill(~batch.mask()[..., None], float("nan")), batch.lengths)
    out = adapter(dirty).tokens
    assert out.lengths.tolist() == [3, 1, 1]
    first, second, third = out.unstack()
    assert first.tolist() == sized({"a": 1.0}, {"b": 3.5}, {"c": 6.0})
    assert second.tolist() == sized({"_": 1.5})
    assert third.tolist() == sized({"b": 2.0})


def test_as_many_tokens_as_frames_at_most() -> None:
    adapter = forced()
    out = adapter(Padded.stack([frames_of("abcabc")])).tokens
    assert out.lengths.tolist() == [adapter.max_tokens(6)] == [6]


def test_groups_by_hand() -> None:
    labels = torch.tensor([[4, 1, 1, 4, 1, 2], [4, 4, 4, 1, 1, 1]])
    real = torch.tensor([[True] * 6, [True] * 3 + [False] * 3])
    groups, lengths = group_runs(labels, real, BLANK)
    assert groups[0].tolist() == [-1, 0, 0, -1, 1, 2]
    assert groups[1].tolist() == [0, 0, 0, -1, -1, -1]
    assert lengths.tolist() == [3, 1]


def test_the_gradient_passes_through_averages_and_not_through_the_choice_of_runs() -> None:
    adapter = build()
    frames = torch.randn(9, 5, requires_grad=True)
    adapter(Padded.stack([frames])).tokens.values.square().sum().backward()
    assert frames.grad is not None
    assert frames.grad.any()
    assert adapter.ctc.head.weight.grad is None


def by_torch(adapter: CTCAdapter, clips: list[Tensor], targets: list[list[int]]) -> Tensor:
    """Score clips with torch's loss, one padded batch."""
    scores = torch.nn.utils.rnn.pad_sequence([adapter.ctc.head(clip) for clip in clips]).log_softmax(-1)
    return torch.nn.functional.ctc_loss(
        scores,
        torch.nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids in targets], batch_first=True),
        torch.tensor([len(clip) for clip in clips]),
        torch.tensor([len(ids) for ids in targets]),
        blank=BLANK,
    )


def test_the_loss_is_torchs() -> None:
    adapter = build(loss_weight=0.3)
    clips = [torch.randn(length, 5) for length in (9, 14, 6)]
    out = adapter(Padded.stack(clips), ["abc", "cabba", "z"])
    expected = 0.3 * by_torch(adapter, clips, [[1, 2, 3], [3, 1, 2, 2, 1], [0]])
    torch.testing.assert_close(out.losses["ctc"], expected)
    assert out.counts == {"ctc_without_transcript": 0, "ctc_infeasible": 0}


def test_a_loss_worked_out_by_hand() -> None:
    # Two frames, even odds for 5 labels, target a: aa, a_, _a out of 25 paths, over one label.
    adapter = build()
    with torch.no_grad():
        adapter.ctc.head.weight.zero_()
        adapter.ctc.head.bias.zero_()
    out = adapter(Padded.stack([torch.randn(2, 5)]), ["a"])
    assert out.losses["ctc"].item() == pytest.approx(-torch.tensor(3 / 25).log().item())


def test_clips_that_cannot_be_aligned_are_left_out_and_counted() -> None:
    adapter = build()
    clips = [torch.randn(length, 5) for length in (9, 3, 4, 8, 4)]
    # "aab" needs a blank between its equal labels: 4 frames, and the second clip has 3.
    out = adapter(Padded.stack(clips), ["abc", "aab", "abcab", None, "aab"])
    assert out.counts == {"ctc_without_transcript": 1, "ctc_infeasible": 2}
    expected = by_torch(adapter, [clips[0], clips[4]], [[1, 2, 3], [1, 1, 2]])
    torch.testing.assert_close(out.losses["ctc"], expected)


def test_the_loss_of_a_batch_is_the_mean_over_its_clips() -> None:
    adapter = build()
    clips, texts = [torch.randn(length, 5) for length in (9, 14, 6)], ["abc", "ca", ""]
    batch = Padded.stack(clips)
    dirty = Padded(batch.values.masked_fill(~batch.mask()[..., None], float("nan")), batch.lengths)
    together = adapter(dirty, texts).losses["ctc"]
    alone = [
        adapter(Padded.stack([clip]), [text]).losses["ctc"] for clip, text in zip(clips, texts, strict=True)
    ]
    torch.testing.assert_close(together, torch.stack(alone).mean())


def test_no_clip_with_a_loss_gives_a_zero_that_reaches_the_head() -> None:
    adapter = build()
    out = adapter(Padded.stack([torch.randn(2, 5), torch.randn(3, 5)]), [None, "abcabc"])
    assert out.counts == {"ctc_without_transcript": 1, "ctc_infeasible": 1}
    assert out.losses["ctc"].item() == 0.0
    out.losses["ctc"].backward()
    assert adapter.ctc.head.weight.grad is not None
    assert not adapter.ctc.head.weight.grad.any()


def test_without_transcripts_there_is_no_loss() -> None:
    adapter = build()
    out = adapter(Padded.stack([torch.randn(6, 5)]))
    assert (out.losses, out.counts) == ({}, {})


@pytest.mark.parametrize("train", [False, True])
def test_tokens_do_not_depend_on_transcripts(train: bool) -> None:
    adapter = build().train(train)
    batch = Padded.stack([torch.randn(9, 5), torch.randn(4, 5)])
    with_text, without = adapter(batch, ["abc", "b"]).tokens, adapter(batch).tokens
    assert torch.equal(with_text.values, without.values)
    assert torch.equal(with_text.lengths, without.lengths)


def test_the_head_learns_to_spell() -> None:
    adapter = build().train()
    frames = torch.randn(12, 5)
    optimiser = torch.optim.Adam(adapter.ctc.parameters(), lr=0.1)
    for _ in range(150):
        optimiser.zero_grad()
        adapter(Padded.stack([frames]), ["abc"]).losses["ctc"].backward()
        optimiser.step()
    out = adapter.eval()(Padded.stack([frames]))
    assert out.tokens.lengths.tolist() == [3]


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
    with pytest.raises(RunError, match=r"ctc_vocabulary.json: no vocabulary can be read"):
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


def test_tiny_config_needs_no_data() -> None:
    config = CTCAdapter.Config(mode="average", num_layers=2, loss_weight=0.5)
    tiny = CTCAdapter.tiny_config(config)
    assert tiny == replace(config, vocabulary="bytes", hidden_dim=32)
    head = CTCAdapter.Config(vocabulary="head", head_weights="org/name", freeze_head=True, loss_weight=0.0)
    assert CTCAdapter.tiny_config(head) == CTCAdapter.Config(vocabulary="bytes")


def test_shard_classes() -> None:
    assert build().shard_classes() == {CTCHead, MLP}


def test_two_layers() -> None:
    linears = [m for m in build(num_layers=2, hidden_dim=7).proj if isinstance(m, torch.nn.Linear)]
    assert [(m.in_features, m.out_features, m.bias is not None) for m in linears] == [
        (5, 7, True),
        (7, 5, True),
    ]


def test_bytes_spell_every_text() -> None:
    text = "聞き耳 ears"
    assert ByteVocabulary().decode(ByteVocabulary().encode(text)) == text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "sum"}, "mode must be average or non_blank, not 'sum'"),
        ({"vocabulary": "words"}, "vocabulary must be characters, bytes, llm or head, not 'words'"),
        ({"loss_weight": -1.0}, "loss_weight must be at least 0, not -1.0"),
        ({"vocabulary": "head"}, "vocabulary: head needs head_weights"),
        ({"head_weights": "org/name"}, "head_weights brings its own labels: set vocabulary: head"),
        ({"freeze_head": True}, "freeze_head needs head_weights"),
        ({"loss_weight": 0.0}, "loss_weight: 0 needs freeze_head"),
        ({"num_layers": 0}, "num_layers must be at least 1, not 0"),
        ({"num_layers": 2, "hidden_dim": 0}, "hidden_dim must be at least 1, not 0"),
        ({"hidden_dim": 8}, "hidden_dim is read only with num_layers of 2 or more"),
    ],
)
def test_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CTCAdapter.Config(**options)

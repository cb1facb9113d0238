from __future__ import annotations

import pytest
import torch

from kikimimi import (
    AdapterContext,
    AudioPart,
    Conversation,
    Generation,
    LLMContext,
    Message,
    Padded,
    TextPart,
)
from kikimimi.contracts.batch import Batch, Sample, collate
from kikimimi.model.speech_lm import SpeechLM
from kikimimi_adapters.mlp import MLPAdapter
from kikimimi_encoders.whisper.whisper import WhisperEncoder
from kikimimi_llms.decoder import Llama


@pytest.fixture(scope="module")
def model() -> SpeechLM:
    torch.manual_seed(0)
    encoder = WhisperEncoder(WhisperEncoder.tiny_config())
    llm = Llama(Llama.tiny_config(), LLMContext())
    context = AdapterContext(in_dim=encoder.dim, out_dim=llm.dim, frame_rate=encoder.frame_rate)
    return SpeechLM(encoder, MLPAdapter(MLPAdapter.tiny_config(), context), llm).eval()


def conversation(clips: int, answer: str, turns: int = 1) -> Conversation:
    messages = []
    for turn in range(turns):
        parts = [AudioPart(f"{turn}.{clip}.flac") for clip in range(clips)]
        messages.append(Message("user", (*parts, TextPart("何ですか"))))
        messages.append(Message("assistant", (TextPart(answer),)))
    return Conversation(tuple(messages))


def sample(model: SpeechLM, name: str, clips: int, answer: str, turns: int = 1) -> Sample:
    generator = torch.Generator().manual_seed(len(answer))
    waveforms = [
        0.1 * torch.randn(3000 + 2500 * i + 100 * len(answer), generator=generator)
        for i in range(clips * turns)
    ]
    return Sample(name, model.llm.render(conversation(clips, answer, turns)), waveforms)


@pytest.fixture(scope="module")
def samples(model: SpeechLM) -> list[Sample]:
    return [
        sample(model, "one", 1, "はい"),
        sample(model, "text", 0, "written only"),
        sample(model, "two", 2, "二つ聞こえます"),
        sample(model, "turns", 1, "はいはい", turns=3),
    ]


def test_a_part_names_the_blocks_of_itself_alone(model: SpeechLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """The adapter's linear layers are blocks; those of encoder and LLM stay where they were."""
    others = [block for block in model.blocks() if block not in set(model.adapter.modules())]
    monkeypatch.setattr(MLPAdapter, "shard_classes", lambda _: {torch.nn.Linear})
    linear = [module for module in model.adapter.modules() if isinstance(module, torch.nn.Linear)]
    found = model.blocks()
    assert len(linear) == 2
    assert [block for block in found if block not in others] == linear
    assert [block for block in found if block in others] == others


def test_a_pack_equals_its_conversations_one_by_one(model: SpeechLM, samples: list[Sample]) -> None:
    packed = model(collate(samples))
    single = [model(collate([s])) for s in samples]
    torch.testing.assert_close(packed.logits, torch.cat([s.logits for s in single]), atol=1e-5, rtol=0)
    assert torch.equal(packed.targets, torch.cat([s.targets for s in single]))
    assert packed.num_positions == sum(s.num_positions for s in single)
    assert packed.sequence.unique().tolist() == [0, 1, 2, 3]


def test_targets_are_the_answers(model: SpeechLM, samples: list[Sample]) -> None:
    scored = model(collate(samples))
    answers = [model.llm.decode(scored.targets[scored.sequence == i].tolist()) for i in range(4)]
    assert answers == ["はい", "written only", "二つ聞こえます", "はいはい" * 3]


def by_hand(model: SpeechLM, one: Sample) -> torch.Tensor:
    """Build the embeddings of one conversation piece by piece, without the packing code."""
    rows: list[torch.Tensor] = []
    clips = iter(one.clips)
    for position, token_id in enumerate(one.rendered.ids):
        if position in one.rendered.slots:
            rows.append(model.adapter(model.encoder(Padded.stack([next(clips)]))).tokens.unstack()[0])
        else:
            rows.append(model.llm.embed(torch.tensor([token_id])))
    return torch.cat(rows)


def test_audio_tokens_stand_in_their_slots(model: SpeechLM, samples: list[Sample]) -> None:
    packed, _ = model.pack(collate(samples))
    expected = [by_hand(model, one) for one in samples]
    assert packed.lengths.tolist() == [len(e) for e in expected]
    torch.testing.assert_close(packed.embeddings, torch.cat(expected), atol=1e-5, rtol=0)


def test_features_stand_for_waveforms(model: SpeechLM, samples: list[Sample]) -> None:
    one = samples[2]
    features = [model.encoder(Padded.stack([clip])).unstack()[0] for clip in one.clips]
    kept = collate([Sample(one.name, one.rendered, features)])
    assert kept.audio is None
    torch.testing.assert_close(model(kept).logits, model(collate([one])).logits, atol=1e-5, rtol=0)


def test_gradients_reach_encoder_adapter_and_llm(model: SpeechLM, samples: list[Sample]) -> None:
    model.zero_grad()
    model(collate(samples)).logits.square().mean().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    assert not model.encoder.get_parameter("model.embed_positions.weight").requires_grad
    model.zero_grad()


def prompts(model: SpeechLM) -> list[Sample]:
    result = []
    for clips in (1, 2):
        asked = conversation(clips, "x").prompt()
        waveforms = [0.1 * torch.randn(4000 * (i + clips)) for i in range(clips)]
        result.append(Sample(f"p{clips}", model.llm.render(asked, generate=True), waveforms))
    return result


def test_batched_generation_equals_single(model: SpeechLM) -> None:
    torch.manual_seed(1)
    asked = prompts(model)
    settings = Generation(max_new_tokens=8)
    together = model.generate_ids(collate(asked), settings)
    assert together == [model.generate_ids(collate([one]), settings)[0] for one in asked]


def test_longest_conversation_is_bounded(model: SpeechLM, samples: list[Sample]) -> None:
    for one in samples:
        packed, _ = model.pack(collate([one]))
        assert len(packed.ids) == model.max_positions(len(one.rendered.ids), [len(c) for c in one.clips])


def test_nothing_to_learn_is_an_error(model: SpeechLM) -> None:
    with pytest.raises(ValueError, match="nothing to learn: no target token in p1"):
        model(collate(prompts(model)[:1]))


def test_clips_and_slots_must_agree(model: SpeechLM) -> None:
    with pytest.raises(ValueError, match="one: 0 clips for 1 audio parts"):
        Sample("one", model.llm.render(conversation(1, "x")), [])


def test_batches_move(model: SpeechLM, samples: list[Sample]) -> None:
    moved: Batch = collate(samples).to(torch.device("meta"))
    assert moved.ids.is_meta
    assert moved.audio is not None
    assert moved.audio.values.is_meta

"""Every encoder, adapter and LLM together: a batch of one, a batch of many and generation agree."""

from __future__ import annotations

import pytest
import torch

from kikimimi import AdapterContext, AudioPart, Conversation, Generation, LLMContext, Message, TextPart
from kikimimi.contracts import registry
from kikimimi.contracts.batch import Sample, collate
from kikimimi.model.speech_lm import SpeechLM

COMBINATIONS = [
    *(("whisper", adapter, "llama") for adapter in registry.names("adapter") if adapter != "tltr"),
    *((encoder, "mlp", "llama") for encoder in registry.names("encoder") if encoder != "whisper"),
    *(("whisper", "ctc", llm) for llm in registry.names("llm") if llm != "llama"),
]


def build(encoder_name: str, adapter_name: str, llm_name: str) -> SpeechLM:
    torch.manual_seed(0)
    encoder_class, adapter_class, llm_class = (
        registry.load(kind, name)
        for kind, name in (("encoder", encoder_name), ("adapter", adapter_name), ("llm", llm_name))
    )
    encoder = encoder_class(encoder_class.tiny_config())
    llm = llm_class(llm_class.tiny_config(), LLMContext())
    context = AdapterContext(
        in_dim=encoder.dim, out_dim=llm.dim, frame_rate=encoder.frame_rate, vocabulary=llm.vocabulary
    )
    return SpeechLM(encoder, adapter_class(adapter_class.tiny_config(), context), llm).eval()


def sample(model: SpeechLM, question: str, clips: int, *, answer: str | None) -> Sample:
    parts: tuple[AudioPart | TextPart, ...] = tuple(AudioPart(f"{i}.flac") for i in range(clips))
    parts = (*parts, TextPart(question))
    turns = [Message("user", parts)]
    if answer is not None:
        turns.append(Message("assistant", (TextPart(answer),)))
    rendered = model.llm.render(Conversation(tuple(turns)), generate=answer is None)
    generator = torch.Generator().manual_seed(len(question))
    lengths = [4000 + 3000 * i + 700 * len(question) for i in range(clips)]
    return Sample(question, rendered, [0.1 * torch.randn(n, generator=generator) for n in lengths])


@pytest.mark.parametrize(("encoder", "adapter", "llm"), COMBINATIONS, ids="-".join)
def test_one_many_and_generation_agree(encoder: str, adapter: str, llm: str) -> None:
    model = build(encoder, adapter, llm)
    asked = [("what?", 1), ("written only", 0), ("which of these", 2)]
    samples = [sample(model, question, clips, answer="はい、" + question) for question, clips in asked]
    with torch.no_grad():
        together, single = model(collate(samples)), [model(collate([one])) for one in samples]
    alone = torch.cat([one.logits for one in single])
    torch.testing.assert_close(together.logits, alone, atol=1e-5 * max(1, float(alone.abs().max())), rtol=0)
    assert together.num_positions == sum(one.num_positions for one in single)
    # The first token that greedy generation gives is the likeliest one where the answer begins.
    prompts = [sample(model, question, clips, answer=None) for question, clips in asked]
    packed, _ = model.pack(collate(prompts))
    with torch.no_grad():
        logits = model.llm(packed.embeddings, packed.lengths, packed.lengths.cumsum(0) - 1)
    generated = model.llm.generate(
        list(torch.split(packed.embeddings, packed.lengths.tolist())), Generation(max_new_tokens=1)
    )
    for first, row in zip(generated, logits, strict=True):
        # Nothing where the likeliest token ends the turn.
        assert not first or first == [int(row.argmax())]
    for one, text in zip(
        prompts, model.generate_ids(collate(prompts), Generation(max_new_tokens=5)), strict=True
    ):
        assert model.generate_ids(collate([one]), Generation(max_new_tokens=5)) == [text]

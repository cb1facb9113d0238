from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kikimimi import Loss
from kikimimi.contracts.batch import Batch
from kikimimi.errors import RecipeError
from kikimimi.model.speech_lm import SpeechLM
from kikimimi.model.step import ModelStep
from kikimimi.recipe import load_recipe
from kikimimi_objectives.align import Alignment

MakeModel = Callable[..., SpeechLM]
MakeBatch = Callable[..., Batch]
CIF = "{name: cif, vocabulary: llm}"


def loss_of(model: SpeechLM, batch: Batch, **options: str) -> Loss:
    return Alignment(Alignment.Config(**options)).loss(ModelStep(model, batch))  # type: ignore[arg-type]


def heard(model: SpeechLM, batch: Batch) -> list[Tensor]:
    output = model.pack(batch, batch.transcripts)[1]
    assert output is not None
    return output.tokens.unstack()


def embedded(model: SpeechLM, batch: Batch) -> list[Tensor]:
    return [
        model.embed(torch.tensor(model.llm.vocabulary.encode(text))) for text in batch.transcripts if text
    ]


def test_token_by_token(make_model: MakeModel, make_batch: MakeBatch) -> None:
    model = make_model(CIF)
    batch = make_batch(model)
    pairs = list(zip(heard(model, batch), embedded(model, batch), strict=True))
    assert [len(found) for found, _ in pairs] == [len(wanted) for _, wanted in pairs] == [6, 15, 3]
    found, wanted = (torch.cat(side) for side in zip(*pairs, strict=True))
    l2 = loss_of(model, batch)
    torch.testing.assert_close(l2.value, F.mse_loss(found, wanted), atol=1e-6, rtol=0)
    cosine = loss_of(model, batch, distance="cosine")
    dots = torch.stack([f @ w / (f.norm() * w.norm()) for f, w in zip(found, wanted, strict=True)])
    torch.testing.assert_close(cosine.value, 1 - dots.mean(), atol=1e-6, rtol=0)
    for loss in (l2, cosine):
        assert loss.counts == {"align_unknown": 0, "align_length": 0}
        torch.testing.assert_close(loss.measures["align/similarity"], dots.mean().detach())


def test_spans_of_audio_tokens(make_model: MakeModel, make_batch: MakeBatch) -> None:
    model = make_model()
    batch = make_batch(model)
    means, wanted = [], embedded(model, batch)
    for clip, targets in zip(heard(model, batch), wanted, strict=True):
        number, length = len(targets), len(clip)
        assert length > number
        for i in range(number):
            means.append(clip[i * length // number : (i + 1) * length // number].mean(0))
    loss = loss_of(model, batch, match="pool")
    torch.testing.assert_close(
        loss.value, F.mse_loss(torch.stack(means), torch.cat(wanted)), atol=1e-6, rtol=0
    )
    assert loss.counts == {"align_unknown": 0, "align_length": 0}


def test_what_does_not_match_is_left_out_and_counted(make_model: MakeModel, make_batch: MakeBatch) -> None:
    model = make_model()
    batch = make_batch(model, unknown=(1,))
    exact = loss_of(model, batch)  # one audio token per frame: no clip has as many as its text
    assert exact.counts == {"align_unknown": 1, "align_length": 2}
    assert float(exact.value.detach()) == 0
    assert exact.measures == {}
    few = make_model("{name: mlp, downsample: 8}")
    batch = make_batch(few, unknown=(0,))
    lengths = [len(clip) for clip in heard(few, batch)]
    assert lengths[2] >= 3
    assert lengths[1] < 15  # fewer audio tokens than the text has
    pooled = loss_of(few, batch, match="pool")
    assert pooled.counts == {"align_unknown": 1, "align_length": 1}
    alone = loss_of(
        few,
        make_batch(
            few, talks=[("い", "は", "は"), ("い", "は", "は"), ("あ", "それは", "い")], unknown=(0, 1)
        ),
        match="pool",
    )
    torch.testing.assert_close(pooled.value, alone.value, atol=1e-6, rtol=0)


def test_an_empty_transcript_matches_nothing(make_model: MakeModel, make_batch: MakeBatch) -> None:
    model = make_model()
    batch = make_batch(model, talks=[(" ", "何", "はい")])
    silent = Batch(**{**vars(batch), "transcripts": ("",)})
    assert loss_of(model, silent, match="pool").counts == {"align_unknown": 0, "align_length": 1}


def test_gradients_reach_the_adapter_and_not_the_embeddings(
    make_model: MakeModel, make_batch: MakeBatch
) -> None:
    model = make_model(CIF)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    loss_of(model, make_batch(model)).value.backward()  # type: ignore[no-untyped-call]
    for part, reached in (("encoder", True), ("adapter", True), ("llm", False)):
        gradients = [p.grad for p in getattr(model, part).parameters()]
        assert any(g is not None and bool(g.any()) for g in gradients) == reached, part


def test_the_llm_does_not_run(
    make_model: MakeModel, make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(CIF)
    monkeypatch.setattr(type(model.llm), "forward", None)
    step = ModelStep(model, make_batch(model))
    loss = Alignment(Alignment.Config()).loss(step)
    assert float(loss.value.detach()) > 0
    assert set(step.losses) == {"quantity"}  # the adapter's own loss is handed on all the same
    assert step.counts == {"cif_without_transcript": 0, "cif_too_long": 0}


@pytest.mark.parametrize("frozen", [True, False])
def test_text_alone_is_zero(make_model: MakeModel, make_batch: MakeBatch, frozen: bool) -> None:
    model = make_model(CIF)
    if not frozen:
        model.llm.requires_grad_(True)
    loss = loss_of(model, make_batch(model, clips=False))
    assert float(loss.value.detach()) == 0
    assert loss.value.requires_grad
    loss.value.backward()  # type: ignore[no-untyped-call]
    assert not any(p.grad is not None and bool(p.grad.any()) for p in model.parameters())


def test_a_recipe_that_trains_the_llm_by_it_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        "name: small\nencoder: {name: whisper, weights: random}\nadapter: {name: mlp}\nllm: {name: llama}\n"
        "stages:\n  one:\n    objective: {name: align, match: pool}\n    train: {adapter: {}, llm: {}}\n"
        "    data: {x: {shards: x.tar, task: asr}}\n    steps: 1\n",
        encoding="utf-8",
    )
    with pytest.raises(RecipeError, match=r"train\.llm: objective 'align' gives the llm no gradient"):
        load_recipe(path)
    terms = "stages.one.objective={name: sum, terms: {text: ce, near: {name: align, match: pool}}}"
    assert load_recipe(path, [terms]).stages["one"].objective.name == "sum"

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from kikimimi import DataError, Generation, Loss
from kikimimi.contracts.batch import Batch, Rows
from kikimimi.contracts.scored import Scored
from kikimimi.errors import RecipeError
from kikimimi.model.reference import Reference
from kikimimi.model.speech_lm import SpeechLM
from kikimimi.model.step import ModelStep
from kikimimi.recipe import load_recipe
from kikimimi_objectives.distill import Distillation

MakeModel = Callable[..., SpeechLM]
MakeBatch = Callable[..., Batch]
GREEDY = Generation(max_new_tokens=6)
TALKS = [("はい", "何と", "はいと言う"), ("こんにちは", "返事は", "どうも"), ("あ", "それは", "い")]


def loss_of(
    model: SpeechLM,
    batch: Batch,
    frozen: Callable[[], AbstractContextManager[None]] | None = None,
    **options: Any,
) -> Loss:
    objective = Distillation(Distillation.Config(**options))
    assert objective.reference == ("llm",)
    return objective.loss(ModelStep(model, batch, frozen or Reference(model, ())))


@pytest.mark.parametrize("temperature", [None, 1.0, 3.0])
def test_kl_over_the_answers(make_model: MakeModel, make_batch: MakeBatch, temperature: float | None) -> None:
    model = make_model()
    batch = make_batch(model, "written")
    loss = loss_of(model, batch, temperature=temperature)
    teacher, student = model(batch.in_writing()), model(batch)
    divided = temperature or 2.0
    terms = []
    for wanted, found in zip(teacher.logits, student.logits, strict=True):
        p, q = (wanted / divided).softmax(0), (found / divided).softmax(0)
        terms.append((p * (p.log() - q.log())).sum())
    assert len(terms) == sum(len(answer.encode()) + 1 for _, _, answer in TALKS)  # bytes and the turn's end
    torch.testing.assert_close(loss.value, torch.stack(terms).mean(), atol=1e-6, rtol=0)
    torch.testing.assert_close(
        loss.value,
        F.kl_div(
            (student.logits / divided).log_softmax(1),
            (teacher.logits / divided).softmax(1),
            reduction="batchmean",
        ),
        atol=1e-6,
        rtol=0,
    )
    assert float(loss.value.detach()) > 0
    same = (teacher.logits.argmax(1) == student.logits.argmax(1)).float().mean()
    assert float(loss.measures["distill/agreement"]) == pytest.approx(float(same))


def test_the_same_prompts_cost_nothing(make_model: MakeModel, make_batch: MakeBatch) -> None:
    model = make_model()
    choices: list[dict[str, Any]] = [{}, {"continuation": "own", "generate": GREEDY}]
    for options in choices:
        views = Distillation(Distillation.Config(**options)).views
        loss = loss_of(model, make_batch(model, *views, clips=False), **options)
        assert abs(float(loss.value.detach())) < 1e-7
        assert float(loss.measures["distill/agreement"]) == 1


def test_the_teacher_is_the_llm_as_it_was(make_model: MakeModel, make_batch: MakeBatch) -> None:
    model = make_model(trains="llm.")
    batch = make_batch(model, "written")
    before = copy.deepcopy(model)
    reference = Reference(model, [n for n, _ in model.named_parameters() if n.startswith("llm.")])
    with torch.no_grad():
        for parameter in model.llm.parameters():
            parameter.mul_(1.1)
    loss = loss_of(model, batch, reference, temperature=1.0)
    wanted = F.kl_div(
        model(batch).logits.log_softmax(1),
        before(batch.in_writing()).logits.log_softmax(1),
        reduction="batchmean",
        log_target=True,
    )
    torch.testing.assert_close(loss.value, wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize("options", [{}, {"continuation": "own", "generate": GREEDY}])
def test_updates_that_act_on_audio_alone(
    make_model: MakeModel, make_batch: MakeBatch, options: dict[str, Any]
) -> None:
    """The gate of the updates is the model's own again when its backward pass begins."""
    model = make_model(lora="{rank: 2, modality: audio}", trains="adapter.")
    lora = [name for name, _ in model.named_parameters() if ".lora_" in name]
    for name in lora:
        model.get_parameter(name).requires_grad_(True)
    reference = Reference(model, lora)
    with torch.no_grad():
        for name in lora:
            model.get_parameter(name).add_(0.3)
    batch = make_batch(model, *Distillation(Distillation.Config(**options)).views)
    loss_of(model, batch, reference, **options).value.backward()  # type: ignore[no-untyped-call]
    assert model.gate is not None
    is_open, lengths = model.gate.state()
    assert not isinstance(is_open, bool)
    assert is_open.tolist() == [True] * 3
    assert lengths is not None
    assert all(bool(model.get_parameter(name).grad.any()) for name in lora)  # type: ignore[union-attr]


def own_answers(model: SpeechLM, batch: Batch, generation: Generation) -> list[list[int]]:
    written = model.generate_ids(batch.prompts_in_writing(), generation)
    end = int(batch.ids[batch.loss][-1])
    return [ids + ([end] if len(ids) < generation.max_new_tokens else []) for ids in written]


def test_ce_to_the_teachers_own_answer(make_model: MakeModel, make_batch: MakeBatch) -> None:
    model = make_model()
    batch = make_batch(model, "prompt", "written_prompt")
    answers = own_answers(model, batch, GREEDY)
    loss = loss_of(model, batch, loss="ce", continuation="own", generate=GREEDY)
    # By hand: each prompt, audio tokens in place, and the answer's embeddings after it, alone.
    terms = []
    for number, answer in enumerate(answers):
        prompt = batch.views["prompt"]
        rows = torch.split(prompt.ids, prompt.lengths.tolist())[number]
        alone = make_batch(model, "prompt", "written_prompt", talks=[TALKS[number]])
        alone = replace(alone, audio=nth(batch, number))
        packed, _ = model.pack(replace(alone, **vars(alone.views["prompt"])))
        assert len(rows) == len(alone.views["prompt"].ids)
        given = torch.cat([packed.embeddings, model.embed(torch.tensor(answer))[:-1]])
        positions = torch.arange(len(packed.embeddings) - 1, len(given))
        logits = model.llm(given, torch.tensor([len(given)]), positions)
        terms.append(F.cross_entropy(logits, torch.tensor(answer), reduction="none"))
    torch.testing.assert_close(loss.value, torch.cat(terms).mean(), atol=1e-5, rtol=0)
    assert loss.counts == {
        "continuation_tokens": sum(map(len, answers)),
        "continuation_cut": sum(len(answer) == 6 for answer in answers),
    }


def nth(batch: Batch, number: int) -> Any:
    assert batch.audio is not None
    return type(batch.audio).stack([batch.audio.unstack()[number]])


def test_kl_along_the_teachers_own_answer(make_model: MakeModel, make_batch: MakeBatch) -> None:
    model = make_model()
    batch = make_batch(model, "prompt", "written_prompt")
    answered = batch.answered(own_answers(model, batch, GREEDY))
    loss = loss_of(model, batch, temperature=1.0, continuation="own", generate=GREEDY)
    wanted = F.kl_div(
        model(answered).logits.log_softmax(1),
        model(answered.in_writing()).logits.softmax(1),
        reduction="batchmean",
    )
    torch.testing.assert_close(loss.value, wanted, atol=1e-6, rtol=0)


def test_an_answer_that_ends_by_itself_has_its_end(
    make_model: MakeModel, make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model()
    batch = make_batch(model, "prompt", "written_prompt")
    monkeypatch.setattr(model.llm, "generate", lambda prompts, generation: [[7, 8], [], [9] * 6])
    step = ModelStep(model, batch, Reference(model, ()))
    options = Distillation.Config(loss="ce", continuation="own", generate=GREEDY)
    seen: list[Batch] = []
    score = step.score

    def note(batch: Batch) -> Scored:
        seen.append(batch)
        return score(batch)

    monkeypatch.setattr(step, "score", note)
    loss = Distillation(options).loss(step)
    end = model.llm.chat.end_of_turn  # type: ignore[union-attr]
    scored = model(seen[0])
    answers = [scored.targets[scored.sequence == i].tolist() for i in range(3)]
    assert answers == [[7, 8, end], [end], [9] * 6]
    assert loss.counts == {"continuation_tokens": 10, "continuation_cut": 1}


def test_generation_stays_within_the_context(make_model: MakeModel, make_batch: MakeBatch) -> None:
    model = make_model()
    batch = make_batch(model, "prompt", "written_prompt")
    packed, _ = model.pack(replace(batch, **vars(batch.views["prompt"])))
    longest = int(packed.lengths.max())
    model.llm.context_length = longest + 2
    loss = loss_of(model, batch, loss="ce", continuation="own", generate=GREEDY)
    assert loss.counts == {"continuation_tokens": 6, "continuation_cut": 3}
    model.llm.context_length = longest
    with pytest.raises(
        DataError, match=r"x/\d: a prompt of up to \d+ positions leaves no room for an answer"
    ):
        loss_of(model, batch, continuation="own")


def test_sampling_in_a_validation_is_the_same_each_time(make_model: MakeModel, make_batch: MakeBatch) -> None:
    model = make_model()
    batch = make_batch(model, "prompt", "written_prompt")
    options: dict[str, Any] = {
        "loss": "ce",
        "continuation": "own",
        "generate": Generation(max_new_tokens=6, temperature=5.0),
    }
    torch.manual_seed(3)
    drawn = [float(loss_of(model, batch, **options).value.detach()) for _ in range(2)]
    assert drawn[0] != drawn[1]
    model.eval()
    before = torch.random.get_rng_state()
    kept = [float(loss_of(model, batch, **options).value.detach()) for _ in range(2)]
    assert kept[0] == kept[1]
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_model_trains_on_after_generating(make_model: MakeModel, make_batch: MakeBatch) -> None:
    """What generation made without gradients is not used with them, under autocast either."""
    model = make_model()
    batch = make_batch(model, "prompt", "written_prompt")
    for context in (nullcontext(), torch.autocast("cpu", torch.bfloat16)):
        model.zero_grad()
        with context:
            loss = loss_of(model, batch, loss="ce", continuation="own", generate=GREEDY)
        loss.value.backward()  # type: ignore[no-untyped-call]
        for name, parameter in model.adapter.named_parameters():
            assert parameter.grad is not None, name
            assert bool(parameter.grad.any()), name


def test_answers_that_are_spelled_otherwise_in_writing(make_model: MakeModel, make_batch: MakeBatch) -> None:
    model = make_model()
    batch = make_batch(model, "written")
    other = make_batch(
        model, "written", talks=[TALKS[0], (TALKS[1][0], TALKS[1][1], "どうぞ、いいえ"), TALKS[2]]
    )
    said = r"x/1: the answers are 10 tokens after audio and 22 in writing, and not the same ones"
    with pytest.raises(DataError, match=said):
        loss_of(model, replace(batch, views=other.views))


def test_prompts_are_continued() -> None:
    prompts = Rows(
        ids=torch.tensor([1, 0, 2, 3, 0, 0, 4]),
        loss=torch.tensor([True, False, False, False, False, False, False]),
        lengths=torch.tensor([3, 1, 3]),
        slots=torch.tensor([1, 4, 5]),
        clips=torch.tensor([0, 1, 2]),
    )
    found = prompts.continued([[7, 8], [], [9]])
    assert found.ids.tolist() == [1, 0, 2, 7, 8, 3, 0, 0, 4, 9]
    assert found.loss.tolist() == [False] * 3 + [True] * 2 + [False] * 4 + [True]
    assert found.lengths.tolist() == [5, 1, 4]
    assert found.slots.tolist() == [1, 6, 7]
    assert found.clips.tolist() == [0, 1, 2]


@pytest.mark.parametrize("call", ["in_writing", "prompts_in_writing", "answered"])
def test_views_that_are_not_there(make_model: MakeModel, make_batch: MakeBatch, call: str) -> None:
    batch = make_batch(make_model())
    given: tuple[Any, ...] = ([],) if call == "answered" else ()
    with pytest.raises(ValueError, match="the batch does not hold its"):
        getattr(batch, call)(*given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, r"temperature: must be above 0, not 0\.0"),
        (
            {"loss": "ce", "continuation": "own", "temperature": 1.0},
            "temperature is read only where loss is kl",
        ),
        ({"generate": GREEDY}, "generate is read only where continuation is own"),
        ({"loss": "ce"}, "loss: ce over the data's answers looks at no teacher: take objective ce"),
    ],
)
def test_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Distillation.Config(**options)


def test_what_is_not_known_has_no_view(make_model: MakeModel, make_batch: MakeBatch) -> None:
    for view in ("written", "written_prompt"):
        with pytest.raises(ValueError, match=r"it is not known what is said in clip '0\.flac'"):
            make_batch(make_model(), view, unknown=(1,))


def test_ranks_that_share_a_model_do_not_generate(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        "name: small\nencoder: {name: whisper, weights: random}\nadapter: {name: mlp}\nllm: {name: llama}\n"
        "stages:\n  one:\n    objective: {name: distill, continuation: own}\n    train: {adapter: {}}\n"
        "    data: {x: {shards: x.tar, task: asr}}\n    steps: 1\n",
        encoding="utf-8",
    )
    assert load_recipe(path).stages["one"].objective.name == "distill"
    sharded = "trainer.strategy=fsdp"
    with pytest.raises(RecipeError, match=r"stages\.one\.objective: lets the LLM write answers in training"):
        load_recipe(path, [sharded])
    load_recipe(path, [sharded, "stages.one.objective=distill"])

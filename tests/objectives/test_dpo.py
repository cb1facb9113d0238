from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from kikimimi import AudioPart, Chosen, Conversation, Loss, Message, Rendered, TextPart
from kikimimi.contracts.batch import Batch, Sample, collate, render_view
from kikimimi.model.speech_lm import SpeechLM
from kikimimi.model.step import ModelStep
from kikimimi.recipe import Recipe, load_recipe
from kikimimi.testing import tiny_model
from kikimimi_objectives.dpo import DPO
from kikimimi_objectives.sum import Sum

RECIPE = """
name: small
encoder: {name: whisper, weights: random}
adapter: {name: mlp}
llm: {name: llama}
stages:
  dpo:
    objective: dpo
    train: {adapter: {}, llm: {}}
    data: {x: {shards: x.tar, task: chat}}
    steps: 1
"""
TURNS = [
    ("こんにちは", "はい、こんにちは", "知りません"),
    ("今日は", "晴れです。とても", "雨"),
    ("あ", "い", "ううう"),
]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    path = tmp_path_factory.mktemp("dpo") / "r.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return load_recipe(path)


@pytest.fixture
def model(recipe: Recipe) -> SpeechLM:
    return tiny_model(recipe)


def samples(model: SpeechLM, *, audio: bool) -> list[Sample]:
    made = []
    for number, (asked, chosen, rejected) in enumerate(TURNS):
        heard = (AudioPart("0.flac"),) if audio else ()
        turns = (Message("user", (*heard, TextPart(asked))), Message("assistant", (TextPart(chosen),)))
        talk = Conversation(turns)
        noise = torch.randn(4000 + 3000 * number, generator=torch.Generator().manual_seed(number))
        made.append(
            Sample(
                f"x/{number}",
                model.llm.render(talk),
                [0.1 * noise] if audio else [],
                views={"rejected": model.llm.render(talk.answered(rejected))},
            )
        )
    return made


def changed(model: SpeechLM) -> SpeechLM:
    """A copy that training might have made of it."""
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return other


def exchange(model: SpeechLM, reference: SpeechLM) -> Any:
    """Stands for the reference of a stage: for a while the model has the reference's weights."""

    @contextmanager
    def frozen() -> Iterator[None]:
        held = copy.deepcopy(model.state_dict())
        model.load_state_dict(reference.state_dict())
        try:
            yield
        finally:
            model.load_state_dict(held)

    return frozen


def loss_of(model: SpeechLM, reference: SpeechLM, batch: Batch, **options: Any) -> Loss:
    objective = DPO(DPO.Config(**options))
    assert objective.views == {"rejected"}
    return objective.loss(ModelStep(model, batch, exchange(model, reference)))


def log_probability(model: SpeechLM, sample: Sample) -> tuple[torch.Tensor, int]:
    scored = model(collate([sample]))
    logs = F.log_softmax(scored.logits.float(), dim=-1)
    return logs[torch.arange(len(scored.targets)), scored.targets].sum(), len(scored.targets)


def by_hand(model: SpeechLM, reference: SpeechLM, made: list[Sample]) -> list[tuple[float, ...]]:
    """Log-ratios of both answers of each pair and their lengths, one conversation at a time."""
    rows = []
    for sample in made:
        row: list[float] = []
        for rendered in (sample.rendered, sample.views["rejected"]):
            one = replace(sample, rendered=rendered, views={})
            (now, length), (before, _) = log_probability(model, one), log_probability(reference, one)
            row += [float((now - before).detach()), length]
        rows.append(tuple(row))
    return rows


@pytest.mark.parametrize("audio", [True, False])
def test_sigmoid_is_equation_7(model: SpeechLM, audio: bool) -> None:
    trained, made = changed(model), samples(model, audio=audio)
    found = loss_of(trained, model, collate(made), beta=0.3)
    rows = by_hand(trained, model, made)
    differences = torch.tensor([chosen - rejected for chosen, _, rejected, _ in rows])
    assert float(found.value.detach()) == pytest.approx(
        float(-F.logsigmoid(0.3 * differences).mean()), abs=1e-5
    )
    assert float(found.measures["reward/margin"]) == pytest.approx(0.3 * float(differences.mean()), abs=1e-4)
    assert float(found.measures["reward/accuracy"]) == pytest.approx(float((differences > 0).float().mean()))
    chosen = 0.3 * sum(row[0] for row in rows) / len(rows)
    assert float(found.measures["reward/chosen"]) == pytest.approx(chosen, abs=1e-4)
    assert found.counts == {"pairs": 3}


def test_label_smoothing_and_ipo(model: SpeechLM) -> None:
    trained, made = changed(model), samples(model, audio=True)
    rows = by_hand(trained, model, made)
    differences = torch.tensor([chosen - rejected for chosen, _, rejected, _ in rows])
    smooth = -(0.9 * F.logsigmoid(0.1 * differences) + 0.1 * F.logsigmoid(-0.1 * differences)).mean()
    found = loss_of(trained, model, collate(made), label_smoothing=0.1)
    assert float(found.value.detach()) == pytest.approx(float(smooth), abs=1e-5)
    means = torch.tensor([c / length - r / other for c, length, r, other in rows])
    found = loss_of(trained, model, collate(made), form="ipo", beta=0.2)
    assert float(found.value.detach()) == pytest.approx(float((means - 2.5).square().mean()), abs=1e-4)


def several_turns(model: SpeechLM, *, audio: bool = True) -> list[Sample]:
    """Pairs at the end of conversations whose earlier answers are long."""
    made = []
    for number, (asked, chosen, rejected) in enumerate(TURNS):
        before = (
            Message("user", (TextPart("前置き"),)),
            Message("assistant", (TextPart("長い話です。" * 4),)),
        )
        heard = (AudioPart("0.flac"),) if audio else ()
        question = Message("user", (*heard, TextPart(asked)))
        talk = Conversation((*before, question, Message("assistant", (TextPart(chosen),))), rejected)
        noise = torch.randn(4000, generator=torch.Generator().manual_seed(number))
        views = {"rejected": render_view(model.llm, talk, "rejected")}
        clips = [0.1 * noise] if audio else []
        made.append(Sample(f"x/{number}", model.llm.render(talk), clips, views=views))  # type: ignore[arg-type]
    return made


def completion(model: SpeechLM, reference: SpeechLM, sample: Sample, answer: Rendered) -> tuple[float, int]:
    """The log-ratio of a last answer, and its length: what trl sums, and how it divides."""
    one = replace(sample, rendered=replace(answer, loss=answer_mask(model, answer)), views={})
    (now, length), (before, _) = log_probability(model, one), log_probability(reference, one)
    return float((now - before).detach()), length


def answer_mask(model: SpeechLM, answer: Rendered) -> list[bool]:
    """trl's `completion_mask`: all that follows the last header of the assistant, which ends the prompt."""
    tokenizer: Any = model.llm.tokenizer
    header = tokenizer.convert_tokens_to_ids("<|assistant|>")
    start = len(answer.ids) - answer.ids[::-1].index(header)
    return [place >= start for place in range(len(answer.ids))]


@pytest.mark.parametrize("form", ["sigmoid", "ipo"])
def test_the_answer_is_the_last_turn(model: SpeechLM, form: str) -> None:
    trained, made = changed(model), several_turns(model)
    found = loss_of(trained, model, collate(made), form=form, beta=0.1)
    pairs = [
        (completion(trained, model, sample, sample.rendered), completion(trained, model, sample, rejected))
        for sample in made
        for rejected in [sample.views["rejected"]]
    ]
    if form == "ipo":
        h = torch.tensor([c / length - r / other for (c, length), (r, other) in pairs])
        expected = (h - 5).square().mean()
    else:
        h = torch.tensor([c - r for (c, _), (r, _) in pairs])
        expected = -F.logsigmoid(0.1 * h).mean()
    assert float(found.value.detach()) == pytest.approx(float(expected), abs=1e-4)


def test_all_turns_weigh_in_the_mean_of_ipo(model: SpeechLM) -> None:
    """Of sums the same earlier answers cancel; a mean they draw to what both answers have in common."""
    trained, made = changed(model), several_turns(model)
    batch = collate(made)
    last, whole = (
        float(loss_of(trained, model, batch, turns=turns).value.detach()) for turns in ("last", "all")
    )
    assert last == pytest.approx(whole, abs=1e-5)
    last, whole = (
        float(loss_of(trained, model, batch, form="ipo", turns=turns).value.detach())
        for turns in ("last", "all")
    )
    rows = by_hand(trained, model, made)
    h = torch.tensor([c / length - r / other for c, length, r, other in rows])
    assert whole == pytest.approx(float((h - 5).square().mean()), abs=1e-4)
    assert abs(last - whole) > 0.5
    assert (DPO(DPO.Config()).turns, DPO(DPO.Config(turns="all")).turns) == ("last", "all")


def test_dropout_is_off_unless_it_is_asked_for() -> None:
    asked = Sum.Config(terms={"text": Chosen.of("objective", "ce"), "pairs": Chosen.of("objective", "dpo")})
    assert DPO(DPO.Config()).eval_mode
    assert not DPO(DPO.Config(disable_dropout=False)).eval_mode
    assert Sum(asked).eval_mode
    assert Sum(asked).turns == "all"
    assert Sum(Sum.Config(terms={"pairs": Chosen.of("objective", "dpo")})).turns == "last"
    assert not Sum(Sum.Config()).eval_mode


def test_a_model_that_has_not_moved(model: SpeechLM) -> None:
    found = loss_of(model, copy.deepcopy(model), collate(samples(model, audio=True)))
    assert float(found.value.detach()) == pytest.approx(0.693147, abs=1e-5)
    assert float(found.measures["reward/margin"]) == 0
    found.value.backward()  # type: ignore[no-untyped-call]
    assert any(p.grad is not None and bool(p.grad.any()) for p in model.adapter.parameters())


def test_clips_are_encoded_once(model: SpeechLM, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []
    forward = type(model.encoder).forward

    def counted(self: Any, audio: Any) -> Any:
        encoded.append(len(audio))
        return forward(self, audio)

    monkeypatch.setattr(type(model.encoder), "forward", counted)
    batch = collate(samples(model, audio=True))
    reference = copy.deepcopy(model)
    loss_of(model, reference, batch)
    assert encoded == [3, 3]  # the encoder trains: the reference hears with an encoder of its own
    encoded.clear()
    model.encoder.requires_grad_(False)
    loss_of(model, reference, batch)
    assert encoded == [3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": 0.0}, "beta: must be above 0, not 0.0"),
        ({"label_smoothing": 0.5}, "label_smoothing: must be at least 0 and below 0.5, not 0.5"),
        ({"form": "ipo", "label_smoothing": 0.1}, "label_smoothing is read only where form is sigmoid"),
    ],
)
def test_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DPO.Config(**options)


def test_a_batch_without_pairs(model: SpeechLM) -> None:
    plain = [replace(sample, views={}) for sample in samples(model, audio=False)]
    with pytest.raises(ValueError, match="the batch holds no rejected answers"):
        loss_of(model, model, collate(plain))
    with pytest.raises(ValueError, match="1 of 3 samples have a rejected answer: all or none"):
        collate([samples(model, audio=False)[0], *plain[1:]])


@pytest.mark.slow
# Of a beta of 0.1, IPO makes losses around 25, of which float32 has no 1e-5.
@pytest.mark.parametrize(("form", "beta"), [("sigmoid", 0.1), ("ipo", 0.5)])
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.filterwarnings("ignore")  # trl's and accelerate's own
def test_equals_trl_on_text(model: SpeechLM, tmp_path: Path, form: str, beta: float, several: bool) -> None:
    from datasets import Dataset
    from transformers import LlamaForCausalLM
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    trained = changed(model)
    made = several_turns(model, audio=False) if several else samples(model, audio=False)
    found = loss_of(trained, model, collate(made), form=form, beta=beta)

    def plain(of: SpeechLM) -> Any:
        other = LlamaForCausalLM(copy.deepcopy(of.llm.model.config))  # type: ignore[union-attr]
        other.set_attn_implementation("eager")
        other.load_state_dict(of.llm.model.state_dict())  # type: ignore[union-attr]
        return other

    tokenizer: Any = model.llm.tokenizer
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    trainer: Any = DPOTrainer(
        model=plain(trained),
        ref_model=plain(model),
        args=DPOConfig(
            output_dir=str(tmp_path),
            beta=beta,
            loss_type=[form],
            use_cpu=True,
            bf16=False,
            report_to=[],
            gradient_checkpointing=False,
        ),
        train_dataset=Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}]),
        processing_class=tokenizer,
    )
    answers = [sample.rendered for sample in made] + [sample.views["rejected"] for sample in made]
    longest = max(len(answer.ids) for answer in answers)
    rows = [[*a.ids, *[0] * (longest - len(a.ids))] for a in answers]
    inputs = {
        "input_ids": torch.tensor(rows),
        "attention_mask": torch.tensor([[i < len(a.ids) for i in range(longest)] for a in answers]).long(),
        "completion_mask": torch.tensor(
            [[int(x) for x in answer_mask(model, a)] + [0] * (longest - len(a.ids)) for a in answers]
        ),
    }
    trainer.model.eval()
    theirs = trainer.compute_loss(trainer.model, inputs)
    assert float(found.value.detach()) == pytest.approx(float(theirs.detach()), abs=1e-5)

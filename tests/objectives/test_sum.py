from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kikimimi import Chosen
from kikimimi.contracts.batch import Batch
from kikimimi.errors import RecipeError
from kikimimi.model.reference import Reference
from kikimimi.model.speech_lm import SpeechLM
from kikimimi.model.step import ModelStep
from kikimimi.recipe import load_recipe, to_yaml
from kikimimi_objectives.align import Alignment
from kikimimi_objectives.ce import CrossEntropy
from kikimimi_objectives.sum import Sum

RECIPE = """
name: small
encoder: {name: whisper, weights: random}
adapter: {name: mlp}
llm: {name: llama}
stages:
  one:
    objective: {name: sum, terms: {text: ce, near: {name: align, match: pool}}, weights: {near: 0.1}}
    train: {adapter: {}}
    data: {x: {shards: x.tar, task: asr}}
    steps: 1
"""

MakeModel = Callable[..., SpeechLM]
MakeBatch = Callable[..., Batch]


def of(name: str, **options: Any) -> Chosen:
    return Chosen.of("objective", name, **options)


@pytest.mark.parametrize("turned", [False, True])
def test_terms_share_one_pass(
    make_model: MakeModel, make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch, turned: bool
) -> None:
    model = make_model()
    batch = make_batch(model)
    text = CrossEntropy(CrossEntropy.Config()).loss(ModelStep(model, batch))
    near = Alignment(Alignment.Config(match="pool")).loss(ModelStep(model, batch))
    ran: list[str] = []
    for part in ("encoder", "adapter", "llm"):
        kind = type(getattr(model, part))
        forward = kind.forward

        def run(self: Any, *given: Any, part: str = part, forward: Any = forward) -> Any:
            ran.append(part)
            return forward(self, *given)

        monkeypatch.setattr(kind, "forward", run)
    terms = {"near": of("align", match="pool"), "text": of("ce")}
    if turned:
        terms = dict(reversed(terms.items()))
    step = ModelStep(model, batch)
    loss = Sum(Sum.Config(terms=terms, weights={"near": 0.25})).loss(step)
    assert sorted(ran) == ["adapter", "encoder", "llm"]
    torch.testing.assert_close(loss.value, text.value + 0.25 * near.value)
    assert set(loss.parts) == {"text", "near"}
    torch.testing.assert_close(loss.parts["near"], near.value)
    assert set(loss.measures) == {"align/similarity"}
    assert loss.counts == {"align_unknown": 0, "align_length": 0}
    assert step.num_positions == step.scored.num_positions


def test_what_two_terms_call_the_same_is_told_apart(make_model: MakeModel, make_batch: MakeBatch) -> None:
    model = make_model()
    terms = {"exact": of("align"), "near": of("align", match="pool"), "text": of("ce")}
    loss = Sum(Sum.Config(terms=terms)).loss(ModelStep(model, make_batch(model, unknown=(0,))))
    assert loss.counts == {
        "exact/align_unknown": 1,
        "exact/align_length": 2,
        "near/align_unknown": 1,
        "near/align_length": 0,
    }


def test_it_asks_for_what_its_terms_ask_for(make_model: MakeModel, make_batch: MakeBatch) -> None:
    objective = Sum(Sum.Config(terms={"a": of("dpo"), "b": of("distill"), "c": of("align")}))
    assert objective.views == {"rejected", "written"}
    assert objective.reference == ("encoder", "adapter", "llm")
    assert objective.reaches == ("encoder", "adapter", "llm")
    assert not objective.generates
    own = Sum(Sum.Config(terms={"a": of("distill", continuation="own"), "b": of("align")}))
    assert own.views == {"prompt", "written_prompt"}
    assert own.reference == ("llm",)
    assert own.generates
    near = Sum(Sum.Config(terms={"a": of("align"), "b": of("align", distance="cosine")}))
    assert near.reaches == ("encoder", "adapter")


def test_a_teacher_after_a_term_that_ran_the_model(make_model: MakeModel, make_batch: MakeBatch) -> None:
    """Under autocast the teacher has its own weights, and the model its own, whatever ran before."""
    model = make_model(trains="llm.")
    batch = make_batch(model, "written")
    names = [name for name, _ in model.named_parameters() if name.startswith("llm.")]
    reference = Reference(model, names)
    with torch.no_grad():
        for name in names:
            model.get_parameter(name).mul_(1.5)
    found = {}
    for terms in (("text", "like"), ("like", "text")):
        chosen = {name: of({"text": "ce", "like": "distill"}[name]) for name in terms}
        with torch.autocast("cpu", torch.bfloat16):
            found[terms[0]] = Sum(Sum.Config(terms=chosen)).loss(ModelStep(model, batch, reference)).parts
    for name in ("text", "like"):
        torch.testing.assert_close(found["text"][name], found["like"][name])
    with torch.autocast("cpu", torch.bfloat16):
        alone = CrossEntropy(CrossEntropy.Config()).loss(ModelStep(model, batch)).value
    torch.testing.assert_close(found["like"]["text"], alone)


def test_options_in_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    recipe = load_recipe(path)
    config = recipe.stages["one"].objective.config
    assert {name: term.name for name, term in config.terms.items()} == {"text": "ce", "near": "align"}
    again = tmp_path / "again.yaml"
    again.write_text(to_yaml(recipe), encoding="utf-8")
    assert load_recipe(again) == recipe
    other = load_recipe(path, ["stages.one.objective.terms.near.distance=cosine"])
    assert other.stages["one"].objective.config.terms["near"].config.distance == "cosine"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "weights={naer: 2}",
            r"objective\.weights\.naer: there is no term 'naer'\. Did you mean 'near'\? Terms: near, text",
        ),
        ("weights={near: 0}", r"objective\.weights\.near: must be above 0, not 0\.0"),
        ("terms={}", r"objective\.terms: must not be empty"),
        ("terms={text: c}", r"objective\.terms\.text: no objective is called 'c'.*Registered objectives"),
        ("terms={text: ce, near: {name: sum}}", r"objective\.terms\.near: a sum inside a sum"),
        (
            "terms={text: {name: ce, beta: 1}, near: align}",
            r"terms\.text\.beta: objective 'ce' has no option",
        ),
    ],
)
def test_wrong_options(tmp_path: Path, change: str, message: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    if change.startswith("terms"):
        text = RECIPE.replace(
            "terms: {text: ce, near: {name: align, match: pool}}", change.replace("=", ": ")
        )
    else:
        text = RECIPE.replace("weights: {near: 0.1}", change.replace("=", ": "))
    path.write_text(text.replace(", weights: {near: 0.1}", "") if change == "terms={text: c}" else text)
    with pytest.raises(RecipeError, match=message):
        load_recipe(path)

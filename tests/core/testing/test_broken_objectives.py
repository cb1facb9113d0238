"""Objectives that each break the contract in one way, and the check that has to notice."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kikimimi import Loss, Objective, ObjectiveConfig, Step
from kikimimi.contracts.batch import View
from kikimimi.testing import Check, ContractError, list_checks, parametrize_checks
from kikimimi.testing.checks import FOR_OBJECTIVES


class Focal(Objective):
    """An objective of one's own that keeps the contract, and that the others break."""

    @dataclass(kw_only=True, frozen=True)
    class Config(ObjectiveConfig):
        gamma: float = 1.0
        """How much less a token counts that is known already."""

    @property
    def views(self) -> frozenset[View]:
        return frozenset({"written"})

    @property
    def reference(self) -> tuple[str, ...]:
        return ("llm",)

    def loss(self, step: Step) -> Loss:
        with step.frozen():
            step.model(step.batch.in_writing())
        losses = F.cross_entropy(step.scored.logits.float(), step.scored.targets, reduction="none")
        value = ((1 - (-losses).exp()) ** self.config.gamma * losses).mean()
        return Loss(value, {"focal": value}, {"focal/known": (-losses.detach()).exp().mean()}, {"tokens": 3})


@parametrize_checks(Focal, one=Focal.Config(), two=Focal.Config(gamma=2.0))
def test_an_objective_of_ones_own_passes(check: Check) -> None:
    check()


class Plain(Objective):
    Config = ObjectiveConfig
    sign = 1.0

    def loss(self, step: Step) -> Loss:
        return Loss(self.sign * F.cross_entropy(step.scored.logits.float(), step.scored.targets))


class Backwards(Plain):
    sign = -1.0


class Odds(Objective):
    """The odds of the chosen answer against the rejected one (without a reference)."""

    Config = ObjectiveConfig
    sign = 1.0

    @property
    def views(self) -> frozenset[View]:
        return frozenset({"rejected"})

    def loss(self, step: Step) -> Loss:
        pairs = len(step.batch.names)
        sums, _ = step.score(step.batch.with_rejected()).log_probabilities(2 * pairs)
        return Loss(F.softplus(self.sign * (sums[pairs:] - sums[:pairs])).mean())


class PrefersTheRejected(Odds):
    sign = -1.0


@pytest.mark.parametrize("objective", [Plain, Odds])
def test_one_whose_loss_falls_as_the_model_improves_passes(objective: type[Objective]) -> None:
    next(one for one in list_checks("objective", objective) if one.name == "lower_is_better")()


class Loose(Focal):
    Config: ClassVar[Any] = Focal.Config  # pyright: ignore[reportIncompatibleVariableOverride]


class OfAComponent(Loose):
    @dataclass(kw_only=True, frozen=True)
    class Config:
        gamma: float = 1.0
        """How much."""


class NoDefault(Loose):
    @dataclass(kw_only=True, frozen=True)
    class Config(ObjectiveConfig):
        gamma: float
        """How much."""


class Undocumented(Loose):
    @dataclass(kw_only=True, frozen=True)
    class Config(ObjectiveConfig):
        gamma: float = 1.0


class Named(Loose):
    @dataclass(kw_only=True, frozen=True)
    class Config(ObjectiveConfig):
        name: str = "x"
        """What recipes call the plugin."""


class WantsImages(Focal):
    @property
    def views(self) -> frozenset[Any]:
        return frozenset({"drawn"})


class WantsAList(Focal):
    @property
    def views(self) -> Any:
        return ["written"]


class ComparesTheVoice(Focal):
    @property
    def reference(self) -> tuple[str, ...]:
        return ("voice",)


class ReachesNothing(Focal):
    @property
    def reaches(self) -> tuple[str, ...]:
        return ()


class Perhaps(Focal):
    @property
    def generates(self) -> Any:
        return None


class Bare(Focal):
    def loss(self, step: Step) -> Any:
        return super().loss(step).value


class PerToken(Focal):
    def loss(self, step: Step) -> Loss:
        return Loss(F.cross_entropy(step.scored.logits, step.scored.targets, reduction="none"))


class Infinite(Focal):
    def loss(self, step: Step) -> Loss:
        return Loss(super().loss(step).value / 0)


class OddPart(Focal):
    def loss(self, step: Step) -> Loss:
        made = super().loss(step)
        return replace(made, parts={"focal": float(made.value.detach())})  # type: ignore[dict-item]


class Detached(Focal):
    def loss(self, step: Step) -> Loss:
        return Loss(super().loss(step).value.detach())


class ReachesLess(Focal):
    @property
    def reaches(self) -> tuple[str, ...]:
        return ("adapter",)


class ReachesMore(Focal):
    """Looks at the text alone, and says nothing of it."""

    def loss(self, step: Step) -> Loss:
        scored = step.score(step.batch.in_writing())
        return Loss(scored.logits.float().square().mean())


class Explodes(Focal):
    def loss(self, step: Step) -> Loss:
        value = super().loss(step).value
        return Loss(value + (value.detach() - value).sqrt())


class Thaws(Focal):
    def loss(self, step: Step) -> Loss:
        weight = step.model.llm.get_parameter("model.lm_head.weight")
        weight.requires_grad_(True)
        return super().loss(step)


class Remembers(Focal):
    seen = 0

    def loss(self, step: Step) -> Loss:
        self.seen += 1
        return Loss(super().loss(step).value * self.seen)


class FirstCounts(Focal):
    def loss(self, step: Step) -> Loss:
        first = step.scored.sequence == 0
        return Loss(F.cross_entropy(step.scored.logits.float()[first], step.scored.targets[first]))


class PerConversation(Focal):
    """A mean of means, and says nothing of it."""

    def loss(self, step: Step) -> Loss:
        losses = F.cross_entropy(step.scored.logits.float(), step.scored.targets, reduction="none")
        each = [losses[step.scored.sequence == number].mean() for number in range(len(step.batch.names))]
        return Loss(torch.stack(each).mean())


class Total(Focal):
    def loss(self, step: Step) -> Loss:
        found = super().loss(step)
        return replace(found, value=found.value * step.batch.num_targets, parts={})


class AddsTheAdapters(Focal):
    def loss(self, step: Step) -> Loss:
        found = super().loss(step)
        return replace(found, value=found.value + sum(step.scored.losses.values()), parts={})


class LeavesAPartOut(Focal):
    def loss(self, step: Step) -> Loss:
        found = super().loss(step)
        return replace(found, parts={"focal": found.value, "rest": found.value.detach()})


class WeighsWhatIsNoPart(Focal):
    def loss(self, step: Step) -> Loss:
        return replace(super().loss(step), weights={"focus": 1.0})


class NeedsClips(Focal):
    def loss(self, step: Step) -> Loss:
        if step.tokens is None:
            return Loss(torch.zeros(()))
        return super().loss(step)


class MeanOfNone(Focal):
    def loss(self, step: Step) -> Loss:
        tokens = step.tokens
        seen = tokens.values.mean() if tokens else step.scored.logits[:0].mean()
        return Loss(super().loss(step).value + seen)


class Unwritten(Focal):
    """Needs no writing, so that a micro-batch without known words reaches it."""

    @property
    def views(self) -> frozenset[View]:
        return frozenset()

    @property
    def reference(self) -> tuple[str, ...]:
        return ()

    def loss(self, step: Step) -> Loss:
        self.look(step)
        return Loss(F.cross_entropy(step.scored.logits.float(), step.scored.targets))

    def look(self, step: Step) -> None: ...


class Literate(Unwritten):
    def look(self, step: Step) -> None:
        for text in step.batch.transcripts:
            len(text)  # type: ignore[arg-type]


class Speechless(Unwritten):
    def look(self, step: Step) -> None:
        if None in step.batch.transcripts:
            raise ValueError


class WithAGraph(Focal):
    def loss(self, step: Step) -> Loss:
        made = super().loss(step)
        return replace(made, measures={"focal/known": made.value})


class TakesAName(Focal):
    def loss(self, step: Step) -> Loss:
        return replace(super().loss(step), measures={"loss/known": torch.ones(())})


class Halves(Focal):
    def loss(self, step: Step) -> Loss:
        return replace(super().loss(step), counts={"tokens": 0.5})  # type: ignore[dict-item]


class Spaces(Focal):
    def loss(self, step: Step) -> Loss:
        return replace(super().loss(step), counts={"of tokens": 1})


class Meddles(Focal):
    def loss(self, step: Step) -> Loss:
        made = super().loss(step)
        with torch.no_grad():
            next(step.model.adapter.parameters()).add_(1)
        return made


class Falls(Focal):
    """Leaves the model asleep."""

    def loss(self, step: Step) -> Loss:
        cast(nn.Module, step.model).eval()
        return super().loss(step)


class Hasty(Focal):
    def loss(self, step: Step) -> Loss:
        made = super().loss(step)
        if made.value.requires_grad:
            made.value.backward(retain_graph=True)  # type: ignore[no-untyped-call]
        return made


class Penalised(Focal):
    """Needs gradients where there are none."""

    def loss(self, step: Step) -> Loss:
        value = super().loss(step).value
        (slope,) = torch.autograd.grad(value, next(step.model.adapter.parameters()), create_graph=True)
        return Loss(value + slope.square().mean())


class Crude(Focal):
    def loss(self, step: Step) -> Loss:
        return Loss(super().loss(step).value.to(step.scored.logits.dtype))


class Forgetful(Focal):
    def __getstate__(self) -> dict[str, Any]:
        return {"config": self.Config(gamma=3.0)}


class KeepsTheGraph(Focal):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.kept: list[torch.Tensor] = []

    def loss(self, step: Step) -> Loss:
        found = super().loss(step)
        self.kept.append(found.value)
        return found


class SeedsEverything(Focal):
    def loss(self, step: Step) -> Loss:
        torch.manual_seed(0)
        return super().loss(step)


class DividesInPlace(Focal):
    def loss(self, step: Step) -> Loss:
        step.scored.logits.div_(2.0)
        return super().loss(step)


class Unpicklable(Focal):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.function: Callable[[], float] = lambda: random.random()


@pytest.mark.parametrize(
    ("objective", "check", "message"),
    [
        (
            KeepsTheGraph,
            "again_is_the_same",
            r"expected no tensor to be kept, .*, found kept\[0\], kept\[1\]",
        ),
        (SeedsEverything, "again_is_the_same", "left alone, found that of torch seeded"),
        (DividesInPlace, "model_is_left_as_it_was", "expected the step's logits, .*, as they were, found"),
        (OfAComponent, "config_is_a_frozen_dataclass", r"expected a subclass of kikimimi\.ObjectiveConfig"),
        (NoDefault, "config_has_defaults", "gamma: expected a default, found none"),
        (Undocumented, "config_is_documented", r"under every field .* Undocumented\.Config\.gamma"),
        (Named, "config_survives_yaml", "recipes use that key themselves"),
        (WantsImages, "asks_for_what_there_is", "views: expected some of .*written_prompt, found drawn"),
        (WantsAList, "asks_for_what_there_is", "views: expected a frozenset, found list"),
        (
            ComparesTheVoice,
            "asks_for_what_there_is",
            r"reference: expected a tuple with .*, found \('voice',\)",
        ),
        (ReachesNothing, "asks_for_what_there_is", "reaches: expected at least one part, found none"),
        (Perhaps, "asks_for_what_there_is", "generates: expected true or false, found None"),
        (Bare, "loss_is_a_scalar", r"expected a kikimimi\.Loss, found Tensor"),
        (PerToken, "loss_is_a_scalar", r"loss: expected a scalar of floating point, found .* shape \(\d+,\)"),
        (Infinite, "loss_is_a_scalar", "loss: expected finite values"),
        (OddPart, "loss_is_a_scalar", "part focal: expected a tensor, found float"),
        (Detached, "loss_is_a_scalar", "loss: expected it to need gradients"),
        (
            ReachesLess,
            "gradients_reach_what_it_says",
            "reaches: .* not zero, adapter, encoder, llm, found ada",
        ),
        (ReachesMore, "gradients_reach_what_it_says", "reaches: expected the parts whose gradient"),
        (Explodes, "gradients_reach_what_it_says", "gradient of .*: expected finite values"),
        (Thaws, "gradients_reach_what_it_says", r"no gradient in what is frozen, found one in llm\."),
        (Thaws, "model_is_left_as_it_was", "expected what trains as it was, found it changed in llm"),
        (Remembers, "again_is_the_same", "the same micro-batch again: expected the same values"),
        (FirstCounts, "order_changes_nothing", "in the opposite order: expected the same values"),
        (
            PerConversation,
            "units_are_what_it_is_a_mean_over",
            "'loss', against the mean over the units of its parts: expected the same values",
        ),
        (Total, "twice_as_many_have_the_same_loss", "every conversation twice, .*: expected the same values"),
        (AddsTheAdapters, "losses_of_the_adapter_are_left_out", "larger by 10: expected the same values"),
        (LeavesAPartOut, "parts_add_up", "the sum of the parts, each times its weight, against the loss"),
        (WeighsWhatIsNoPart, "parts_add_up", "weights: expected names of parts, found focus"),
        (NeedsClips, "text_alone_is_taken", r"text alone: expected it to need gradients \(`Step\.zero`"),
        (MeanOfNone, "text_alone_is_taken", "loss of text alone: expected finite values"),
        (
            Literate,
            "unknown_words_are_taken_or_refused",
            "a loss or a ValueError, found TypeError: object of",
        ),
        (Speechless, "unknown_words_are_taken_or_refused", "an error that says why, found an empty one"),
        (WithAGraph, "measures_and_counts_are_plain", "measure focal/known: expected it detached"),
        (TakesAName, "measures_and_counts_are_plain", "measure loss/known: expected a name of its own"),
        (Halves, "measures_and_counts_are_plain", "count tokens: expected a whole number from 0, found 0.5"),
        (Spaces, "measures_and_counts_are_plain", "'of tokens': expected a name of letters"),
        (Meddles, "model_is_left_as_it_was", "the model's values as they were, found others in adapter"),
        (Falls, "model_is_left_as_it_was", "train and eval modes as they were, found others in"),
        (Hasty, "model_is_left_as_it_was", "no gradients before the backward pass, found them in"),
        (Backwards, "lower_is_better", "to make the targets more probable, found less"),
        (
            PrefersTheRejected,
            "lower_is_better",
            "chosen answers more probable than rejected ones",
        ),
        (Crude, "half_precision_runs", "expected float32, found torch.bfloat16"),
        (Forgetful, "pickling_keeps_it", "pickled and unpickled: expected the same values"),
    ],
)
def test_a_broken_objective_is_noticed(objective: type[Objective], check: str, message: str) -> None:
    found = next(one for one in list_checks("objective", objective) if one.name == check)
    with pytest.raises(ContractError, match=message):
        found()


@pytest.mark.parametrize(
    ("objective", "check", "message"),
    [
        (Unpicklable, "pickling_keeps_it", "pickle"),
        (Penalised, "validation_runs", "does not require grad"),
    ],
)
def test_what_an_objective_raises_fails_the_check(
    objective: type[Objective], check: str, message: str
) -> None:
    result = next(one for one in list_checks("objective", objective) if one.name == check).result()
    assert message in (result.error or "")


def test_an_objective_that_connects_when_imported_is_noticed(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "third_objective.py").write_text(
        "import socket\nfrom kikimimi import Objective\nsocket.getaddrinfo('example.org', 80)\n"
        "class Online(Objective):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("socket.getaddrinfo", lambda *arguments: [])
    import third_objective  # type: ignore[import-not-found]

    check = next(
        one for one in list_checks("objective", third_objective.Online) if one.name == "import_is_quiet"
    )
    assert "opens no connection" in (check.result().error or "")


def test_every_check_is_broken_by_an_objective() -> None:
    """The lists above and the test after them."""
    marks = [
        next(m for m in test.pytestmark if m.name == "parametrize")  # type: ignore[attr-defined]
        for test in (test_a_broken_objective_is_noticed, test_what_an_objective_raises_fails_the_check)
    ]
    broken = {check for mark in marks for _, check, _ in mark.args[1]} | {"import_is_quiet"}
    assert broken == {function.__name__ for function in FOR_OBJECTIVES}

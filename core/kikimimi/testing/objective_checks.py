"""Checks of objectives, on micro-batches of a tiny model: what they make of it, and leave as it was."""

from __future__ import annotations

import pickle
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor

from kikimimi.console.words import listing
from kikimimi.contracts.batch import Batch, Sample, View, collate, render_view
from kikimimi.contracts.component import AdapterOutput, Rendered
from kikimimi.contracts.conversation import AudioPart, Conversation, Message, TextPart
from kikimimi.contracts.objective import Loss, Objective, ObjectiveConfig, Turns
from kikimimi.model.step import ModelStep
from kikimimi.recipe.chosen import PARTS
from kikimimi.testing.subject import (
    NotTriedError,
    PlainSubject,
    check_named,
    expect,
    expect_close,
    expect_finite,
    expect_no_error,
    expect_not_seeded,
    expect_type,
    gradients_of,
    nudge,
    tensors_in,
)

if TYPE_CHECKING:
    from kikimimi.model.reference import Reference
    from kikimimi.model.speech_lm import SpeechLM

_Talk = tuple[str | None, str, str, str, int]
_TALKS: tuple[_Talk, ...] = (
    # what is said in the clip, the question, the answer, the rejected answer, samples; None: there is no clip
    ("はい", "何と言いましたか。", "はいと言いました。", "いいえ", 9_000),
    (None, "空は何色ですか。", "青", "赤い色です。", 0),
    ("こんにちは", "返事をしてください。", "こんにちは。", "さようなら", 14_000),
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9_.-]+)*")
_TEXT = slice(1, 2)
"""The conversation without a clip."""
_TAKEN = ("loss", "count", "lr", "gradient_norm", "validation_loss", "padding", "step", "stage")
"""What metrics call other things; a measure would stand in their place."""


@dataclass(frozen=True)
class TinyStage:
    """A stage in which everything trains, after some steps.

    Attributes:
        model: Encoder, adapter and the LLM's low-rank updates train.
        frozen: Makes the model what it was, where the objective asks for that.
    """

    model: SpeechLM
    frozen: Reference | None


class ObjectiveSubject(PlainSubject[Objective]):
    """An objective under test."""

    config_base = ObjectiveConfig

    def stage(self) -> TinyStage:
        """Assemble a tiny model whose adapter gives one audio token per token of what is said."""
        from kikimimi.model.reference import Reference
        from kikimimi.model.trainable import freeze_all_but
        from kikimimi.testing.tiny import tiny_model

        model = tiny_model(_recipe())
        names = [
            name
            for name, _ in model.named_parameters()
            if name not in model.fixed and (not name.startswith("llm.") or ".lora_" in name)
        ]
        freeze_all_but(model, names)
        parts = self.build().reference
        compared = [name for name in names if name.partition(".")[0] in parts]
        frozen = Reference(model, compared) if parts else None
        nudge(map(model.get_parameter, names), 0.05, seed=1)  # no more what it was at the stage's start
        return TinyStage(model, frozen)

    def batch(
        self, model: SpeechLM, part: slice = slice(None), *, known: bool = True, times: int = 1
    ) -> Batch:
        """Return a micro-batch with the views that the objective asks for, each conversation so many times.

        Raises:
            ValueError: A view cannot be made.
        """
        return collate([self._sample(model, talk, known) for talk in _TALKS[part] * times])

    def run(self, stage: TinyStage, batch: Batch, objective: Objective | None = None) -> Loss:
        """Return the loss of a micro-batch by an objective, or by one that is new."""
        found = (objective or self.build()).loss(ModelStep(stage.model, batch, stage.frozen))
        expect_type(found, Loss, "loss: expected a kikimimi.Loss")
        return found

    def loss_with_units(self, stage: TinyStage, batch: Batch) -> tuple[Loss, dict[str, int]]:
        """Return the loss of a micro-batch, and over how many units each of its terms is the mean."""
        objective, step = self.build(), ModelStep(stage.model, batch, stage.frozen)
        units = objective.units(step)
        found = objective.loss(step)
        return found, {name: one.number for name, one in units.items()} | dict(found.numbers)

    def _sample(self, model: SpeechLM, talk: _Talk, known: bool) -> Sample:
        said, question, answer, rejected, samples = talk
        clip = (AudioPart("0.flac", said if known else None),) if samples else ()
        asked = Message("user", (*clip, TextPart(question)))
        asks = Conversation((asked, Message("assistant", (TextPart(answer),))), rejected)
        views: dict[View, Rendered] = {
            view: render_view(model.llm, asks, view) for view in self.build().views
        }
        noise = torch.randn(samples, generator=torch.Generator().manual_seed(samples))
        waveforms = [0.1 * noise] if samples else []
        return Sample(f"kit/{question}", model.llm.render(asks), waveforms, asks.transcripts(), views)


def asks_for_what_there_is(subject: ObjectiveSubject) -> None:
    """`views`, `reference` and `reaches` name views and parts that there are, each once."""
    objective = subject.build()
    views = objective.views
    expect_type(views, frozenset, "views: expected a frozenset")
    expect(
        views <= set(get_args(View)),
        f"views: expected some of {listing(get_args(View))}, found {listing(map(str, views))}",
    )
    for name in ("reference", "reaches"):
        parts = getattr(objective, name)
        expect(
            isinstance(parts, tuple) and set(parts) <= set(PARTS) and len(set(parts)) == len(parts),
            f"{name}: expected a tuple with some of {listing(PARTS)}, each once, found {parts!r}",
        )
    expect(bool(objective.reaches), "reaches: expected at least one part, found none: nothing would train")
    for name in ("generates", "eval_mode"):
        said: Any = getattr(objective, name)
        expect(isinstance(said, bool), f"{name}: expected true or false, found {said!r}")
    turns: Any = objective.turns
    expect(turns in get_args(Turns), f"turns: expected one of {listing(get_args(Turns))}, found {turns!r}")


def loss_is_a_scalar(subject: ObjectiveSubject) -> None:
    """The loss and its parts are finite scalars, and the loss hangs on what trains."""
    stage = subject.stage()
    loss = subject.run(stage, subject.batch(stage.model))
    for name, found in {"loss": loss.value, **{f"part {n}": part for n, part in loss.parts.items()}}.items():
        _expect_scalar(found, name)
    expect(loss.value.requires_grad, "loss: expected it to need gradients, found that it does not")


def gradients_reach_what_it_says(subject: ObjectiveSubject) -> None:
    """Backward gives a gradient to the parts of `reaches`, to no other, and to nothing that is frozen."""
    stage = subject.stage()
    wanted = {name for name, p in stage.model.named_parameters() if p.requires_grad}
    loss = subject.run(stage, subject.batch(stage.model))
    loss.value.backward()  # type: ignore[no-untyped-call]
    gradients = gradients_of(stage.model)
    strays = [name for name in gradients if name not in wanted]
    expect(not strays, f"expected no gradient in what is frozen, found one in {listing(strays[:3])}")
    reached = {name.partition(".")[0] for name, gradient in gradients.items() if gradient.any()}
    said = set(subject.build().reaches)
    expect(
        reached == said,
        f"reaches: expected the parts whose gradient is not zero, {listing(sorted(reached))}, found "
        f"{listing(sorted(said))}",
    )


@check_named("again_is_the_same")
def loss_again_is_the_same(subject: ObjectiveSubject) -> None:
    """The same micro-batch has the same loss again: nothing is remembered and nothing drawn at random."""
    stage = subject.stage()
    batch, objective = subject.batch(stage.model), subject.build()
    first, second = expect_not_seeded(lambda: subject.run(stage, batch, objective).value)
    expect_close(second, first, "the loss of the same micro-batch again")
    held = [where for name, value in vars(objective).items() for where, _ in tensors_in(value, name)]
    expect(not held, f"expected no tensor to be kept, with what it was computed from, found {listing(held)}")


@check_named("order_changes_nothing")
def order_changes_no_loss(subject: ObjectiveSubject) -> None:
    """The loss does not depend on the order of the conversations."""
    stage = subject.stage()
    first, turned = (
        subject.run(stage, subject.batch(stage.model, slice(None, None, step))).value for step in (1, -1)
    )
    expect_close(turned, first, "the loss with the conversations in the opposite order")


def units_are_what_it_is_a_mean_over(subject: ObjectiveSubject) -> None:
    """Parts of a micro-batch, weighted by how many units each declares, have its loss as their mean."""
    stage = subject.stage()
    whole, *parts = (
        subject.loss_with_units(stage, subject.batch(stage.model, part))
        for part in (slice(None), slice(0, 2), slice(2, None))
    )
    names = list(whole[1])
    expect(bool(names), "units: expected at least one name, found none")
    if len(names) > 1:
        total = torch.stack([whole[0].weights.get(name, 1.0) * whole[0].parts[name] for name in names]).sum()
        expect_close(total, whole[0].value, "the sum of the parts that `units` names, against the loss")
    for name in names:
        number = whole[1][name]
        expect(
            number == sum(numbers[name] for _, numbers in parts),
            f"units of '{name}': expected as many in a micro-batch as in its parts, "
            f"{[numbers[name] for _, numbers in parts]}, found {number}",
        )
        of_whole, *of_parts = (
            (loss.value if len(names) == 1 else loss.parts[name]).detach() for loss, _ in (whole, *parts)
        )
        sums = torch.stack([of * n[name] for of, (_, n) in zip(of_parts, parts, strict=True)]).sum()
        what = f"'{name}', against the mean over the units of its parts"
        expect_close(of_whole, sums / max(number, 1), what)


def parts_add_up(subject: ObjectiveSubject) -> None:
    """The loss is the sum of its parts, each times its weight, where it tells any."""
    stage = subject.stage()
    loss = subject.run(stage, subject.batch(stage.model))
    strange = sorted(set(loss.weights) - set(loss.parts))
    expect(not strange, f"weights: expected names of parts, found {listing(strange)}")
    if loss.parts:
        total = torch.stack([loss.weights.get(name, 1.0) * part for name, part in loss.parts.items()]).sum()
        expect_close(total, loss.value, "the sum of the parts, each times its weight, against the loss")


def twice_as_many_have_the_same_loss(subject: ObjectiveSubject) -> None:
    """A micro-batch that holds every conversation twice has the loss of one that holds it once: a mean."""
    stage = subject.stage()
    first, second = (subject.run(stage, subject.batch(stage.model, times=times)).value for times in (1, 2))
    expect_close(second, first, "the loss of every conversation twice, against that of each once")


def lower_is_better(subject: ObjectiveSubject) -> None:
    """A step against the gradient makes the targets more probable; with ``rejected`` answers, more so than
    these. What is compared with anything else, or not with the targets, nobody can tell from outside.
    """
    stage = subject.stage()
    views = subject.build().views
    if views - {"rejected"}:
        raise NotTriedError(
            f"it compares with {listing(sorted(views - {'rejected'}))}: what is better, is its own affair"
        )
    step = ModelStep(stage.model, subject.batch(stage.model, slice(0, 1)), stage.frozen)
    loss = subject.build().loss(step).value
    trained = [p for p in stage.model.parameters() if p.requires_grad]
    if not views:
        (of_logits,) = torch.autograd.grad(loss, [step.scored.logits], retain_graph=True, allow_unused=True)
        if of_logits is None or not of_logits.any():
            raise NotTriedError("it does not look at how probable the targets are")
    wanted = _preference(step) if views else step.scored.log_probabilities(1)[0].sum()
    both = [torch.autograd.grad(one, trained, retain_graph=True, allow_unused=True) for one in (loss, wanted)]
    rise = -sum(float((a * b).sum()) for a, b in zip(*both, strict=True) if a is not None and b is not None)
    expect(
        rise > 0,
        f"expected a step against the gradient to make {'chosen answers' if views else 'the targets'} more "
        f"probable{' than rejected ones' if views else ''}, found less (their log-probability changes by "
        f"{rise:.2g} per unit of the step). Is the loss of the wrong sign?",
    )


def _preference(step: ModelStep) -> Tensor:
    """Return how much more probable the chosen answer is than the rejected one, as logarithm."""
    sums, _ = step.score(step.batch.with_rejected()).log_probabilities(2)
    return sums[0] - sums[1]


def losses_of_the_adapter_are_left_out(subject: ObjectiveSubject) -> None:
    """The adapter's auxiliary losses have no part in the loss: training adds them to it."""
    stage = subject.stage()
    batch = subject.batch(stage.model)
    first = subject.run(stage, batch).value
    handle = stage.model.adapter.register_forward_hook(_with_larger_losses)
    second = subject.run(stage, batch).value
    handle.remove()
    expect_close(second, first, "the loss with auxiliary losses of the adapter that are larger by 10")


def _with_larger_losses(module: object, arguments: object, output: AdapterOutput) -> AdapterOutput:
    return replace(output, losses={name: loss + 10.0 for name, loss in output.losses.items()})


def text_alone_is_taken(subject: ObjectiveSubject) -> None:
    """A micro-batch without any clip has a finite loss that hangs on the model."""
    stage = subject.stage()
    loss = subject.run(stage, subject.batch(stage.model, _TEXT))
    _expect_scalar(loss.value, "loss of text alone")
    expect(
        loss.value.requires_grad,
        "loss of text alone: expected it to need gradients (`Step.zero` is a zero that does), found that it "
        "does not",
    )


def unknown_words_are_taken_or_refused(subject: ObjectiveSubject) -> None:
    """Where it is not known what is said, the loss is finite, or a ValueError says why there is none."""
    stage = subject.stage()
    try:
        batch = subject.batch(stage.model, known=False)
    except ValueError:
        return  # its views say why
    try:
        with expect_no_error("unknown words: expected a loss or a ValueError", ValueError):
            loss = subject.run(stage, batch)
    except ValueError as error:
        expect(bool(str(error).strip()), "unknown words: expected an error that says why, found an empty one")
        return
    _expect_scalar(loss.value, "loss where it is not known what is said")


def measures_and_counts_are_plain(subject: ObjectiveSubject) -> None:
    """Measures are finite scalars that hold no graph, counts are whole numbers, and names are no others'."""
    stage = subject.stage()
    for part in (slice(None), _TEXT):
        loss = subject.run(stage, subject.batch(stage.model, part))
        for name, measure in loss.measures.items():
            _expect_scalar(measure, f"measure {name}")
            expect(not measure.requires_grad, f"measure {name}: expected it detached, found it with a graph")
            expect(
                name.partition("/")[0] not in _TAKEN,
                f"measure {name}: expected a name of its own, found one of the metrics' ({listing(_TAKEN)})",
            )
        for name, count in loss.counts.items():
            expect(
                type(count) is int and count >= 0,
                f"count {name}: expected a whole number from 0, found {count!r}",
            )
        for name in (*loss.parts, *loss.measures, *loss.counts):
            expect(
                isinstance(name, str) and _NAME.fullmatch(name) is not None,
                f"{name!r}: expected a name of letters, digits, '_', '-', '.' and '/', found another",
            )


def model_is_left_as_it_was(subject: ObjectiveSubject) -> None:
    """The loss changes no value of the model or of the step, no mode and nothing about what trains."""
    stage = subject.stage()
    model = stage.model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = {name: module.training for name, module in model.named_modules()}
    trained = {name: p.requires_grad for name, p in model.named_parameters()}
    step = ModelStep(model, subject.batch(model), stage.frozen)
    logits = step.scored.logits.detach().clone()
    subject.build().loss(step)
    expect(
        torch.equal(step.scored.logits, logits),
        "expected the step's logits, which are computed once for several objectives, as they were, found "
        "others",
    )
    changed = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])]
    expect(not changed, f"expected the model's values as they were, found others in {listing(changed[:3])}")
    other = [name for name, p in model.named_parameters() if p.requires_grad != trained[name]]
    expect(not other, f"expected what trains as it was, found it changed in {listing(other[:3])}")
    turned = [name or "the model" for name, m in model.named_modules() if m.training != modes[name]]
    expect(not turned, f"expected train and eval modes as they were, found others in {listing(turned[:3])}")
    given = [name for name, p in model.named_parameters() if p.grad is not None]
    expect(not given, f"expected no gradients before the backward pass, found them in {listing(given[:3])}")


def validation_runs(subject: ObjectiveSubject) -> None:
    """In eval mode and without gradients, as in a validation, the loss is finite."""
    stage = subject.stage()
    batch = subject.batch(stage.model)
    stage.model.eval()
    with torch.no_grad():
        loss = subject.run(stage, batch)
    _expect_scalar(loss.value, "loss in a validation")


def half_precision_runs(subject: ObjectiveSubject) -> None:
    """Under autocast to bfloat16, loss and gradients are finite, and the loss is float32."""
    stage = subject.stage()
    batch = subject.batch(stage.model)
    with torch.autocast("cpu", torch.bfloat16):
        loss = subject.run(stage, batch)
    _expect_scalar(loss.value, "loss under autocast to bfloat16")
    expect(
        loss.value.dtype == torch.float32,
        f"loss under autocast to bfloat16: expected float32, found {loss.value.dtype}",
    )
    loss.value.backward()  # type: ignore[no-untyped-call]
    gradients_of(stage.model, " under autocast to bfloat16")


@check_named("pickling_keeps_it")
def objective_pickling_keeps_it(subject: ObjectiveSubject) -> None:
    """Pickling changes nothing: an objective is a part of what other processes are sent."""
    stage = subject.stage()
    batch, objective = subject.batch(stage.model), subject.build()
    restored = pickle.loads(pickle.dumps(objective))
    first, second = (subject.run(stage, batch, one).value for one in (objective, restored))
    expect_close(second, first, "the loss of the objective, pickled and unpickled")


def _expect_scalar(found: Any, what: str) -> None:
    expect_type(found, Tensor, f"{what}: expected a tensor")
    expect(
        found.dim() == 0 and found.is_floating_point(),
        f"{what}: expected a scalar of floating point, found {found.dtype} of shape {tuple(found.shape)}",
    )
    expect_finite(found.detach(), what)


def _recipe() -> Any:
    from kikimimi.recipe import Chosen, Dataset, LoRA, Recipe, Stage, Train

    lora = LoRA(rank=2, modality="audio")
    data = {"kit": Dataset(shards="none.tar", task=Chosen.of("task", "asr"))}
    return Recipe(
        name="kit",
        encoder=Chosen.of("encoder", "whisper"),
        adapter=Chosen.of("adapter", "cif"),
        llm=replace(Chosen.of("llm", "llama"), lora=lora),
        stages={"kit": Stage(train={"adapter": Train()}, data=data, steps=1)},
    )

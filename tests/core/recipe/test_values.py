"""A value of the wrong type, or one that the option does not take."""

from __future__ import annotations

from typing import Any

import pytest

from kikimimi.console.words import listing
from kikimimi.contracts import registry


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("adapter.downsample=often", "adapter.downsample: expected a whole number, not 'often'"),
        ("adapter.downsample=4.0", "adapter.downsample: expected a whole number, not '4.0'"),
        ("adapter.downsample=true", "adapter.downsample: expected a whole number, not 'true'"),
        ("adapter.downsample=[8]", "adapter.downsample: expected a whole number, not a list"),
        ("adapter.downsample={a: 8}", "adapter.downsample: expected a whole number, not a section"),
        ("adapter.downsample=null", "adapter.downsample: expected a whole number, not null"),
        ("adapter.hidden_dim=x", "adapter.hidden_dim: expected a whole number or null, not 'x'"),
        ("adapter.dropout=none", "adapter.dropout: expected a number, not 'none'"),
        ("adapter.bias=maybe", "adapter.bias: expected true or false, not 'maybe'"),
        (
            "adapter.activation=rellu",
            "adapter.activation: expected one of gelu, relu, not 'rellu'. Did you mean 'relu'?",
        ),
        ("adapter.norm=rms", "adapter.norm: expected a section with epsilon, kind, not 'rms'"),
        ("adapter.extra=[]", "adapter.extra: expected a section with epsilon, kind or null, not a list"),
        (
            "adapter.norms={}",
            "adapter.norms: expected a list, each a section with epsilon, kind, not a section",
        ),
        (
            "adapter.norms=[{kind: rsm}]",
            "adapter.norms[0].kind: expected one of layer, rms, not 'rsm'. Did you mean 'rms'?",
        ),
        (
            "adapter.shape=[1]",
            "adapter.shape: expected a list of 2: a whole number, a whole number, not a list",
        ),
        ("adapter.scales={a: x}", "adapter.scales.a: expected a number, not 'x'"),
        ("adapter.scales=1", "adapter.scales: expected a section whose values are each a number, not '1'"),
        ("adapter.layer=[]", "adapter.layer: expected a whole number or a text, not a list"),
        ("adapter.words=a", "adapter.words: expected a list, each a text, not 'a'"),
        ("adapter.cache=[]", "adapter.cache: expected a path, not a list"),
        ("encoder.size=HUGE", "encoder.size: expected one of SMALL, LARGE, not 'HUGE'"),
        ("encoder.weights=null", "encoder.weights: expected a text, not null"),
        ("encoder.weights=???", "encoder.weights: must be given ('???' here): a text"),
        # What the plugin's own dataclass refuses points at the option where the message names one.
        ("adapter.downsample=0", "adapter.downsample: must be at least 1, not 0"),
        ("adapter.norm.epsilon=0", "adapter.norm.epsilon: must be above 0, not 0.0"),
        ("llm.lora.rank=0", "llm.lora.rank: must be at least 1, not 0"),
        ("llm.lora.targets=[]", "llm.lora.targets: must not be empty"),
        (
            "llm.lora=4",
            "llm.lora: expected a section with alpha, dropout, modality, rank, targets, weights or null, "
            "not '4'",
        ),
        (
            "name=a b",
            "name: must be made of letters, digits, '.', '_' and '-', with a letter or a digit first, "
            "not 'a b'",
        ),
        ("seed=-1", "seed: must be at least 0, not -1"),
        ("stages.align.steps=0", "stages.align.steps: must be at least 1, not 0"),
        ("stages.align.clip=-1", "stages.align.clip: must be at least 0, not -1.0"),
        ("stages.align.train.adapter.lr=0", "stages.align.train.adapter.lr: must be above 0, not 0.0"),
        ("stages.align.train.adapter.lr=.nan", "stages.align.train.adapter.lr: must be above 0, not nan"),
        (
            "stages.align.train={adaptor: {}}",
            "stages.align.train.adaptor: there is no part 'adaptor'. Did you mean 'adapter'? Parts: "
            "adapter, encoder, llm",
        ),
        ("stages.align.batch.global=0", "stages.align.batch.global: must be at least 1, not 0"),
        ("stages.align.batch.seconds=0", "stages.align.batch.seconds: must be above 0, not 0.0"),
        ("stages.align.schedule.warmup=-1", "stages.align.schedule.warmup: must be at least 0, not -1"),
        (
            "stages.align.schedule.start=0.5",
            "stages.align.schedule.start: is read only by a warm-up: set warmup above 0",
        ),
        (
            "stages.align.schedule={name: constant, floor: 0.5}",
            "stages.align.schedule.floor: is read only by a decay: set name to cosine or linear",
        ),
        (
            "stages.align.schedule=cosine",
            "stages.align.schedule: expected a section with floor, hold, name, start, warmup, warmup_type, "
            "not 'cosine'",
        ),
        (
            "stages.align.optimiser.beta2=1",
            "stages.align.optimiser.beta2: must be at least 0 and below 1, not 1.0",
        ),
        ("stages.align.checkpoint.keep=0", "stages.align.checkpoint.keep: must be at least 1, not 0"),
        (
            "stages.align.validate.every=5",
            "stages.align.validate: data must hold a dataset where every is above 0",
        ),
        ("stages.align.data.clips.weight=0", "stages.align.data.clips.weight: must be above 0, not 0.0"),
        (
            "stages.align.data.clips.shards=''",
            "stages.align.data.clips.shards: must not be empty",
        ),
        ("stages.align.data=[]", "stages.align.data: expected a section of datasets by name, not a list"),
        (
            "stages.tune.data.clips.task.language=[ja]",
            "stages.tune.data.clips.task.language: expected a text or null, not a list",
        ),
        (
            "evaluate.held_out.metric=ser",
            "evaluate.held_out.metric: no metric is called 'ser'. Did you mean 'wer'? "
            "Registered metrics: METRICS",
        ),
        (
            "evaluate.held_out.normaliser=nonne",
            "evaluate.held_out.normaliser: no normaliser is called 'nonne'. Did you mean 'none'? "
            "Registered normalisers: NORMALISERS",
        ),
        (
            "evaluate.held_out.generate.top_p=0.5",
            "evaluate.held_out.generate.top_p: is read only when sampling: set temperature above 0, or top_p "
            "to 1",
        ),
        ("evaluate.held_out.batch_seconds=0", "evaluate.held_out.batch_seconds: must be above 0, not 0.0"),
        ("trainer.devices=0", "trainer.devices: must be at least 1, not 0"),
        (
            "trainer.loggers=[tensorbord]",
            "trainer.loggers[0]: expected one of tensorboard, wandb, not 'tensorbord'. Did you mean "
            "'tensorboard'?",
        ),
        (
            "trainer.loggers=[tensorboard, tensorboard]",
            "trainer.loggers: must be without repeats, not ['tensorboard', 'tensorboard']",
        ),
        (
            "trainer={precision: fp16, accelerator: cpu}",
            "trainer.precision: fp16 needs a GPU: use bf16 or fp32",
        ),
        (
            "trainer={cache_features: false, cache_limit_gb: 1}",
            "trainer.cache_limit_gb: is read only where cache_features is true",
        ),
        (
            "trainer={precision: fp16, strategy: fsdp}",
            "trainer.precision: fp16 does not go with strategy fsdp: use bf16 or fp32",
        ),
        ("trainer.strategy=zero", "trainer.strategy: expected one of auto, ddp, fsdp, not 'zero'"),
    ],
)
def test_a_wrong_value(problems: Any, base: str, override: str, problem: str) -> None:
    for kind in ("normaliser", "metric"):
        problem = problem.replace(f"{kind.upper()}S", listing(registry.names(kind)))
    assert problems(base, override) == [f"{problem} (command line: {override})"]


WER = "evaluate.held_out.metric=wer"
NO_SPACE = "evaluate.held_out.normaliser=whisper-basic-nospace"


def test_metric_and_normaliser_are_held_together_whatever_else_is_wrong(problems: Any, base: str) -> None:
    found = problems(base, WER, NO_SPACE, "evaluate.held_out.batch_seconds=0")
    assert len(found) == 2
    assert found[1].startswith(
        "evaluate.held_out.metric: metric 'wer' with normaliser 'whisper-basic-nospace': compares words, but"
    )


def test_a_baseline_that_is_called_as_the_recipe(problems: Any, base: str) -> None:
    """It was told when the run was evaluated: after its training."""
    override = "evaluate.held_out.baselines={base: rival}"
    assert problems(base, override) == [
        "evaluate.held_out.baselines.base: has the name of the recipe itself, under which the run's own "
        f"score stands. Call it something else (command line: {override})"
    ]


def test_a_metric_that_refuses_its_options(problems: Any, base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Any, config: Any) -> None:
        raise ValueError("its options do not go together")

    monkeypatch.setattr(registry.load("metric", "wer"), "__init__", refuse)
    assert problems(base, WER) == [
        "evaluate.held_out.metric: metric 'wer' with normaliser 'none': its options do not go together "
        f"(command line: {WER})"
    ]


def test_a_normaliser_that_cannot_be_loaded_is_told_where_it_is_named(
    problems: Any, base: str, install: Any
) -> None:
    install("odd", {"kikimimi.normalisers": {"odd": "third_odd:Odd"}}, {"third_odd": "even = 2\n"})
    (found,) = problems(base, "evaluate.held_out.normaliser=odd:odd")
    assert found.startswith(
        "evaluate.held_out.normaliser: normaliser 'odd' (odd 1.0, third_odd:Odd) is broken"
    )

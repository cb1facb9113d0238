"""What a wrong recipe is told: the key, what is wrong, what is allowed, the nearest guess, the line."""

from __future__ import annotations

from typing import Any

import pytest

from kikimimi import plugins
from kikimimi.errors import RecipeError, listing

ADAPTER_OPTIONS = (
    "activation, bias, cache, downsample, dropout, extra, free, hidden_dim, layer, norm, "
    "norms, scales, shape, words"
)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        pytest.param(
            "downsample: 8",
            "hiden_dim: 8",
            "adapter.hiden_dim: adapter 'plain' has no option 'hiden_dim'. Did you mean 'hidden_dim'? "
            f"Options: {ADAPTER_OPTIONS} (x.yaml:5)",
            id="unknown option of a plugin",
        ),
        pytest.param(
            "downsample: 8",
            "norm: {epsilo: 1}",
            "adapter.norm.epsilo: 'norm' has no option 'epsilo'. Did you mean 'epsilon'? Options: "
            "epsilon, kind (x.yaml:5)",
            id="unknown option of a nested section",
        ),
        pytest.param(
            "    steps: 100",
            "    stesp: 1\n    steps: 100",
            "stages.align.stesp: stage 'align' has no option 'stesp'. Did you mean 'steps'? Options: batch, "
            "checkpoint, clip, data, optimiser, schedule, steps, train, validate (x.yaml:13)",
            id="unknown option of a stage",
        ),
        pytest.param(
            "name: base",
            "nam: base\nname: base",
            "nam: a recipe has no option 'nam'. Did you mean 'name'? Options: adapter, encoder, "
            "evaluate, llm, name, "
            "seed, stages, trainer (x.yaml:1)",
            id="unknown key",
        ),
        pytest.param(
            "seconds: 30, global: 4",
            "global_: 4",
            "stages.align.batch.global_: 'batch' has no option 'global_'. Did you mean 'global'? "
            "Options: global, seconds (x.yaml:12)",
            id="the Python name is not the key",
        ),
        pytest.param(
            "name: plain",
            "name: plane",
            "adapter: no adapter is called 'plane'. Did you mean 'plain'? Registered adapters: ADAPTERS "
            "(x.yaml:4)",
            id="unknown plugin",
        ),
        pytest.param(
            "name: plain",
            "name: ear",
            "adapter: no adapter is called 'ear'. The name belongs to another kind: encoder. "
            "Registered adapters: ADAPTERS (x.yaml:4)",
            id="plugin of another kind",
        ),
        pytest.param(
            "name: plain",
            "name: os.system",
            "adapter: no adapter is called 'os.system'. Registered adapters: ADAPTERS (x.yaml:4)",
            id="import path",
        ),
        pytest.param(
            "name: plain",
            "name: third_parts:Plain",
            "adapter: no adapter is called 'third_parts:Plain'. Registered adapters: ADAPTERS (x.yaml:4)",
            id="entry point value",
        ),
        pytest.param(
            "  name: plain\n",
            "",
            "adapter: its name must be given. Registered adapters: ADAPTERS (x.yaml:3)",
            id="no plugin",
        ),
        pytest.param(
            "name: plain",
            "name: [plain]",
            "adapter.name: expected a registered name, not a list. Registered adapters: ADAPTERS (x.yaml:4)",
            id="plugin's name is a list",
        ),
    ],
)
def test_one_problem(problems: Any, base: str, old: str, new: str, problem: str) -> None:
    assert old in base
    problem = problem.replace("ADAPTERS", listing(plugins.names("adapter")))
    assert problems(base.replace(old, new, 1)) == [problem]


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
        ("adapter.scales={a: x}", "adapter.scales: expected a number, not 'x'"),
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
        ("llm.lora.targets=[]", "llm.lora.targets: must name at least one layer"),
        ("llm.lora=4", "llm.lora: expected a section with alpha, dropout, rank, targets or null, not '4'"),
        (
            "name=a b",
            "name: 'a b' must be made of letters, digits, '.', '_' and '-', and start with a letter or "
            "a digit",
        ),
        ("seed=-1", "seed: must be 0 or more, not -1"),
        ("stages.align.steps=0", "stages.align.steps: must be at least 1, not 0"),
        ("stages.align.clip=-1", "stages.align.clip: must be 0 (off) or more, not -1.0"),
        ("stages.align.train.adapter.lr=0", "stages.align.train.adapter.lr: must be above 0, not 0.0"),
        ("stages.align.train.adapter.lr=.nan", "stages.align.train.adapter.lr: must be above 0, not nan"),
        (
            "stages.align.train={adaptor: {}}",
            "stages.align.train.adaptor: there is no part 'adaptor'. Did you mean 'adapter'? Parts: "
            "adapter, encoder, llm",
        ),
        ("stages.align.batch.global=0", "stages.align.batch.global: must be at least 1, not 0"),
        ("stages.align.batch.seconds=0", "stages.align.batch.seconds: must be above 0, not 0.0"),
        (
            "stages.align.schedule.warmup=100",
            "stages.align.schedule.warmup: must be below the stage's steps (100), not 100",
        ),
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
            "stages.align.schedule: expected a section with floor, name, start, warmup, not 'cosine'",
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
        (
            "stages.align.validate.data.v={shards: v.tar, task: write_down}",
            "stages.align.validate.data: is read only where every is above 0",
        ),
        ("stages.align.data.clips.weight=0", "stages.align.data.clips.weight: must be above 0, not 0.0"),
        (
            "stages.align.data.clips.shards=''",
            "stages.align.data.clips.shards: must name at least one file, not nothing",
        ),
        ("stages.align.data=[]", "stages.align.data: expected a section of datasets by name, not a list"),
        (
            "stages.tune.data.clips.task.language=[ja]",
            "stages.tune.data.clips.task.language: expected a text or null, not a list",
        ),
        (
            "evaluate.held_out.metric=ser",
            "evaluate.held_out.metric: expected one of cer, wer, not 'ser'. Did you mean 'wer'?",
        ),
        (
            "evaluate.held_out.normaliser=nonne",
            "evaluate.held_out.normaliser: no normaliser is called 'nonne'. Did you mean 'none'? "
            "Registered normalisers: NORMALISERS",
        ),
        (
            "evaluate.held_out.generate.top_p=0.5",
            "evaluate.held_out.generate.top_p: is read only when sampling: set temperature above 0",
        ),
        ("evaluate.held_out.batch_seconds=0", "evaluate.held_out.batch_seconds: must be above 0, not 0.0"),
        ("trainer.devices=0", "trainer.devices: must be at least 1, not 0"),
        (
            "trainer.loggers=[tensorbord]",
            "trainer.loggers: 'tensorbord' is not a logger. Did you mean 'tensorboard'? Loggers: tensorboard",
        ),
        ("trainer.loggers=[tensorboard, tensorboard]", "trainer.loggers: names the same logger twice"),
        (
            "trainer={precision: fp16, accelerator: cpu}",
            "trainer.precision: fp16 needs a GPU: use bf16 or fp32",
        ),
        (
            "trainer={cache_features: false, cache_limit_gb: 1}",
            "trainer.cache_limit_gb: is read only where cache_features is true",
        ),
        ("trainer.strategy=fsdp", "trainer.strategy: expected one of auto, ddp, not 'fsdp'"),
    ],
)
def test_a_wrong_value(problems: Any, base: str, override: str, problem: str) -> None:
    problem = problem.replace("NORMALISERS", listing(plugins.names("normaliser")))
    assert problems(base, override) == [f"{problem} (command line: {override})"]


def test_all_problems_at_once(problems: Any, base: str) -> None:
    text = (
        base.replace("downsample: 8", "downsmaple: 8\n  activation: relo")
        .replace("steps: 100", "steps: many")
        .replace("name: ear", "name: eer")
        .replace("lora: {rank: 4}", "lora: {rank: 0}")
        .replace("    steps: 50\n", "")
        .replace("task: talk, weight: 1", "task: talk")
        .replace("metric", "metrics")
    )
    found = problems(text, "trainer.devices=3", "evaluate.cv8.metric=cer", "stages.align.batch.seconds=-1")
    assert [problem.partition(":")[0] for problem in found] == [
        "evaluate.cv8",
        "encoder",
        "adapter.downsmaple",
        "adapter.activation",
        "llm.lora.rank",
        "stages.align.batch.seconds",
        "stages.align.steps",
        "stages.tune.steps",
        "stages.tune.batch.global",
        "stages.tune.data",
    ]
    assert "stages.tune.steps: must be given: a whole number (x.yaml:15)" in found


def test_the_error_counts_and_lists(load: Any, base: str) -> None:
    with pytest.raises(RecipeError) as raised:
        load(base, "seed=x", "trainer.nodes=x")
    assert str(raised.value) == (
        "2 problems in the recipe:\n"
        "  seed: expected a whole number, not 'x' (command line: seed=x)\n"
        "  trainer.nodes: expected a whole number, not 'x' (command line: trainer.nodes=x)"
    )


def test_an_empty_section_tells_all_that_must_be_given(problems: Any) -> None:
    tasks = listing(plugins.names("task"))
    llms = listing(plugins.names("llm"))
    assert problems("encoder: ear\nadapter: plain\nstages: {a: {data: {d: {}}}}\n") == [
        "stages.a.data.d.shards: must be given: a text (x.yaml:3)",
        f"stages.a.data.d.task: must be given: the name of a registered task ({tasks}), or a section "
        f"with it (x.yaml:3)",
        "stages.a.train: must be given: a section of parts by name (x.yaml:3)",
        "stages.a.steps: must be given: a whole number (x.yaml:3)",
        "name: must be given: a text (x.yaml:1)",
        f"llm: must be given: the name of a registered llm ({llms}), or a section with it (x.yaml:1)",
    ]


@pytest.mark.parametrize("name", ["-a", "a b", "a/b", "あ", ".a"])
def test_names_of_stages_datasets_and_evaluations(problems: Any, base: str, name: str) -> None:
    text = (
        base.replace("  align:", f"  {name}:")
        .replace("  held_out:", f"  {name}:")
        .replace("talk: {", f"{name}: {{")
    )
    said = "letters, digits, '.', '_' and '-', and start with a letter or a digit"
    assert problems(text) == [
        f"stages.{name}: '{name}' cannot be the name of a stage: use {said} (x.yaml:8)",
        f"stages.tune.data.{name}: '{name}' cannot be the name of a dataset: use {said} (x.yaml:18)",
        f"evaluate.{name}: '{name}' cannot be the name of a evaluation: use {said} (x.yaml:21)",
    ]


def test_names_that_dotted_keys_cannot_tell_apart(problems: Any, base: str) -> None:
    text = base.replace("  tune:", "  align.v2:")
    said = "the names 'align' and 'align.v2' cannot be told apart in dotted keys: rename one"
    assert problems(text) == [f"stages.align: {said} (x.yaml:8)"]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        (
            "bare",
            "adapter: adapter 'bare' (third-parts 1.0, third_parts:Bare) has no dataclass called Config",
        ),
        (
            "unreadable",
            "adapter: adapter 'unreadable' (third-parts 1.0, third_parts:Unreadable): its Config's "
            "option 'steps' is of a "
            "type that a recipe cannot hold: set[int]",
        ),
        (
            "reserved",
            "adapter: adapter 'reserved' (third-parts 1.0, third_parts:Reserved): its Config cannot "
            "have an option 'lora', "
            "recipes use that name",
        ),
    ],
)
def test_a_plugin_that_recipes_cannot_configure(problems: Any, base: str, name: str, problem: str) -> None:
    assert problems(base, f"adapter={name}") == [f"{problem} (command line: adapter={name})"]


def test_a_broken_plugin_that_is_named(problems: Any, base: str) -> None:
    (problem,) = problems(base, "adapter=broken")
    assert problem.startswith(
        "adapter: adapter 'broken' (third-parts 1.0, third_broken:Broken) is broken: OSError: no such "
        "device (raised in "
    )
    assert problem.endswith("shows the whole traceback. (command line: adapter=broken)")


def test_lora_needs_its_section(problems: Any, base: str) -> None:
    said = "the llm has no lora section: give llm.lora, such as {rank: 16, alpha: 32}"
    expected = [f"stages.tune.train.llm.part: {said} (x.yaml:15)"]
    assert problems(base.replace(", lora: {rank: 4}", "")) == expected
    assert problems(base, "llm.lora=null") == expected


def test_ranks_share_micro_batches_evenly(load: Any, problems: Any, base: str) -> None:
    assert load(base, "trainer.devices=2", "trainer.nodes=2", "stages.tune.batch.global=8").trainer.nodes == 2
    assert problems(base, "trainer={devices: 3, nodes: 2}", "stages.tune.batch.global=6") == [
        "stages.align.batch.global: 4 micro-batches per step cannot be shared out evenly over 6 ranks "
        "(trainer.devices 3 x trainer.nodes 2). Give a multiple of 6 (x.yaml:12)"
    ]
    assert problems(base, "trainer.devices=2") == [
        "stages.tune.batch.global: 1 micro-batches per step cannot be shared out evenly over 2 ranks "
        "(trainer.devices 2 x trainer.nodes 1). Give a multiple of 2 (x.yaml:14)"
    ]


def test_weights_stand_on_all_datasets_or_none(load: Any, problems: Any, base: str) -> None:
    assert load(base, "stages.tune.data.talk.weight=null", "stages.tune.data.clips.weight=null")
    assert problems(base.replace(", weight: 1", "")) == [
        "stages.tune.data: clips has a weight, talk has none. Give each a weight, or none (x.yaml:16)"
    ]


def test_a_weight_in_validation_is_not_read(problems: Any, base: str) -> None:
    override = "stages.align.validate={every: 5, data: {v: {shards: v.tar, task: talk, weight: 2}}}"
    assert problems(base, override) == [
        "stages.align.validate.data.v.weight: is not read: validation goes through each dataset once "
        f"(command line: {override})"
    ]


def test_a_stage_that_trains_nothing(problems: Any, base: str) -> None:
    said = "stages.align.train: must hold at least one of adapter, encoder, llm (x.yaml:9)"
    assert problems(base, "stages.align.train.adapter=null") == [said]

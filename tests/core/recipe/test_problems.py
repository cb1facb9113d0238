"""What a wrong recipe is told: the key, what is wrong, what is allowed, the nearest guess, the line."""

from __future__ import annotations

from typing import Any

import pytest

from kikimimi.console.words import listing
from kikimimi.contracts import registry
from kikimimi.errors import RecipeError

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
            "checkpoint, clip, data, dtype, early_stop, epochs, evaluate, faults, gate, guards, mixture, "
            "objective, optimiser, schedule, start_from, steps, train, validate (x.yaml:13)",
            id="unknown option of a stage",
        ),
        pytest.param(
            "name: base",
            "nam: base\nname: base",
            "nam: a recipe has no option 'nam'. Did you mean 'name'? Options: adapter, encoder, "
            "evaluate, guards, llm, name, "
            "seed, stages, trainer (x.yaml:1)",
            id="unknown key",
        ),
        pytest.param(
            "seconds: 30, global: 4",
            "global_: 4",
            "stages.align.batch.global_: 'batch' has no option 'global_'. Did you mean 'global'? "
            "Options: bucket, global, loss, seconds, tokens (x.yaml:12)",
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
    problem = problem.replace("ADAPTERS", listing(registry.names("adapter")))
    assert problems(base.replace(old, new, 1)) == [problem]


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
    assert "stages.tune.steps: must be given: a whole number, or epochs in its place (x.yaml:15)" in found


def test_a_wrong_option_hides_no_bounds_beside_or_above_it(problems: Any, base: str) -> None:
    text = (
        base.replace("  name: plain\n  downsample: 8", "  name: mlp\n  downsample: 0\n  pool: meen")
        .replace("seconds: 30, global: 4", "loss: tokenss, global: 0")
        .replace("steps: 100", "clip: -1\n    steps: 100")
        .replace("shards: talk.tar, task: talk, weight: 1", "shards: '', task: talk, weight: 0")
        .replace("train: {adapter: {lr: 1e-3}}", "train: {}")
    )
    assert problems(f"seed: -1\n{text}", "trainer.devices=0", "trainer.workers=-1") == [
        "seed: must be at least 0, not -1 (x.yaml:1)",
        "adapter.downsample: must be at least 1, not 0 (x.yaml:6)",
        "adapter.pool: expected one of stack, mean, not 'meen'. Did you mean 'mean'? (x.yaml:7)",
        "stages.align.train: must not be empty; it takes adapter, encoder, llm (x.yaml:11)",
        "stages.align.batch.loss: expected one of tokens, micro_batches, not 'tokenss'. "
        "Did you mean 'tokens'? (x.yaml:14)",
        "stages.align.batch.global: must be at least 1, not 0 (x.yaml:14)",
        "stages.align.clip: must be at least 0, not -1.0 (x.yaml:15)",
        "stages.tune.data.talk.shards: must not be empty (x.yaml:21)",
        "stages.tune.data.talk.weight: must be above 0, not 0.0 (x.yaml:21)",
        "trainer.devices: must be at least 1, not 0 (command line: trainer.devices=0)",
        "trainer.workers: must be at least 0, not -1 (command line: trainer.workers=-1)",
    ]


def test_a_recipe_without_stages_and_with_a_wrong_seed(problems: Any, base: str) -> None:
    text = base.partition("stages:")[0]
    assert problems(f"{text}stages: {{}}\nseed: x\n") == [
        "stages: must not be empty (x.yaml:7)",
        "seed: expected a whole number (at least 0), not 'x' (x.yaml:8)",
    ]


def test_items_of_lists_and_sections_are_told_where_they_stand(problems: Any, base: str) -> None:
    adapter = "  name: conv\n  kernel_sizes: [3, x, 0]\n  strides:\n  - 2\n  - 0\n"
    prompts = "\n            ".join(["", "ja:", "- a", "- ' '", "en: []", "fr: [a, a]"])
    task = f"clips:\n        task:\n          name: prompted\n          prompts:{prompts}"
    text = base.replace("  name: plain\n  downsample: 8\n", adapter)
    text = text.replace('clips: {shards: "clips-{00..11}.tar", task: write_down}', task)
    key = "stages.align.data.clips.task.prompts"
    assert problems(text, "stages.align.data.clips.shards=a.tar") == [
        "adapter.kernel_sizes[1]: expected a whole number (at least 1), not 'x' (x.yaml:5)",
        "adapter.kernel_sizes[2]: must be at least 1, not 0 (x.yaml:5)",
        "adapter.strides[1]: must be at least 1, not 0 (x.yaml:8)",
        f"{key}.ja[1]: must not be blank (x.yaml:20)",
        f"{key}.en: must not be empty (x.yaml:21)",
        f"{key}.fr: must be without repeats, not ['a', 'a'] (x.yaml:22)",
    ]


def test_rules_between_options_wait_for_their_bounds(problems: Any, base: str) -> None:
    override = "adapter={name: conv, strides: [2, 2, 0]}"
    said = "adapter.strides[2]: must be at least 1, not 0"
    assert problems(base, override) == [f"{said} (command line: {override})"]
    override = override.replace("0", "1")
    said = "adapter: kernel_sizes and strides must name each convolution, and there are 2 and 3"
    assert problems(base, override) == [f"{said} (command line: {override})"]


def test_the_error_counts_and_lists(load: Any, base: str) -> None:
    with pytest.raises(RecipeError) as raised:
        load(base, "seed=x", "trainer.nodes=x")
    assert str(raised.value) == (
        "2 problems in the recipe:\n"
        "  seed: expected a whole number (at least 0), not 'x' (command line: seed=x)\n"
        "  trainer.nodes: expected a whole number (at least 1), not 'x' (command line: trainer.nodes=x)"
    )


def test_an_empty_section_tells_all_that_must_be_given(problems: Any) -> None:
    tasks = listing(registry.names("task"))
    llms = listing(registry.names("llm"))
    assert problems("encoder: ear\nadapter: plain\nstages: {a: {data: {d: {}}}}\n") == [
        "stages.a.data.d.shards: must be given: a text (not empty) (x.yaml:3)",
        f"stages.a.data.d.task: must be given: the name of a registered task ({tasks}), or a section "
        f"with it (x.yaml:3)",
        "stages.a.train: must be given: a section of parts by name (x.yaml:3)",
        "name: must be given: a text (made of letters, digits, '.', '_' and '-', with a letter or a digit "
        "first) (x.yaml:1)",
        f"llm: must be given: the name of a registered llm ({llms}), or a section with it (x.yaml:1)",
        "stages.a.steps: must be given: a whole number, or epochs in its place (x.yaml:3)",
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
        f"stages.{name}: '{name}' is not allowed as the stage's name: use {said} (x.yaml:8)",
        f"stages.tune.data.{name}: '{name}' is not allowed as the dataset's name: use {said} (x.yaml:18)",
        f"evaluate.{name}: '{name}' is not allowed as the evaluation's name: use {said} (x.yaml:21)",
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
    said = "stages.align.train: must not be empty; it takes adapter, encoder, llm (x.yaml:9)"
    assert problems(base, "stages.align.train.adapter=null") == [said]

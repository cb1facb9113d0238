"""Stages: how long they are, what they start from, when they end, and what opens the way to the next."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kikimimi.errors import GateError, RecipeError, RunError
from kikimimi.evaluation.evaluate import evaluate
from kikimimi.inference.load import load_model
from kikimimi.model.assembly import assemble
from kikimimi.model.trainable import trainable_names
from kikimimi.recipe import digest, load_recipe
from kikimimi.run.folder import RunFolder
from kikimimi.testing import write_shard
from kikimimi.training.fit import run_stage
from kikimimi.training.train import train
from kikimimi_metrics.error_rates import CER

CHAIN = """
name: chain
encoder:
  name: whisper
  weights: random
  sizes: {{dim: 32, num_layers: 2, num_heads: 2, ffn_dim: 64}}
  fixed: ["*"]
adapter: {{name: mlp, hidden_dim: 32}}
llm:
  name: llama
  weights: random
  scratch: {{dim: 32, num_layers: 2, num_heads: 2, ffn_dim: 64, tokenizer: bytes, dropout: 0.1}}
  lora: {{rank: 2, alpha: 4}}
stages:
  align:
    train: {{adapter: {{lr: 1.0e-3}}}}
    data: &clips {{tones: {{shards: "{clips}", task: asr}}}}
    batch: &batch {{seconds: 6}}
    steps: 3
    checkpoint: &every {{every: 2}}
  asr:
    train:
      adapter: {{lr: 1.0e-3}}
      llm: {{lr: 1.0e-3, groups: {{head: {{part: "*embed_tokens*", lr: 1.0e-4, weight_decay: 0.1}}}}}}
    data: *clips
    batch: *batch
    steps: 2
    checkpoint: *every
  sft:
    start_from: align
    train: {{adapter: {{lr: 1.0e-3}}, llm: {{lr: 1.0e-3, part: lora}}}}
    data: {{talk: {{shards: "{talks}", task: chat}}}}
    batch: *batch
    epochs: 2
    checkpoint: *every
  dpo:
    objective: {{name: dpo, beta: 0.5}}
    train: {{adapter: {{lr: 3.0e-3}}, llm: {{lr: 3.0e-3, part: lora}}}}
    data: {{talk: {{shards: "{talks}", task: chat}}}}
    batch: *batch
    steps: 8
    schedule: {{name: constant}}
    checkpoint: *every
    validate: {{every: 4, data: {{held: {{shards: "{talks}", task: chat}}}}}}
evaluate:
  held_out: {{shards: "{held_out}", task: asr, generate: {{max_new_tokens: 4}}}}
trainer: {{log_every: 1, accelerator: cpu}}
"""


@pytest.fixture(scope="module")
def chain_text(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("data")
    return CHAIN.format(
        clips=write_shard(folder, 12, prefix="clips"),
        talks=write_shard(folder, 10, prefix="talks", form="conversations"),
        held_out=write_shard(folder, 3, seed=1, prefix="held"),
    )


@pytest.fixture
def chain(chain_text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KIKIMIMI_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "chain.yaml"
    path.write_text(chain_text, encoding="utf-8")
    return path


def make(chain: Path, name: str, *overrides: str) -> RunFolder:
    return RunFolder.create(chain.parent / name, load_recipe(chain, overrides))


def lines(run: RunFolder, stage: str) -> list[dict[str, float]]:
    found = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [line for line in found if line["stage"] == stage]


def tensors(run: RunFolder, stage: str) -> dict[str, torch.Tensor]:
    return load_file(run.weights(stage))


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in before.keys() & after.keys() if not torch.equal(before[name], after[name])}


@pytest.fixture(scope="module")
def trained(chain_text: str, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The chain, trained once for all tests that only look."""
    folder = tmp_path_factory.mktemp("chain")
    path = folder / "chain.yaml"
    path.write_text(chain_text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KIKIMIMI_CACHE", str(folder / "cache"))
        run = make(path, "run")
        train(run)
    return run


def test_each_stage_starts_where_it_says(trained: RunFolder) -> None:
    align, asr, sft, dpo = (tensors(trained, stage) for stage in ("align", "asr", "sft", "dpo"))
    parts = {name.partition(".")[0] for name in changed(align, asr)}
    assert parts == {"adapter", "llm"}
    # sft goes on from align, not from asr: of the LLM, which asr trained, it changes the updates alone.
    moved = changed(align, sft)
    assert {name for name in moved if name.startswith("llm.")} == {n for n in sft if ".lora_B" in n} | {
        n for n in moved if ".lora_A" in n
    }
    assert changed(sft, dpo) <= {n for n in sft if n.startswith("adapter.") or ".lora_" in n}
    assert {name for name in changed(sft, dpo) if name.startswith("adapter.")}


@pytest.mark.parametrize("stage", ["align", "asr", "sft", "dpo"])
def test_nothing_frozen_changes(chain: Path, stage: str) -> None:
    """Bit for bit, buffers as well, and also where a later stage trains what this one does not."""
    run = make(chain, "run", "stages.sft.epochs=1", "stages.dpo.steps=2")
    run.assets.mkdir()
    for part in ("encoder", "adapter", "llm"):
        (run.assets / part).mkdir()
    model = assemble(run.recipe.at(stage), assets=None)
    model.llm.save_assets(run.assets / "llm")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    names = trainable_names(model, run.recipe.stages[stage], where=stage)
    trained = {name for found in names.values() for name in found}
    run_stage(run, stage, model)
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(before[name], tensor)}
    tied = {"llm.model.lm_head.weight"}  # the embedding table by another name
    assert moved - tied <= trained
    assert moved
    assert all(p.grad is None for name, p in model.named_parameters() if name not in trained)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == trained


def test_groups_have_rates_of_their_own(trained: RunFolder) -> None:
    first = lines(trained, "asr")[0]
    assert first["lr/llm"] == pytest.approx(1e-3)
    assert first["lr/llm.head"] == pytest.approx(1e-4)
    assert first["lr/adapter"] == pytest.approx(1e-3)


def test_epochs_are_whole(trained: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    steps = [line for line in lines(trained, "sft") if "loss" in line]
    records = sum(line["count/records/talk"] for line in steps)
    assert 20 <= records < 30  # two passes over ten records; the last micro-batch may hold some of a third
    assert records - steps[-1]["count/records/talk"] <= 20


def test_dpo_learns_to_prefer(trained: RunFolder) -> None:
    steps = [line for line in lines(trained, "dpo") if "loss" in line]
    assert steps[0]["loss"] == pytest.approx(0.6931, abs=1e-2)  # but for the dropout of the LLM
    assert steps[0]["reward/margin"] == pytest.approx(0, abs=1e-2)
    assert steps[-1]["loss"] < 0.65
    assert steps[-1]["reward/margin"] > 0.05
    assert steps[-1]["reward/accuracy"] > 0.6
    validated = [line["validation_loss"] for line in lines(trained, "dpo") if "validation_loss" in line]
    assert validated[1] < validated[0] < 0.6931


@pytest.mark.parametrize("off", [True, False])
def test_before_its_first_step_a_policy_equals_its_reference(chain: Path, off: bool) -> None:
    """With dropout, the rewards of a model that has not moved are noise."""
    run = make(
        chain,
        "run",
        "llm.scratch.dropout=0.5",
        "llm.lora.dropout=0.5",
        f"stages.dpo.objective.disable_dropout={str(off).lower()}",
        *("stages.align=null", "stages.asr=null", "stages.sft=null", "stages.dpo.steps=2"),
        "llm.fixed=['*embed*', '*base_layer*', '*norm*', '*mlp*', '*_proj.weight']",
    )
    train(run)
    first = next(line for line in lines(run, "dpo") if "loss" in line)
    assert (first["loss"] == pytest.approx(0.693147, abs=1e-5)) == off
    assert (first["reward/margin"] == pytest.approx(0, abs=1e-4)) == off


def test_a_dpo_that_began_before_its_options_goes_on_so(
    chain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["stages.align=null", "stages.asr=null", "stages.sft=null", "stages.dpo.steps=3"]
    options.append("llm.fixed=['*embed*', '*base_layer*', '*norm*', '*mlp*', '*_proj.weight']")
    earlier = ["stages.dpo.objective.turns=all", "stages.dpo.objective.disable_dropout=false"]
    run = make(chain, "run", *options, *earlier)
    train(run)
    whole = [line["loss"] for line in lines(run, "dpo") if "loss" in line]
    run.weights("dpo").unlink()
    shutil.rmtree(max(run.checkpoints("dpo").iterdir()))
    held = run.path / "recipe.yaml"
    text = held.read_text(encoding="utf-8")
    for line in ("      turns: all\n", "      disable_dropout: false\n"):
        assert text.count(line) == 1
        text = text.replace(line, "")
    held.write_text(text, encoding="utf-8")
    lock = json.loads((run.path / "lock.json").read_text(encoding="utf-8"))
    lock["recipe"] = {"sha256": digest(text), "yaml": text}
    (run.path / "lock.json").write_text(json.dumps(lock), encoding="utf-8")
    capsys.readouterr()
    again = make(chain, "run", *options)  # whose recipe says nothing of either
    train(again, locked=True)
    said = capsys.readouterr().err
    assert f"{run.path} began before there was objective.turns: it goes on with objective.turns: all" in said
    assert "it goes on with objective.disable_dropout: false" in said
    assert "going on after step 2" in said
    assert [line["loss"] for line in lines(again, "dpo") if "loss" in line] == whole


def test_dpo_goes_on_exactly(trained: RunFolder, chain: Path) -> None:
    """The reference is the model at the start of the stage, also where the run goes on in its middle."""
    run = RunFolder.open(shutil.copytree(trained.path, chain.parent / "copy"))
    whole = [line for line in lines(run, "dpo") if "loss" in line]
    run.weights("dpo").unlink()
    for folder in sorted(run.checkpoints("dpo").iterdir())[1:]:
        shutil.rmtree(folder)
    train(run)
    assert [line["loss"] for line in lines(run, "dpo") if "loss" in line] == [line["loss"] for line in whole]
    for name, tensor in tensors(trained, "dpo").items():
        assert torch.equal(tensors(run, "dpo")[name], tensor)


def test_a_checkpoint_holds_what_was_trained_until_then(trained: RunFolder) -> None:
    assert not {name for name in tensors(trained, "align") if ".lora_A" in name} - set(
        tensors(trained, "sft")
    )
    model = load_model(trained, "align")
    for name, tensor in tensors(trained, "align").items():
        assert torch.equal(model.get_parameter(name), tensor)


def test_one_stage_alone(chain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make(chain, "run")
    with pytest.raises(RunError, match=r"stage 'dpo' starts from what stage 'sft' leaves, .* --stage sft$"):
        train(run, "dpo")
    with pytest.raises(RunError, match=r"no stage is called 'algin'\. Did you mean 'align'\?"):
        train(run, "algin")
    train(run, "align")
    train(run, "sft")
    assert run.finished("align")
    assert run.finished("sft")
    assert not run.finished("asr")
    written = run.weights("align").stat().st_mtime_ns
    train(run, "align")
    assert "stage align: already done" in capsys.readouterr().err
    assert run.weights("align").stat().st_mtime_ns == written


def test_scores_after_stages_and_a_gate(chain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shut = ("stages.align.evaluate=[held_out]", "stages.align.gate.held_out={max: 5}")
    run = make(chain, "run", *shut)
    for _ in range(2):  # the second call finds the stage done, and the gate as shut as before
        with pytest.raises(
            GateError,
            match=r"stage align: held_out has a CER of \d+\.\d\d %, above "
            r"stages\.align\.gate\.held_out\.max of 5 %: no later stage begins\. "
            r"To go on all the same: kikimimi train .* --stage asr$",
        ):
            train(run)
    assert not run.finished("asr")
    (line,) = [line for line in lines(run, "align") if "cer/held_out" in line]
    assert line["step"] == 3
    scores = run.read_json("evaluations/held_out/scores.json")
    assert scores["chain@align"]["cer"] == pytest.approx(line["cer/held_out"], abs=1e-3)
    train(run, "asr")
    open_ = make(chain, "open", "stages.align.gate.held_out={max: 10000}", "stages.sft.evaluate=[held_out]")
    for stage in ("align", "sft"):
        train(open_, stage)
    found = evaluate(open_)["held_out"]
    assert list(found) == ["chain@align", "chain@sft", "chain"]
    assert found["chain@sft"] == found["chain"]  # the same weights, predicted once
    assert "held_out: chain@sft" in (captured := capsys.readouterr().err)
    assert "held_out: chain:" not in captured


def test_a_gate_of_a_metric_of_which_higher_is_better(chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CER, "better", "higher")
    with pytest.raises(RecipeError, match=r"max: of metric 'cer' higher values are better: give min"):
        make(chain, "max", "stages.align.gate.held_out={max: 5}")
    with pytest.raises(GateError, match=r"CER of .* %, below stages\.align\.gate\.held_out\.min of 10000 %"):
        train(make(chain, "shut", "stages.align.gate.held_out={min: 10000}"), "align")
    train(make(chain, "open", "stages.align.gate.held_out={min: -1}"), "align")


def test_a_score_that_is_no_number_opens_no_gate(chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CER, "value", lambda self, details: float("nan"))
    with pytest.raises(GateError, match=r"CER of nan %, above stages\.align\.gate\.held_out\.max of 5 %"):
        train(make(chain, "run", "stages.align.gate.held_out={max: 5}"), "align")


def test_a_gate_for_answers_that_are_cut_or_loop(chain: Path) -> None:
    shut = make(chain, "shut", "stages.align.gate.held_out={truncated: {max: 0.01}, looped: {max: 0}}")
    for _ in range(2):
        with pytest.raises(
            GateError,
            match=r"held_out has a share of truncated answers of [01]\.\d{4}, above "
            r"stages\.align\.gate\.held_out\.truncated\.max of 0\.01: no later stage begins",
        ):
            train(shut, "align")
    (line,) = [line for line in lines(shut, "align") if "truncated/held_out" in line]
    count = shut.read_json("evaluations/held_out/scores.json")["chain@align"]
    assert line["truncated/held_out"] == pytest.approx(count["truncated"] / count["count"])
    train(make(chain, "open", "stages.align.gate.held_out={max: 10000, truncated: {max: 1}}"), "align")


def test_a_metric_that_does_not_say_which_values_are_better(
    chain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CER, "better", None)
    said = r"held_out\.metric: metric 'cer': its `better` has to be higher, lower"
    with pytest.raises(RecipeError, match=said):
        make(chain, "run", "stages.align.gate.held_out={max: 5}")


def test_a_stage_that_no_longer_gets_better_ends(chain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = (
        "stages.align.steps=40",
        "stages.align.early_stop={patience: 2, min_delta: 0.5}",  # further than it falls in so few steps
        "stages.align.checkpoint={every: 2, keep: 99, keep_best: 1, leave: best}",
        "stages.align.validate={every: 2, data: {held: {shards: SHARDS, task: asr}}}",
    )
    shards = load_recipe(chain).evaluate["held_out"].shards
    run = make(chain, "run", *(option.replace("SHARDS", shards) for option in options))
    train(run, "align")
    losses = {
        line["step"]: line["validation_loss"] for line in lines(run, "align") if "validation_loss" in line
    }
    lowest = min(losses, key=lambda step: (losses[step], step))
    assert sorted(losses) == [2, 4, 6]
    assert "stage align: ends early, after step 6: 2 validations" in capsys.readouterr().err
    (kept,) = (run.checkpoints("align") / "best").iterdir()
    assert kept.name == f"step-{lowest:08d}.safetensors"
    assert run.weights("align").read_bytes() == kept.read_bytes()
    # Killed before the weights were there: it neither trains on nor forgets which were the best.
    written = run.weights("align").read_bytes()
    run.weights("align").unlink()
    train(run, "align")
    assert run.weights("align").read_bytes() == written
    assert max(line["step"] for line in lines(run, "align")) == max(losses)
    # Killed in its middle.
    run.weights("align").unlink()
    for folder in run.checkpoints("align").glob("step-*"):
        if int(folder.name.removeprefix("step-")) > 2:
            shutil.rmtree(folder)
    train(run, "align")
    assert run.weights("align").read_bytes() == written


def test_number_formats_of_a_stage(chain: Path) -> None:
    run = make(chain, "run", "stages.align.dtype.llm=bf16")
    train(run, "align")
    train(run, "asr")
    align, asr = load_model(run, "align"), load_model(run, "asr")
    assert align.llm.model.dtype == torch.bfloat16
    assert asr.llm.model.dtype == torch.float32
    with pytest.raises(
        RecipeError,
        match=r"stages\.asr\.train\.llm.*: trains .*, which is torch\.bfloat16.*stages\.asr\.dtype",
    ):
        train(make(chain, "wrong", "stages.asr.dtype.llm=bf16", "stages.align.steps=1"))


@pytest.mark.parametrize("leave", ["last", "best"])
def test_a_stage_that_casts_what_was_trained_hands_it_on_exactly(chain: Path, leave: str) -> None:
    """One that trains an LLM, updates and all, one that holds it in bf16, and one in full precision again."""
    held = load_recipe(chain).evaluate["held_out"].shards
    run = make(
        chain,
        "run",
        "stages.align.steps=1",
        "stages.asr.train.llm.lr=2.4e-5",
        "stages.asr.train.llm.groups.head.lr=2.4e-5",
        "stages.sft.start_from=asr",
        "stages.sft.train.llm=null",
        "stages.sft.dtype={llm: bf16, encoder: fp16}",
        "stages.sft.validate={every: 1, data: {held: {shards: SHARDS, task: asr}}}".replace("SHARDS", held),
        f"stages.sft.checkpoint={{every: 1, keep_best: 1, leave: {leave}}}",
        "stages.sft.steps=2",
        "stages.sft.epochs=null",
        "stages.dpo.steps=1",
    )
    train(run)
    asr, sft, dpo = (tensors(run, stage) for stage in ("asr", "sft", "dpo"))
    frozen = [name for name in sft if not name.startswith("adapter.")]
    assert {n.partition(".")[0] for n in frozen} == {"encoder", "llm"}
    assert any(".lora_" in name for name in frozen)
    # What a rate of fine-tuning changes is less than what the format would round away.
    align = tensors(run, "align")
    llm = [name for name in frozen if name.startswith("llm.") and asr[name].ndim == 2 and "lora_" not in name]
    whole = torch.cat([asr[name].flatten() for name in llm])
    learnt = (whole - torch.cat([align[name].flatten() for name in llm])).norm() / whole.norm()
    rounded = (whole - whole.bfloat16().float()).norm() / whole.norm()
    assert (float(learnt), float(rounded)) == pytest.approx((0.0013, 0.0017), abs=1e-4)
    for name in frozen:
        assert sft[name].dtype == torch.float32
        assert torch.equal(sft[name], asr[name]), name
        assert ".lora_" in name or torch.equal(dpo[name], asr[name]), name
    # Only what a stage leaves is exact: within it, the model is of the format that was asked for.
    assert load_model(run, "sft").llm.model.dtype == torch.bfloat16
    # A kill in the middle of the stage, whose checkpoints hold the cast values, changes nothing of that.
    left = run.weights("sft").read_bytes()
    run.weights("sft").unlink()
    shutil.rmtree(run.checkpoints("sft") / "step-00000002")
    train(run, "sft")
    assert run.weights("sft").read_bytes() == left


def test_a_record_without_a_rejected_answer(chain: Path) -> None:
    clips = load_recipe(chain).stages["align"].data["tones"].shards
    run = make(chain, "run", f"stages.align.data.tones.shards={clips}", "stages.align.objective=dpo")
    with pytest.raises(
        Exception, match="a preference objective needs a rejected answer, and this record has none"
    ):
        train(run, "align")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["stages.sft.start_from=algin"],
            r"stages\.sft\.start_from: there is no stage 'algin' before this one\. Did you mean 'align'\? "
            r"Earlier stages: align, asr",
        ),
        (["stages.align.start_from=sft"], r"Earlier stages: \(none\)"),
        (
            ["stages.align.evaluate=[heldout]"],
            r"stages\.align\.evaluate: the recipe has no evaluation 'heldout'\. Did you mean 'held_out'\?",
        ),
        (["stages.align.gate.cv8={max: 3}"], r"stages\.align\.gate\.cv8: the recipe has no evaluation 'cv8'"),
        (
            ["stages.align.evaluate=[held_out, held_out]"],
            r"evaluate: must be without repeats, not \['held_out', 'held_out'\]",
        ),
        (["stages.align.epochs=1"], r"stages\.align\.epochs: stands in place of steps"),
        (["stages.align.steps=null"], r"stages\.align\.steps: must be given: a whole number, or epochs"),
        (["stages.align.early_stop={}"], r"stages\.align\.early_stop: looks at the validation loss"),
        (["stages.align.checkpoint.keep_best=1"], r"checkpoint\.keep_best: looks at the validation loss"),
        (["stages.align.checkpoint.leave=best"], r"checkpoint\.leave: best looks at the validation loss"),
        (["stages.align.gate.held_out={max: .nan}"], r"gate\.held_out\.max: must be finite, not nan"),
        (["stages.align.gate.held_out={min: .inf}"], r"gate\.held_out\.min: must be finite, not inf"),
        (
            ["evaluate.held_out.metric=wer", "evaluate.held_out.normaliser=whisper-basic-nospace"],
            r"evaluate\.held_out\.metric: metric 'wer' with normaliser 'whisper-basic-nospace': compares",
        ),
        (
            ["stages.align.gate.held_out={truncated: {max: 2}}"],
            r"gate\.held_out\.truncated\.max: must be .*at most 1",
        ),
        (["stages.align.gate.held_out={looped: 0.1}"], r"gate\.held_out\.looped"),
        (["stages.align.gate.held_out={}"], r"gate\.held_out: give max or min: one of the two"),
        (["stages.align.gate.held_out={max: 3, min: 3}"], r"gate\.held_out: give max or min: one of the two"),
        (
            ["stages.align.gate.held_out={min: 90}"],
            r"gate\.held_out\.min: of metric 'cer' lower values are better: give max, the largest value",
        ),
        (["stages.align.objective=dop"], r"stages\.align\.objective.*'dop'.*Did you mean 'dpo'\?"),
        (["stages.dpo.objective.beta=0"], r"stages\.dpo\.objective\.beta: must be above 0, not 0"),
    ],
)
def test_problems(chain: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(chain, overrides)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "stages.asr.train.llm.groups.head.part=nothing*",
            r"train\.llm\.groups\.head\.part: 'nothing\*' matches no",
        ),
        (
            "stages.asr.train.llm.groups.head.part='*'",
            r"train\.llm\.part: other groups have every parameter that",
        ),
    ],
)
def test_groups_that_match_nothing(chain: Path, override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        train(make(chain, "run", override, "stages.align.steps=1"))

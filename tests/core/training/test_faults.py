"""Damaged and unfitting records while training: what stops, what goes on, and what is told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from kikimimi.data.fault import read_faults
from kikimimi.data.shards.index import ShardIndex
from kikimimi.data.shards.shards import Shards
from kikimimi.errors import DataError, RecipeError, RequestError
from kikimimi.run.folder import RunFolder
from kikimimi.run.metrics import read_metrics
from kikimimi.training.train import train

from .conftest import Make, rewind

SKIP = "stages.asr.faults={policy: skip, share: 0.5}"


def damage(run: RunFolder, row: int) -> str:
    """Flip a bit of a record's audio; return its place."""
    shard = Path(run.recipe.stages["asr"].data["tones"].shards)
    index = ShardIndex.load(shard)
    at = int(index.offsets[row]) + int(index.sizes[row]) - 700
    content = bytearray(shard.read_bytes())
    content[at] ^= 1
    shard.write_bytes(bytes(content))
    return Shards("damaged", str(shard)).where(row)


def lines(run: RunFolder) -> list[dict[str, object]]:
    return [line for line in read_metrics(run.metrics) if "loss" in line]


@pytest.mark.parametrize("extra", [(), ("trainer.cache_features=false", "trainer.workers=2")])
def test_a_flipped_bit_stops_before_the_step(make_run: Make, extra: tuple[str, ...]) -> None:
    run = make_run("run", "stages.asr.steps=12", *extra)
    damage(run, 2)
    with pytest.raises(DataError, match=r"record 'train-0002': .*SHA-256 differs.*faults: {policy: skip}"):
        train(run)
    assert not run.finished("asr")


@pytest.mark.parametrize("extra", [(), ("trainer.cache_features=false", "trainer.workers=2")])
def test_a_flipped_bit_is_skipped_counted_and_listed(make_run: Make, extra: tuple[str, ...]) -> None:
    run = make_run("run", SKIP, "stages.asr.validate.every=0", *extra)
    where = damage(run, 2)
    train(run)
    (fault,) = read_faults(run.faults("asr"))
    assert run.all_faults("asr") == [run.faults("asr")]
    assert (fault.dataset, fault.where) == ("tones", where)
    assert "SHA-256 differs" in fault.reason
    counts = [line.get("count/records_skipped", 0) for line in lines(run)]
    assert sum(float(str(count)) for count in counts) >= 2  # the record comes again in every epoch
    assert sum(float(str(line["count/records/tones"])) for line in lines(run)) > 0


def test_every_process_of_the_loader_tells_the_same(make_run: Make) -> None:
    """Any number of loader workers: the same order, the same losses, the same faults."""
    options = (SKIP, "trainer.cache_features=false", "stages.asr.validate.every=0")
    runs = [make_run(f"run{workers}", *options, f"trainer.workers={workers}") for workers in (0, 1, 2)]
    damage(runs[0], 4)
    for run in runs:
        train(run)
    curves = [[(line["loss"], line.get("count/records_skipped")) for line in lines(run)] for run in runs]
    assert curves[0] == curves[1] == curves[2]
    assert len({run.faults("asr").read_text() for run in runs}) == 1


def test_a_micro_batch_without_any_readable_record(make_run: Make) -> None:
    """It counts as nothing, and the optimiser goes on."""
    run = make_run("run", SKIP, "stages.asr.batch={seconds: 1.5, global: 4}", "stages.asr.validate.every=0")
    for row in range(0, 12, 3):
        damage(run, row)
    train(run)
    assert len(lines(run)) == 8
    assert len(read_faults(run.faults("asr"))) == 4


def test_too_many_faults_stop(make_run: Make) -> None:
    run = make_run("run", "stages.asr.faults={policy: skip, in_a_row: 2, share: 1.0}")
    for row in range(10):
        damage(run, row)
    with pytest.raises(DataError, match="2 records one after another cannot be read"):
        train(run)
    run = make_run("other", "stages.asr.faults={policy: skip, share: 0.2}", "stages.asr.steps=40")
    with pytest.raises(DataError, match=r"records cannot be read, more than faults\.share \(0\.2\) allows"):
        train(run)


def test_mended_data_is_read_again(make_run: Make) -> None:
    """Nothing of a fault is kept in the cache of features."""
    run = make_run("run", SKIP)
    shard = Path(run.recipe.stages["asr"].data["tones"].shards)
    sound = shard.read_bytes()
    damage(run, 2)
    train(run)
    shard.write_bytes(sound)
    mended, whole = make_run("mended"), make_run("whole", "trainer.cache_features=false")
    train(mended)
    train(whole)
    assert [line["count/records/tones"] for line in lines(mended)] == [
        line["count/records/tones"] for line in lines(whole)
    ]


def test_what_does_not_fit_is_left_out_before_the_first_step(
    make_run: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    small = "encoder.sizes.num_positions=50"
    with pytest.raises(
        DataError, match=r"clips longer than the encoder takes \(1 s\).*faults: {policy: skip}"
    ):
        train(make_run("fail", small))
    run = make_run("run", small, SKIP, "stages.asr.validate.every=0")
    train(run)
    faults = read_faults(run.faults("asr"))
    assert 0 < len(faults) < 12
    assert all("clips longer than the encoder takes (1 s)" in fault.reason for fault in faults)
    assert f"tones: {len(faults)} of 12 records left out (" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"more than a micro-batch holds \(1 s\)"):
        train(make_run("dear", "stages.asr.batch.seconds=1"))
    with pytest.raises(RequestError, match=r"tones: none of its 12 records can be used"):
        train(make_run("none", "stages.asr.batch.seconds=0.01", SKIP))


def test_what_an_index_leaves_out_is_listed(make_run: Make) -> None:
    from kikimimi.data.shards.indexing import build_index

    run = make_run("run", "stages.asr.validate.every=0")
    shard = Path(run.recipe.stages["asr"].data["tones"].shards)
    content = shard.read_bytes()
    begin = content.index(b'{"text"')
    shard.write_bytes(content[:begin] + b"["[:1] + content[begin + 1 :])
    build_index(shard, skip=True)
    train(run)
    (fault,) = read_faults(run.faults("asr"))
    assert "not JSON" in fault.reason


def test_resuming_with_faults_is_bit_identical(make_run: Make) -> None:
    run = make_run("run", SKIP)
    damage(run, 5)
    train(run)
    whole, listed = [line["loss"] for line in lines(run)], run.faults("asr").read_text()
    rewind(run, 3)
    train(run)
    assert [line["loss"] for line in lines(run)] == whole
    assert run.faults("asr").read_text() == listed


def test_another_order_is_refused_naming_both(make_run: Make) -> None:
    run = make_run("run")
    train(run)
    shutil.rmtree(run.path / "weights")
    path = run.path / "recipe.yaml"
    path.write_text(path.read_text().replace("global: 2", "global: 4"))
    with pytest.raises(RequestError, match=r"saved where batch\.global is 2, and here it is 4"):
        train(RunFolder.open(run.path))
    saved = json.loads((run.checkpoints("asr") / "step-00000008" / "resume.json").read_text())
    (state,) = saved["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    assert state["consumed"] == 16
    assert {type(state[name]) for name in ("consumed", "epoch", "micro_batch")} == {int}


def test_tokens_take_the_place_of_inherited_seconds(make_run: Make) -> None:
    run = make_run("run", "stages.asr.batch.seconds=null", "stages.asr.batch.tokens=100")
    batch = run.recipe.stages["asr"].batch
    assert (batch.seconds, batch.tokens, batch.budget, batch.unit) == (None, 100, 100, "positions")
    assert RunFolder.open(run.path).recipe == run.recipe


def test_what_was_skipped_is_said_and_counted_over_resumes(
    make_run: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run("run", SKIP, "stages.asr.validate.every=0")
    damage(run, 5)
    train(run)
    said = [line for line in capsys.readouterr().err.splitlines() if "that were tried could" in line]
    rewind(run, 3)
    train(run)
    again = [line for line in capsys.readouterr().err.splitlines() if "that were tried could" in line]
    assert said == again
    assert len(said) == 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.asr.faults.policy=drop", "stages.asr.faults.policy: expected one of fail, skip, not 'drop'"),
        ("stages.asr.faults.share=0.1", "in_a_row and share are read only where policy is skip"),
        ("stages.asr.faults={policy: skip, in_a_row: 0}", "stages.asr.faults.in_a_row: must be at least 1"),
        (
            "stages.asr.faults={policy: skip, share: 2}",
            "stages.asr.faults.share: must be above 0 and at most 1",
        ),
        ("stages.asr.mixture.temperature=2", "mixture: says how datasets are mixed, and there is only one"),
        ("stages.asr.batch={seconds: 5, tokens: 100}", "batch.tokens: stands in place of seconds"),
        ("stages.asr.batch.seconds=null", "batch.seconds: null has a meaning only where tokens are given"),
        ("stages.asr.batch.tokens=0", "stages.asr.batch.tokens: must be at least 1, not 0"),
        ("stages.asr.batch.bucket=0", "stages.asr.batch.bucket: must be at least 1, not 0"),
    ],
)
def test_options_that_make_no_sense(make_run: Make, override: str, message: str) -> None:
    with pytest.raises(RecipeError) as error:
        make_run("run", override)
    assert message in str(error.value)

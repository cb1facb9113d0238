"""Checkpoints, weights and features that are not as they were written are told of, and never trained on."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from kikimimi.errors import DamagedError, KikimimiError
from kikimimi.files import hashes
from kikimimi.files.cache import cache_folder
from kikimimi.files.hashes import MANIFEST, FileMark, check_seal, mark
from kikimimi.inference.load import load_model
from kikimimi.inspect.run_check import check_run
from kikimimi.run.folder import RunFolder, checkpoint_folders
from kikimimi.training.state.checkpoint import FolderCheckpointIO
from kikimimi.training.train import train
from kikimimi.weights.tensors import write_tensors

from .conftest import Make, rewind

pytestmark = pytest.mark.fault(
    "Our files: checkpoints, weights, cached features",
    "told by their hashes; the checkpoint before is taken up, a feature is computed anew",
)

LAST = "step-00000006"
Damage = Callable[[Path], object]


def newest(folder: Path) -> Path | None:
    return FolderCheckpointIO({"stage": "asr"}).newest(folder)


@pytest.fixture
def stopped(make_run: Make) -> RunFolder:
    """Train a run, and put it back to how a kill after step 6 leaves it."""
    run = make_run("run", "stages.asr.validate.every=0")
    train(run)
    shutil.copy(run.weights("asr"), run.path / "expected")
    rewind(run, 6)
    return run


def flip(path: Path, place: float) -> None:
    """Flip a bit somewhere: 0 is the first byte, 1 the last."""
    content = bytearray(path.read_bytes())
    content[round(place * (len(content) - 1))] ^= 4
    path.write_bytes(content)


def cut(path: Path, part: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])


def to_utf16(path: Path) -> None:
    path.write_bytes(path.read_text(encoding="utf-8").encode("utf-16"))


FILES = ("weights.safetensors", "resume.safetensors", "resume.json", MANIFEST)


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def take(path: Path) -> None:
    shutil.copy(path.parents[1] / "step-00000003" / path.name, path)


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


OF_EACH: dict[str, Damage] = {
    "empty": lambda path: cut(path, 0),
    "cut": lambda path: cut(path, 0.3),
    "cut at the end": lambda path: cut(path, 0.99),
    "first byte": lambda path: flip(path, 0),
    "early byte": lambda path: flip(path, 0.02),
    "middle byte": lambda path: flip(path, 0.5),
    "last byte": lambda path: flip(path, 1),
    "zeros": zero,
    "gone": Path.unlink,
    "of step 3": take,
    "a folder": to_folder,
}
OF_JSON: dict[str, Damage] = {"UTF-16": to_utf16, "a list": lambda path: path.write_text("[1]")}
DAMAGES: list[tuple[str, str, Damage]] = [
    *[(name, what, damage) for name in FILES for what, damage in OF_EACH.items()],
    *[(name, what, damage) for name in FILES[2:] for what, damage in OF_JSON.items()],
    (".", "step 3", lambda at: shutil.copytree(at.with_name("step-00000003"), at, dirs_exist_ok=True)),
    (".", "pieces beside", lambda at: shutil.copy(at / FILES[0], at / "weights.rank0-of-1.safetensors")),
]


def test_a_damaged_checkpoint_is_passed_over_whatever_befell_it(
    stopped: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = stopped.checkpoints("asr")
    assert newest(saved) == saved / LAST
    assert capsys.readouterr().err == ""
    for number, (file, what, damage) in enumerate(DAMAGES):
        name = f"{file}: {what}"
        folder = shutil.copytree(saved, tmp_path / str(number))
        damage(folder / LAST / file)
        assert newest(folder) == folder / "step-00000003", name
        said = capsys.readouterr().err
        assert f"warning: {folder / LAST}: the checkpoint is damaged: " in said, name
        assert "warning: going on from step-00000003, the newest that is sound" in said, name


def test_a_run_goes_on_from_the_one_before_to_the_same_weights(
    stopped: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(stopped.checkpoints("asr") / LAST / "resume.safetensors", 0.7)
    train(stopped)
    said = capsys.readouterr().err
    assert f"{LAST}: the checkpoint is damaged: resume.safetensors is not as it was written" in said
    assert "stage asr: going on after step 3" in said
    assert stopped.weights("asr").read_bytes() == (stopped.path / "expected").read_bytes()
    assert newest(stopped.checkpoints("asr")) == stopped.checkpoints("asr") / "step-00000008"


def test_a_damaged_one_of_a_later_step_does_not_count_among_those_that_are_kept(make_run: Make) -> None:
    run = make_run("run", "stages.asr.checkpoint={every: 2, keep: 2}", "stages.asr.validate.every=0")
    train(run)
    rewind(run, 8)
    folder = run.checkpoints("asr")
    assert [path.name for path in checkpoint_folders(folder)] == ["step-00000006", "step-00000008"]
    cut(folder / "step-00000008" / "weights.safetensors", 0.5)
    (folder / "step-00000008").rename(folder / "step-00000099")  # as one that will not be written again soon
    train(run)
    kept = ["step-00000006", "step-00000008", "step-00000099"]
    assert [path.name for path in checkpoint_folders(folder)] == kept


def test_without_another_one_it_is_an_error_that_says_what_to_do(stopped: RunFolder) -> None:
    folder = stopped.checkpoints("asr")
    for path in checkpoint_folders(folder):
        flip(path / "weights.safetensors", 1)
    message = (
        r"00006: the checkpoint is damaged: .*\. There is no other to go on from\. Restore .* or delete "
    )
    with pytest.raises(DamagedError, match=message):
        train(stopped)
    with pytest.raises(
        DamagedError, match=rf"{LAST}/weights.safetensors: cannot be read: .* goes on from the .* before it"
    ):
        load_model(stopped)


def test_strays_are_passed_over_by_name(stopped: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    folder = stopped.checkpoints("asr")
    (folder / "step-00000007").mkdir()
    (folder / "step-00000008").write_text("")
    shutil.copytree(folder / LAST, folder / f"{LAST} (copy)")
    for name in ("step-x", "step-9", "step-٠٠٠٠٠٠٠٩", ".DS_Store"):
        (folder / name).mkdir()
    train(stopped)
    said = capsys.readouterr().err
    names = ".DS_Store, step-00000006 (copy), step-00000007, step-00000008, step-9, step-x, step-٠٠٠٠٠٠٠٩"
    assert f"{folder}: passed over, as these are not checkpoints: {names}\n" in said
    assert "going on after step 6" in said
    assert stopped.weights("asr").read_bytes() == (stopped.path / "expected").read_bytes()


@pytest.mark.parametrize("leads_to", ["nowhere", LAST, ".", "file"])
def test_a_link_in_the_place_of_a_checkpoint_is_replaced_by_it(tmp_path: Path, leads_to: str) -> None:
    (tmp_path / "file").write_text("kept")
    place = tmp_path / LAST
    place.symlink_to(leads_to)
    io = FolderCheckpointIO({"stage": "asr"})
    io.save_checkpoint({"state_dict": {"x": torch.ones(2)}}, place)
    assert io.failure is None
    assert not place.is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["file", LAST]
    assert (tmp_path / "file").read_text() == "kept"
    assert torch.equal(load_file(place / "weights.safetensors")["x"], torch.ones(2))


def as_before_hashes(folder: Path) -> dict[str, Any]:
    """Make a checkpoint what earlier versions wrote; return its resume state."""
    (folder / MANIFEST).unlink()
    state: dict[str, Any] = json.loads((folder / "resume.json").read_text())
    del state["manifest"]
    (folder / "resume.json").write_text(json.dumps(state))
    return state


def test_a_checkpoint_without_hashes_is_taken_as_it_is(
    stopped: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    as_before_hashes(stopped.checkpoints("asr") / LAST)
    train(stopped)
    assert f"{LAST}: has no hashes, as earlier versions wrote it: taken as it is" in capsys.readouterr().err
    assert stopped.weights("asr").read_bytes() == (stopped.path / "expected").read_bytes()


def lacking(*keys: Any) -> Callable[[dict[str, Any]], None]:
    def lose(state: Any) -> None:
        for key in keys[:-1]:
            state = state[key]
        del state[keys[-1]]

    return lose


def with_value(value: Any, *keys: Any) -> Callable[[dict[str, Any]], None]:
    def change(state: Any) -> None:
        for key in keys[:-1]:
            state = state[key]
        state[keys[-1]] = value

    return change


LACKING = [
    lacking("optimizer_states"),
    lacking("optimizer_states", 0),
    lacking("optimizer_states", 0, "state"),
    lacking("optimizer_states", 0, "param_groups", 0),
    lacking("optimizer_states", 0, "param_groups", 0, "lr"),
    with_value({}, "optimizer_states", 0, "state"),
    with_value([], "optimizer_states"),
    lacking("lr_schedulers"),
    with_value([], "lr_schedulers"),
    lacking("lr_schedulers", 0, "last_epoch"),
    lacking("lr_schedulers", 0, "base_lrs"),
    lacking("lr_schedulers", 0, "lr_lambdas"),
    with_value([], "lr_schedulers", 0, "lr_lambdas"),
    lacking("random"),
    with_value([], "random"),
    lacking("random", 0, "python"),
    with_value(None, "random", 0, "torch"),
    with_value([3, [], None], "random", 0, "python"),
    with_value(["MT19937", {"$tensor": "t0"}, 0, 0, 0.0], "random", 0, "numpy"),
    with_value({"$tensor": "t0"}, "random", 0, "torch"),
    lacking("loops"),
    lacking("loops", "fit_loop"),
    lacking("loops", "fit_loop", "state_dict", "combined_loader", 0),
    lacking("loops", "fit_loop", "state_dict", "combined_loader", 0, "consumed"),
    lacking("loops", "fit_loop", "epoch_loop.batch_progress"),
    with_value(5, "loops", "fit_loop", "epoch_loop.val_loop.batch_progress", "total"),
    with_value({"ready": {}}, "loops", "fit_loop", "epoch_progress", "current"),
    with_value("x", "unlogged", 0, "padding"),
    with_value([1], "faults", 0),
    with_value("x", "optimizer_states", 0, "param_groups", 0, "eps"),
    lacking("optimizer_states", 0, "state", "$items", 0, 1, "exp_avg"),
    lacking("optimizer_states", 0, "state", "$items", 0),  # begun anew in silence
    with_value(None, "optimizer_states", 0, "state", "$items", 0, 0),
    with_value(True, "optimizer_states", 0, "state", "$items", 0, 1, "step"),
    with_value({"$tensor": "t1"}, "optimizer_states", 0, "state", "$items", 0, 1, "step"),
    with_value([[1]], "optimizer_states", 0, "param_groups", 0, "params"),
    with_value([1], "optimizer_states", 0, "param_groups", 0, "params"),
    with_value([1], "lr_schedulers", 0, "_step_count"),
    with_value([3, [-1] * 625, None], "random", 0, "python"),
    with_value(["MT19937", {"$tensor": "t0"}, 10**12, 0, 0.0], "random", 0, "numpy"),
    with_value(-1, "callbacks"),
    lacking("unlogged"),
    lacking("faults"),
    lacking("global_step"),
    with_value(3, "global_step"),
    with_value("6", "global_step"),
    with_value({"$tensor": "t999"}, "random", 0, "torch"),
    with_value({"$tensor": 5}, "random", 0, "torch"),
    with_value({"$items": [[1]]}, "optimizer_states", 0, "state"),
    with_value(5, "loops"),
]


def test_a_resume_state_that_lacks_something_is_refused(
    stopped: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = stopped.checkpoints("asr")
    whole = as_before_hashes(saved / LAST)
    assert newest(saved) == saved / LAST
    capsys.readouterr()
    for number, lose in enumerate(LACKING):
        state = json.loads(json.dumps(whole))
        lose(state)
        (saved / LAST / "resume.json").write_text(json.dumps(state))
        assert newest(saved) == saved / "step-00000003", number
        assert f"{LAST}: the checkpoint is damaged: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (with_value(True, "optimizer_states", 0, "param_groups", 0, "amsgrad"), "optimiser"),
        (with_value(0.5, "optimizer_states", 0, "param_groups", 0, "weight_decay"), "optimiser"),
        (with_value("x", "optimizer_states", 0, "param_groups", 0, "capturable"), "optimiser"),
        (with_value(True, "lr_schedulers", 0, "base_lrs", 0), "schedule"),
        (
            with_value(
                {}, "loops", "fit_loop", "epoch_loop.automatic_optimization.optim_progress", "optimizer"
            ),
            "loops",
        ),
        (lacking("loops", "fit_loop", "epoch_loop.scheduler_progress"), "loops"),
    ],
)
def test_what_does_not_fit_its_stage_is_passed_over_and_seen(
    stopped: RunFolder,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[dict[str, Any]], None],
    what: str,
) -> None:
    saved = stopped.checkpoints("asr")
    state = as_before_hashes(saved / LAST)
    change(state)
    (saved / LAST / "resume.json").write_text(json.dumps(state))
    (item,) = (item for item in check_run(stopped.path) if item.problem)
    assert item.name == f"checkpoints/asr/{LAST}"
    said = f"the checkpoint is damaged: its {what} is not that of this stage"
    assert item.problem.startswith(
        f"{said}. Restore it from a copy, or delete it: training goes on from step-"
    )
    train(stopped)
    told = capsys.readouterr().err
    assert f"warning: {saved / LAST}: {said}\n" in told
    assert "warning: going on from step-00000003, the newest that is sound; later steps come again" in told
    assert stopped.weights("asr").read_bytes() == (stopped.path / "expected").read_bytes()


def other_stage(run: RunFolder, make_run: Make) -> None:
    """Put the last checkpoint of a like run, of a larger adapter, in the place of a run's own."""
    other = make_run("other", "stages.asr.validate.every=0", "adapter.hidden_dim=48")
    train(other)
    shutil.rmtree(run.checkpoints("asr") / LAST)
    shutil.copytree(other.checkpoints("asr") / LAST, run.checkpoints("asr") / LAST)


def later_step(run: RunFolder, make_run: Make) -> None:
    """Put a checkpoint of a run that has more steps beside a run's own."""
    other = make_run("other", "stages.asr.validate.every=0", "stages.asr.steps=9")
    train(other)
    shutil.copytree(other.checkpoints("asr") / "step-00000009", run.checkpoints("asr") / "step-00000009")


@pytest.mark.parametrize(
    ("mix", "name", "said"),
    [
        (
            other_stage,
            LAST,
            "its weights are not those of this stage: adapter.",
        ),
        (later_step, "step-00000009", "it is of step 9, and this stage has 8"),
    ],
)
def test_a_whole_checkpoint_of_another_training_is_passed_over_and_seen(
    stopped: RunFolder, make_run: Make, capsys: pytest.CaptureFixture[str], mix: Any, name: str, said: str
) -> None:
    mix(stopped, make_run)
    (item,) = (item for item in check_run(stopped.path) if item.problem)
    assert (item.name, said in item.problem) == (f"checkpoints/asr/{name}", True)
    capsys.readouterr()
    train(stopped)
    told = capsys.readouterr().err
    assert f"warning: {stopped.checkpoints('asr') / name}: the checkpoint is damaged: {said}" in told
    assert stopped.weights("asr").read_bytes() == (stopped.path / "expected").read_bytes()


def test_files_of_two_checkpoints_without_hashes_are_told_apart(
    stopped: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = stopped.checkpoints("asr")
    as_before_hashes(saved / LAST)
    shutil.copy(saved / "step-00000003" / "resume.safetensors", saved / LAST)
    assert newest(saved) == saved / "step-00000003"
    assert "its moments are of another step: files of two are mixed" in capsys.readouterr().err


def test_a_checkpoint_that_lacks_its_weights_is_no_model(stopped: RunFolder) -> None:
    (stopped.checkpoints("asr") / LAST / "weights.safetensors").unlink()
    for use in (stopped.weights_identity, lambda: load_model(stopped)):
        with pytest.raises(
            DamagedError, match=rf"{LAST}/weights\.safetensors: is missing\. 'kikimimi train'"
        ):
            use()


def test_a_file_that_may_not_be_read_is_named_and_others_are_checked(
    stopped: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stage alone was named, and none of its other checkpoints was looked at."""

    def refused(path: Path) -> FileMark:
        if path == stopped.checkpoints("asr") / LAST / "resume.json":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return mark(path)

    monkeypatch.setattr(hashes, "mark", refused)
    items = {item.name: item.problem for item in check_run(stopped.path)}
    problem = items.pop(f"checkpoints/asr/{LAST}")
    assert problem == "resume.json: cannot be read: Permission denied. Ask for permission to read it"
    assert "checkpoints/asr/step-00000003" in items
    assert not any(items.values())


def test_a_pipe_in_the_place_of_weights_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "asr.safetensors")
    with pytest.raises(ValueError, match="it is not a file"):
        check_seal(tmp_path / "asr.safetensors")


@pytest.mark.parametrize("place", [0, 0.001, 0.01, 0.2, 0.5, 1])
def test_a_flipped_bit_in_finished_weights_is_found(stopped: RunFolder, place: float) -> None:
    path = stopped.weights("asr")
    path.parent.mkdir()
    shutil.copy(stopped.path / "expected", path)
    load_model(stopped)
    flip(path, place)
    remedy = r"Restore it from a copy, or delete it: 'kikimimi train' makes it again from the stage's last"
    with pytest.raises(DamagedError, match=rf"asr\.safetensors: cannot be read: .*\. {remedy}"):
        load_model(stopped)
    path.unlink()
    train(stopped)
    assert path.read_bytes() == (stopped.path / "expected").read_bytes()


def as_of(stage: str, path: Path) -> None:
    """Put what another stage of the same parts has left in its place, sealed."""
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    write_tensors(path, tensors, {"kikimimi": json.dumps({"stage": stage})}, seal=True)


def test_weights_of_another_stage_are_refused_wherever_they_are_taken_up(
    make_run: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights of the same shapes were trained on without a word, and ``check`` found nothing."""
    run = make_run("run", "stages.asr.checkpoint={every: 3, keep: 9, keep_best: 1, leave: best}")
    train(run)
    said = "holds the weights of stage 'sft', not of stage 'asr'. Restore it from a copy, or delete it"
    left, (kept,) = run.weights("asr"), (run.checkpoints("asr") / "best").iterdir()
    before = Path(shutil.copy(left, run.weights_before("asr", "4-steps")))
    taken = Path(shutil.copy(left, left.with_name("another.safetensors")))
    assert not any(item.problem for item in check_run(run.path))
    for path in (left, kept, before, taken):
        as_of("sft", path)
    for take in (train, load_model):
        with pytest.raises(DamagedError, match=re.escape(f"{left}: {said}: 'kikimimi train' makes it again")):
            take(run)
    damaged = {item.name: item.problem for item in check_run(run.path) if item.problem}
    assert [*damaged] == [str(path.relative_to(run.path)) for path in (kept, before, left)]
    assert damaged["weights/asr.safetensors"].startswith(said)
    rewind(run, 8)
    with pytest.raises(
        DamagedError, match=r"best/step-.*stage 'sft', not of stage 'asr'.*the stage is trained"
    ):
        train(run)
    as_before_hashes(newest_of := run.checkpoints("asr") / "step-00000008")
    as_of("sft", newest_of / "weights.safetensors")
    capsys.readouterr()
    assert newest(run.checkpoints("asr")) == run.checkpoints("asr") / LAST
    assert "damaged: weights.safetensors holds the weights of stage 'sft'" in capsys.readouterr().err


def test_every_bit_of_a_header_counts(stopped: RunFolder, tmp_path: Path) -> None:
    content = (stopped.path / "expected").read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    path = tmp_path / "a.safetensors"
    assert check_seal(stopped.path / "expected")
    for place in [
        *range(12),
        *range(12, end, 7),
        *range(content.index(b'"sha256"') - 5, content.index(b'"sha256_of"') + 70),
    ]:
        spoilt = bytearray(content[:end])
        spoilt[place] ^= 1
        path.write_bytes(bytes(spoilt) + content[end:])
        with pytest.raises(ValueError, match=r"header|SHA-256|too early"):
            check_seal(path)


def test_damaged_weights_of_the_lowest_loss_are_not_handed_on(make_run: Make) -> None:
    run = make_run("run", "stages.asr.checkpoint={every: 3, keep: 9, keep_best: 1, leave: best}")
    train(run)
    rewind(run, 8)
    (kept,) = (run.checkpoints("asr") / "best").iterdir()
    flip(kept, 0.9)
    with pytest.raises(
        KikimimiError, match=r"best/step-.*of the lowest validation loss are damaged: .*delete"
    ):
        train(run)
    assert not run.finished("asr")


def of_others(path: Path) -> None:
    """Put the output for other clips in its place, as renaming files would."""
    entries = {f"{'0' * 64}{name[64:]}": tensor.clone() for name, tensor in load_file(path).items()}
    write_tensors(path, entries, {"encoder": read_texts(path)["encoder"]}, seal=True)


def of_another_encoder(path: Path) -> None:
    """Put the output of an encoder of another width in its place, as copying folders would."""
    entries = {name: torch.cat((tensor, tensor), dim=1) for name, tensor in load_file(path).items()}
    write_tensors(path, entries, {"encoder": "0" * 64}, seal=True)


def read_texts(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


OF_CACHE = {
    **{what: OF_EACH[what] for what in ("empty", "cut", "first byte", "middle byte", "last byte", "gone")},
    "other clips": of_others,
    "another encoder": of_another_encoder,
}


@pytest.mark.parametrize("what", OF_CACHE)
def test_a_damaged_entry_of_the_cache_is_computed_anew(
    make_run: Make, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    first = make_run("first", "stages.asr.validate.every=0")
    train(first)
    (path,) = (path for path in cache_folder("features").rglob("*.safetensors"))
    whole = path.read_bytes()
    OF_CACHE[what](path)
    again = make_run("again", "stages.asr.validate.every=0")
    train(again)
    said = capsys.readouterr().err
    anew = f"feature cache: 1 file will be computed anew; the first: {path}: " in said
    assert anew == (what != "gone")
    assert path.read_bytes() == whole
    assert again.weights("asr").read_bytes() == first.weights("asr").read_bytes()

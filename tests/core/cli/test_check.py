"""``kikimimi check`` finds whatever has befallen a run folder, and says what to do about it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Outcome

pytestmark = pytest.mark.fault(
    "Our files: a run folder, `kikimimi check`", "each item is sound, or named with what to do"
)

Cli = Callable[..., Outcome]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def add(text: str) -> Callable[[Path], Any]:
    return lambda path: path.write_text(text + (path.read_text() if path.exists() else ""))


def to_itself(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    path.symlink_to(path)


def to_nowhere(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    path.symlink_to(path.parent / "unmounted")


def to_folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def more_steps(path: Path) -> None:
    path.write_text(path.read_text().replace("steps: 2", "steps: 3"))


STEP, STAGE = "checkpoints/asr/step-00000002", "weights/asr.safetensors"
BEST = "checkpoints/asr/best"
SCORES, LINES, LOOKS = (
    f"evaluations/held_out/{x}" for x in ("scores.json", "small.jsonl", "similarity.json")
)
TOKENS = "assets/llm/tokenizer/tokenizer.json"
LINKED = {
    name: name.removesuffix("/files.json")
    for name in (
        "recipe.yaml",
        "lock.json",
        "assets",
        "checkpoints",
        "checkpoints/asr",
        f"{STEP}/files.json",
        "weights",
        STAGE,
        "evaluations",
        "evaluations/held_out",
        SCORES,
        LINES,
        LOOKS,
        "metrics.jsonl",
        "faults",
        "faults/asr.jsonl",
    )
}
CASES: list[tuple[str, Callable[[Path], Any], str, str]] = [
    ("recipe.yaml", empty, "recipe.yaml", r"is not the recipe .* Restore it from a copy; lock\.json has"),
    ("recipe.yaml", add("seed: x\n"), "recipe.yaml", r".*seed"),
    (
        "lock.json",
        torn,
        "lock.json",
        r"is not JSON: .* Restore it from a copy of the run folder, or delete it",
    ),
    ("lock.json", more_steps, "lock.json", r"recipe: it is not as it was written: .* Restore it from a copy"),
    ("recipe.yaml", more_steps, "lock.json", r".*\(stages\.asr\.steps: there 2, here 3"),
    (TOKENS, flip, "assets", r"llm/tokenizer/tokenizer\.json is not as it was .* Restore it"),
    (TOKENS, Path.unlink, "assets", r"llm/tokenizer/tokenizer\.json is missing\. Restore it"),
    (
        f"{STEP}/weights.safetensors",
        flip,
        STEP,
        r".*weights\.safetensors is not as .*: the stage is trained again",
    ),
    (f"{STEP}/resume.json", empty, STEP, r".*resume\.json has 0 bytes in place of [\d,]+\. Restore it"),
    (f"{STEP}/files.json", Path.unlink, STEP, r".*files\.json is missing\. Restore"),
    (
        STAGE,
        flip,
        STAGE,
        r"cannot be read: it is not as it was written: .* or delete it: 'kikimimi train' makes",
    ),
    (STAGE, empty, STAGE, r"cannot be read: it is no safetensors file, or ends too early"),
    ("metrics.jsonl", add("{\n"), "metrics.jsonl", r"line 1: is not JSON.* Restore .*, or delete that line"),
    ("faults/asr.jsonl", add("5\n"), "faults/asr.jsonl", r"line 1: .* Delete it"),
    (SCORES, torn, SCORES, r"is not JSON: .* Delete it: 'kikimimi evaluate' makes it again"),
    (LINES, add("{}\n"), LINES, r"line 1: .* Delete it: 'kikimimi evaluate' makes it again"),
    (LOOKS, torn, LOOKS, r"is not JSON: .*Delete the folder"),
    ("metrics.csv", to_folder, "metrics.csv", r"is not a file\. Delete it: it is made again"),
    ("report.html", os.mkfifo, "report.html", r"is not a file\. Delete it: it is made again"),
    (
        f"{BEST}/step-00000002.safetensors",
        add("x"),
        f"{BEST}/step-00000002.safetensors",
        r"cannot be read: it is no safet",
    ),
    (BEST, add("x"), BEST, r"is not a folder"),
    (BEST, to_nowhere, BEST, r"is a symbolic link that leads nowhere"),
    *[
        (name, damage, item, r".*(Too many levels of symbolic links|leads nowhere|No such file)")
        for name, item in LINKED.items()
        for damage in (to_itself, to_nowhere)
    ],
]


@pytest.fixture(scope="module")
def evaluated(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from kikimimi.evaluation.evaluate import evaluate
    from kikimimi.run.folder import RunFolder

    path = tmp_path_factory.mktemp("checked") / "run"
    shutil.copytree(trained, path)
    evaluate(RunFolder.open(path))
    return path


def test_a_sound_run(cli: Cli, evaluated: Path, tmp_path: Path) -> None:
    done = cli("check", evaluated)
    assert done.code == 0, done.out
    lines = done.out.splitlines()
    assert all(re.fullmatch(r"ok +\S+", line) for line in lines[:-1])
    assert lines[-1] == f"{evaluated}: {len(lines) - 1} items checked, none damaged"
    assert {"ok       recipe.yaml", f"ok       {STEP}", "ok       weights/asr.safetensors"} <= set(lines)
    copy = tmp_path / "run"
    shutil.copytree(evaluated, copy)
    (copy / "checkpoints" / "asr" / "step-3 (copy)").mkdir()
    done = cli("check", copy)
    assert done.code == 0
    assert "ok       checkpoints/asr/step-3 (copy): is not a checkpoint: passed over\n" in done.out


def test_each_damage_is_found_alone(cli: Cli, evaluated: Path, tmp_path: Path) -> None:
    for number, (name, damage, item, said) in enumerate(CASES):
        copy = tmp_path / str(number)
        shutil.copytree(evaluated, copy)
        (copy / name).parent.mkdir(exist_ok=True)
        damage(copy / name)
        done = cli("check", copy)
        (line,) = (line for line in done.out.splitlines() if line.startswith("damaged"))
        assert line.startswith(f"damaged  {item}: ")
        assert re.match(said, line.removeprefix(f"damaged  {item}: ")), line
        assert done.code == 1, name
        assert done.out.endswith(" items checked, 1 damaged\n")


def test_what_is_no_run(cli: Cli, tmp_path: Path) -> None:
    done = cli("check", tmp_path)
    assert done.code == 2
    assert "is not a run folder (it has no recipe.yaml)" in done.err


@pytest.mark.fault("Our files: a finished run whose weights are damaged", "an error, not 'already trained'")
@pytest.mark.parametrize("damage", [flip, torn, empty, Path.unlink])
def test_a_finished_run_is_verified_before_it_is_called_trained(
    cli: Cli, trained: Path, tmp_path: Path, damage: Callable[[Path], Any]
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(trained, copy)
    whole = (copy / STAGE).read_bytes()
    damage(copy / STAGE)
    done = cli("train", copy)
    if damage is Path.unlink:  # which is what the error says that can be done
        assert done.code == 0
        assert (copy / STAGE).read_bytes() == whole
        return
    assert done.code == 1
    assert "already trained" not in done.err
    assert re.search(rf"error: {re.escape(str(copy / STAGE))}: .* Restore it .*, or delete it", done.err)


@pytest.mark.fault("Our files: assets whose list of files is gone", "said: not verified")
def test_assets_without_their_list_are_said_to_be_unverified(cli: Cli, trained: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(trained, copy)
    listed = copy / "assets" / "files.json"
    listed.unlink()
    said = "assets has no hashes, as earlier versions wrote it: taken as it is, not verified"
    assert cli("show", copy).err == f"{copy}: {said}\n"
    done = cli("check", copy)
    assert done.code == 0
    assert f"ok       assets: {said.removeprefix('assets ')}\n" in done.out
    for damage in (to_nowhere, lambda path: path.unlink() or path.mkdir()):
        damage(listed)
        done = cli("show", copy)
        assert done.code == 1
        assert done.err.count("files.json") == 1


@pytest.mark.fault("Our files: a dead link in the place of a folder of a run", "an error that names it")
@pytest.mark.parametrize("damage", [to_nowhere, add("x")])
@pytest.mark.parametrize("name", ["weights", "faults", "checkpoints", "checkpoints/asr", "evaluations"])
def test_what_lies_in_the_place_of_a_folder_is_named(
    cli: Cli, evaluated: Path, tmp_path: Path, name: str, damage: Callable[[Path], Any]
) -> None:
    """A run whose weights lay on a disk that is not mounted was scored by its last checkpoint."""
    copy = tmp_path / "run"
    shutil.copytree(evaluated, copy)
    if (copy / name).exists():
        shutil.rmtree(copy / name)
    damage(copy / name)
    wrong = "is not a folder" if (copy / name).exists() else "is a symbolic link that leads nowhere"
    if name in ("weights", "evaluations", "faults"):
        done = cli("evaluate", copy)
        assert (done.code, f"error: {copy / name}: {wrong}" in done.err) == (1, True), done.err
    if name != "evaluations":
        if name != "weights":
            shutil.rmtree(copy / "weights")  # so that training has to go on
        done = cli("train", copy)
        assert (done.code, f"error: {copy / name}: {wrong}" in done.err) == (1, True), done.err

"""Tasks in YAML files beside a recipe."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from kikimimi.errors import RecipeError
from kikimimi.recipe import load_recipe, to_yaml

DIALECT = """\
prompts:
  ja: [この話者の方言は何ですか。, "どこの方言ですか。"]
answer: "{dialect}"
"""


KEY = "stages.align.data.clips.task"


@pytest.fixture
def beside(write: Any) -> None:
    write(DIALECT, "dialect.yaml")


def _with(base: str, task: str) -> str:
    """Return the recipe with this task for the first dataset."""
    assert base.count("task: write_down}") == 1
    return base.replace("task: write_down}", f"task: {task}}}")


def _clips(recipe: Any) -> Any:
    return recipe.stages["align"].data["clips"].task


def _problems(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as raised:
        load_recipe(path, overrides)
    return list(raised.value.problems)


@pytest.mark.usefixtures("beside")
def test_a_file_is_a_task_wherever_one_stands(write: Any, base: str) -> None:
    text = _with(base, "dialect.yaml").replace("task: write_down\n", "task: dialect.yaml\n")
    text = text.replace(
        "steps: 50", "steps: 50\n    validate: {every: 5, data: {held: {shards: x, task: dialect.yaml}}}"
    )
    recipe = load_recipe(write(text))
    task = _clips(recipe)
    assert (task.kind, task.name) == ("task", "prompted")
    assert task.config.prompts == {"ja": ["この話者の方言は何ですか。", "どこの方言ですか。"]}
    assert task.config.answer == "{dialect}"
    assert recipe.evaluate["held_out"].task == task
    assert recipe.stages["tune"].validate.data["held"].task == task
    made = task.component(task.config).conversation(
        {"text": "んだ。", "language": "ja", "meta": {"dialect": "津軽弁"}}, ["0.flac"], None
    )
    assert made.reference() == "津軽弁"


@pytest.mark.usefixtures("beside")
def test_a_resolved_recipe_needs_no_file(write: Any, base: str) -> None:
    recipe = load_recipe(write(_with(base, "dialect.yaml")))
    shown = to_yaml(recipe)
    assert "dialect.yaml" not in shown
    Path("dialect.yaml").unlink()
    again = load_recipe(write(shown, "resolved.yaml"))
    assert again == recipe
    assert to_yaml(again) == shown


def test_a_file_may_name_its_task(write: Any, base: str) -> None:
    write("name: write_down\nlanguage: ja\n", "mine.yml")
    task = _clips(load_recipe(write(_with(base, "mine.yml"))))
    assert (task.name, task.config.language) == ("write_down", "ja")


def test_it_is_found_beside_the_recipe_that_names_it(write: Any, base: str) -> None:
    write("name: write_down\nprompt: deep\n", "deep/tasks/one.yaml")
    write("name: write_down\nprompt: shallow\n", "tasks/one.yaml")
    write(_with(base, "tasks/one.yaml"), "deep/base.yaml")
    child = write("extends: deep/base.yaml\n")
    assert _clips(load_recipe(child)).config.prompt == "deep"
    over = "stages: {align: {data: {clips: {task: %s}}}}\n"
    other = write("extends: deep/base.yaml\n" + over % "tasks/one.yaml")
    assert _clips(load_recipe(other)).config.prompt == "shallow"
    leaves = write("extends: base.yaml\n" + over % "../tasks/one.yaml", "deep/leaves.yaml")
    assert _clips(load_recipe(leaves)).config.prompt == "shallow"


def test_options_beside_the_name_are_laid_over(write: Any, base: str) -> None:
    write("name: write_down\nlanguage: ja\nprompt: x\n", "mine.yaml")
    write(_with(base, "{name: mine.yaml, prompt: y}"), "base.yaml")
    assert _clips(load_recipe("base.yaml")).config.prompt == "y"
    child = write("extends: base.yaml\nstages: {align: {data: {clips: {task: {prompt: z}}}}}\n")
    config = _clips(load_recipe(child)).config
    assert (config.language, config.prompt) == ("ja", "z")


@pytest.mark.usefixtures("beside")
def test_another_file_replaces_the_whole_task(write: Any, base: str) -> None:
    write('answer: "{accent}"\n', "accent.yaml")
    write(_with(base, "{name: dialect.yaml, order: text_first}"), "base.yaml")
    child = write("extends: base.yaml\nstages: {align: {data: {clips: {task: accent.yaml}}}}\n")
    config = _clips(load_recipe(child)).config
    assert (config.prompts, config.order, config.answer) == ({}, "audio_first", "{accent}")
    plain = write("extends: base.yaml\nstages: {align: {data: {clips: {task: write_down}}}}\n")
    assert _clips(load_recipe(plain)).name == "write_down"


@pytest.mark.usefixtures("beside")
def test_changes_on_the_command_line(write: Any, base: str) -> None:
    recipe = write(base, "deep/base.yaml")
    task = _clips(load_recipe(recipe, [f"{KEY}.order=text_first", f"{KEY}=dialect.yaml"]))
    assert (task.name, task.config.order, task.config.answer) == ("prompted", "text_first", "{dialect}")
    named = load_recipe(recipe, ["evaluate.held_out.task={name: ./dialect.yaml, order: text_first}"])
    assert named.evaluate["held_out"].task == task
    of_file = write(_with(base, "dialect.yaml"), "of_file.yaml")
    assert _clips(load_recipe(of_file, [f"{KEY}.order=text_first"])) == task
    assert _clips(load_recipe(of_file, [f"{KEY}=write_down"])).name == "write_down"


@pytest.mark.usefixtures("beside")
def test_a_copy_by_interpolation(write: Any, base: str) -> None:
    text = _with(base, "dialect.yaml").replace(
        "task: write_down\n", "task: ${stages.align.data.clips.task}\n"
    )
    recipe = load_recipe(write(text))
    assert recipe.evaluate["held_out"].task == _clips(recipe)


@pytest.mark.usefixtures("beside")
@pytest.mark.parametrize(
    ("task", "problem"),
    [
        ("dailect.yaml", "dailect.yaml: there is no such file. Did you mean 'dialect.yaml'?"),
        ("none/a.yaml", "none/a.yaml: there is no such file."),
        ("qqqqqqqq.yaml", "qqqqqqqq.yaml: is no file."),
        ("'${name}.yaml'", "'${name}.yaml': the file of a task cannot be put together by ${...}"),
        ("{name: '${name}.yaml'}", "'${name}.yaml': the file of a task cannot be put together by ${...}"),
    ],
)
def test_files_that_cannot_be_found(write: Any, base: str, task: str, problem: str) -> None:
    Path("qqqqqqqq.yaml").mkdir()
    assert _problems(write(_with(base, task))) == [f"{KEY}: {problem} (x.yaml:11)"]


NO_BLANK = "is no blank: write {field} or {field.sub} with the name of a field, and {{ or }} for a brace"
OPTIONS = "answer, ask, context, joint, language, order, prompts, separator, system, transcript"
HOLDS = "a recipe holds texts, numbers, true, false, null, lists and sections"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "prompts: [\n",
            ": not YAML: while parsing a flow node, expected the node content, but found '<stream end>' "
            "(mine.yaml:2)",
        ),
        ("", ": is empty (mine.yaml)"),
        ("- a\n", ": expected a section, not a list (mine.yaml:1)"),
        (
            "answer: !!python/name:os.system x\n",
            f".answer: the tag !!python/name:os.system is not allowed here: {HOLDS} (mine.yaml:1)",
        ),
        ("answer: a\nanswer: b\n", ".answer: given twice, first in mine.yaml:1 (mine.yaml:2)"),
        (
            "name: other.yaml\n",
            ".name: expected the name of a registered task, not another file: 'other.yaml' (mine.yaml:1)",
        ),
        (
            "answer: x\nprompt: {ja: [x]}\n",
            f".prompt: task 'prompted' has no option 'prompt'. Did you mean 'prompts'? Options: {OPTIONS} "
            "(mine.yaml:2)",
        ),
        (
            "answer: x\nprompts: {ja: x}\n",
            ".prompts.ja: expected a list (not empty and without repeats), each a text (not blank), not 'x' "
            "(mine.yaml:2)",
        ),
        ("prompts:\n  ja: [x]\nanswer: '{a b}'\n", f".answer: '{{a b}}' {NO_BLANK} (mine.yaml:3)"),
        ("prompts:\n  ja: ['{x']\n", f".prompts.ja: '{{x' {NO_BLANK} (mine.yaml:2)"),
    ],
)
def test_files_that_cannot_be_used(write: Any, base: str, text: str, problem: str) -> None:
    write(text, "mine.yaml")
    assert _problems(write(_with(base, "mine.yaml"))) == [KEY + problem]


def test_a_file_that_is_no_text(write: Any, base: str) -> None:
    path = write(_with(base, "mine.yaml"))
    Path("mine.yaml").write_bytes(b"\xff\xfe\xfa")
    assert _problems(path) == [f"{KEY}: not UTF-8 text (byte 0) (mine.yaml)"]


def test_an_unregistered_task(write: Any, base: str) -> None:
    write("\nname: write_dwon\n", "mine.yaml")
    (problem,) = _problems(write(_with(base, "mine.yaml")))
    assert problem.startswith(f"{KEY}: no task is called 'write_dwon'. Did you mean 'write_down'? ")
    assert problem.endswith("(mine.yaml:2)")


def test_a_file_that_must_not_be_read(write: Any, base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(_with(base, "mine.yaml"))
    write("answer: x\n", "mine.yaml")
    open_ = os.open

    def refuse(path: Path, *args: Any, **options: Any) -> int:
        if Path(path).name == "mine.yaml":
            raise PermissionError(13, "Permission denied")
        return open_(path, *args, **options)

    monkeypatch.setattr(os, "open", refuse)
    assert _problems(path) == [f"{KEY}: cannot be read: Permission denied (mine.yaml)"]


def test_several_problems_at_once(write: Any, base: str) -> None:
    write("answer: '{x}'\nordre: text_first\n", "mine.yaml")
    text = _with(base, "mine.yaml").replace("downsample: 8", "downsample: 0")
    text = text.replace("task: write_down\n", "task: gone.yaml\n")
    found = _problems(write(text), "stages.tune.data.talk.task=lost.yml", "evaluate.held_out.metric=x")
    assert sorted(problem.split(":")[0] for problem in found) == [
        "adapter.downsample",
        "evaluate.held_out.metric",
        "evaluate.held_out.task",
        f"{KEY}.ordre",
        "stages.tune.data.talk.task",
    ]
    assert (
        "stages.tune.data.talk.task: lost.yml: there is no such file. (command line: "
        + ("stages.tune.data.talk.task=lost.yml)")
        in found
    )


def test_a_damaged_file_is_told_once(write: Any, base: str) -> None:
    write("answer: [\n", "mine.yaml")
    text = _with(base, "mine.yaml").replace("task: write_down\n", "task: mine.yaml\n")
    assert len(_problems(write(text))) == 1

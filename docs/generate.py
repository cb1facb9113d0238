"""Writes the generated parts of the pages: run it after changing an option or a recipe.

What stands between ``<!-- generated`` and ``<!-- end -->`` comes from the code: types, defaults and
docstrings of the recipe's dataclasses and of the built-in plugins' configs, the help of the commands, and the
headers of the recipes; what GPUs did comes from benchmarks/results. The tests compare.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import re
import runpy
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import typer
from torch import Tensor

import kikimimi
from kikimimi.cli import app
from kikimimi.contracts import registry
from kikimimi.contracts.generation import Generation
from kikimimi.contracts.options import Options
from kikimimi.inspect.plugin import one_line, options_in_words, summary
from kikimimi.recipe.chosen import PARTS, Chosen, LoRA
from kikimimi.recipe.resolve import load_recipe, recipes_folder
from kikimimi.recipe.schema import (
    Batching,
    Checkpoint,
    Dataset,
    Dtypes,
    EarlyStop,
    Evaluation,
    Faults,
    Gate,
    Guards,
    Mixture,
    Optimiser,
    ParameterGroup,
    Recipe,
    Schedule,
    Share,
    Stage,
    Train,
    Trainer,
    Validate,
)
from kikimimi.recipe.shape import Section, shapes
from kikimimi.scaffold import Scaffold
from kikimimi.testing.checks import checks_of
from kikimimi_layouts.fields import FIELDS_FOLDER, Fields, Messages, Turn, TurnPart, shipped_fields

DOCS = Path(__file__).parent
NAMES = runpy.run_path(str(DOCS / "names.py"))
GENERATED = re.compile(r"(<!-- generated.*?-->\n)(.*)(<!-- end -->)", re.DOTALL)
SECTIONS: dict[type[Any], str] = {
    Recipe: "The recipe",
    LoRA: "`encoder.lora`, `adapter.lora`, `llm.lora`",
    Stage: "`stages.STAGE`",
    Train: "`stages.STAGE.train.PART`",
    ParameterGroup: "`stages.STAGE.train.PART.groups.GROUP`",
    Dtypes: "`stages.STAGE.dtype`",
    Dataset: "`stages.STAGE.data.DATASET`, `stages.STAGE.validate.data.DATASET`",
    Mixture: "`stages.STAGE.mixture`",
    Faults: "`stages.STAGE.faults`",
    Batching: "`stages.STAGE.batch`",
    Optimiser: "`stages.STAGE.optimiser`",
    Schedule: "`stages.STAGE.schedule`",
    Checkpoint: "`stages.STAGE.checkpoint`",
    Validate: "`stages.STAGE.validate`",
    EarlyStop: "`stages.STAGE.early_stop`",
    Gate: "`stages.STAGE.gate.EVALUATION`",
    Share: "`stages.STAGE.gate.EVALUATION.truncated`, `stages.STAGE.gate.EVALUATION.looped`",
    Evaluation: "`evaluate.EVALUATION`",
    Generation: "`evaluate.EVALUATION.generate`",
    Guards: "`guards`",
    Trainer: "`trainer`",
}
"""Every dataclass of the schema, and where in a recipe it stands."""
KINDS = ("encoder", "adapter", "llm", "objective", "task", "metric", "recogniser", "judge")
"""The kinds of plugins that have options in a recipe."""

OWN = ("quickstart", "llm_jp_4_8b_ja_cpu", "voxtral-mini_conv", "qwen2-audio_qformer")
"""Recipes of no published system."""

FIELDS: dict[type[Any], str] = {
    Fields: "The file",
    Turn: "`turns`: a list of these",
    TurnPart: "`turns[].parts`: a list of these",
    Messages: "`messages`",
}
"""Every dataclass of a file of fields, and where in it it stands."""


def recipe_reference() -> str:
    """Return the options of a recipe and of the built-in plugins as Markdown."""
    lines: list[str] = []
    for cls, title in SECTIONS.items():
        lines += [f"### {title}", "", summary(cls), "", *table(cls)]
    for kind in KINDS:
        for plugin in registry.plugins(kind):
            if plugin.distribution == "kikimimi":
                title = f"### {'LLM' if kind == 'llm' else kind.capitalize()} `{plugin.name}`"
                lines += [title, "", *component(registry.load(kind, plugin.name))]
    lines += ["### Normalisers", ""]
    for plugin in registry.plugins("normaliser"):
        if plugin.distribution == "kikimimi":
            lines.append(f"- `{plugin.name}`: {summary(registry.load('normaliser', plugin.name))}")
    return "\n".join(["", *lines, "", ""])


def layout_reference() -> str:
    """Return the built-in layouts with their options, and the file of fields, as Markdown."""
    lines: list[str] = []
    for plugin in registry.plugins("layout"):
        if plugin.distribution == "kikimimi":
            lines += [f"#### Layout `{plugin.name}`", "", *component(registry.load("layout", plugin.name))]
    lines += ["### The file of fields", ""]
    for cls, title in FIELDS.items():
        lines += [f"#### {title}", "", summary(cls), "", *table(cls)]
    lines += ["Shipped:", ""]
    for name in shipped_fields():
        first = next(header(FIELDS_FOLDER / f"{name}.yaml")).partition(". ")[0]
        lines.append(f"- `{name}`: {first.rstrip('.')}.")
    return "\n".join(["", *lines, "", ""])


def component(cls: type[Any]) -> Iterator[str]:
    """Yield the lines about a plugin: its summary, its options, and those of the sections inside."""
    yield from [summary(cls), "", *table(cls.Config)]
    for name, shape in shapes(cls.Config).items():
        if isinstance(shape, Section):
            yield from [f"`{name}`: {summary(shape.cls)}", "", *table(shape.cls)]


def table(cls: type[Any]) -> Iterator[str]:
    """Yield a table of a dataclass's options, with an empty line after it."""
    found = options_in_words(cls)
    if not found:
        yield from ["It has no options.", ""]
        return
    yield from ["| option | value | default | |", "|---|---|---|---|"]
    for option in found:
        cells = (f"`{option.name}`", option.value, option.default, option.about)
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
    yield ""


def command_reference() -> str:
    """Return every command with its arguments and options as Markdown."""
    # Typer's own layout of --help differs between its versions, so the commands are asked, not their output.
    return "\n".join(["", *_commands(typer.main.get_command(app), "kikimimi"), ""])


def _commands(command: Any, path: str) -> Iterator[str]:
    if hasattr(command, "commands"):
        for name, inner in command.commands.items():
            yield from _commands(inner, f"{path} {name}")
        return
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    named = [p for p in command.params if p.param_type_name == "option" and p.name != "help"]
    usage = " ".join([path, *(["[OPTIONS]"] if named else []), *map(_argument, arguments)])
    yield from [f"## {path}", "", "```text", usage, "```", "", *_paragraphs(command.help), ""]
    if command.params:
        yield from ["| | default | |", "|---|---|---|"]
        for parameter in [*arguments, *named]:
            shown = parameter.opts[0] if parameter in named else _argument(parameter).strip("[].")
            cells = (f"`{shown}`", _default(parameter), one_line(parameter.help or ""))
            yield f"| {' | '.join(cells)} |"
        yield ""


def _argument(parameter: Any) -> str:
    name = (parameter.metavar or parameter.name.upper()).strip("[].")
    shown = f"{name}..." if parameter.nargs == -1 else name
    return shown if parameter.required else f"[{shown}]"


def _default(parameter: Any) -> str:
    if parameter.required:
        return "must be given"
    # A default that is more than a value (it depends on the other arguments) is told in words.
    told = getattr(parameter, "show_default", None)
    found = told if isinstance(told, str) else parameter.default
    # `==` would take 0 for False; which empty list stands for "nothing given" depends on typer's version.
    nothing = found is None or found is False or found in ([], ()) or callable(found)
    return "" if nothing else f"`{found}`"


def _paragraphs(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(inspect.cleandoc(text).split("\n\n")):
        yield from ([""] if number else []) + [one_line(paragraph)]


def updated(path: Path, generated: str) -> str:
    """Return a page's text with its generated part written anew."""
    text = path.read_text(encoding="utf-8")
    assert len(GENERATED.findall(text)) == 1, f"{path} has no generated part"
    return GENERATED.sub(lambda found: found[1] + generated + found[3], text)


def systems_reference() -> str:
    """Return what the header of each recipe of a published system says, and its parts, as Markdown."""
    paths = [path for path in sorted(recipes_folder().glob("*.yaml")) if path.stem not in OWN]
    lines: list[str] = ["| recipe | what was compared with what | when |", "|---|---|---|"]
    lines += [
        f"| [{path.stem}](../recipes/{path.name}) | {said} | {when} |"
        for path in paths
        for when, said in [compared(path)]
    ]
    lines.append("")
    for path in paths:
        recipe = load_recipe(path)
        parts = {part: getattr(recipe, part) for part in PARTS}
        lora = parts["llm"].lora
        lines += [
            f"## [{path.stem}](../recipes/{path.name})",
            "",
            *header(path),
            "",
            "| | |",
            "|---|---|",
            *(f"| {part} | {name_of(chosen)} |" for part, chosen in parts.items()),
            *([f"| low-rank updates | rank {lora.rank} of {', '.join(lora.targets)} |"] if lora else []),
            *(f"| stage `{name}` trains | {trained(stage)} |" for name, stage in recipe.stages.items()),
            "",
        ]
    return "\n".join(["", *lines, ""])


def compared(path: Path) -> tuple[str, str]:
    """Return when a recipe was compared with its sources, and with which."""
    (line,) = (line for line in header_lines(path) if line.startswith("Compared"))
    when, said = line.removeprefix("Compared ").split(": ", 1)
    return when, said.removesuffix(".")


def header(path: Path) -> Iterator[str]:
    """Yield a recipe's header: what it is, then a list of what is exact, assumed, missing."""
    said = header_lines(path)
    yield said[0]
    yield ""
    yield from (f"- {item}" for item in said[1:] if not item.startswith("Compared"))


def header_lines(path: Path) -> list[str]:
    """Return the items of a recipe's header, each in one line."""
    said: list[str] = []
    for line in itertools.takewhile(lambda line: line.startswith("#"), path.read_text("utf-8").splitlines()):
        text = line.removeprefix("#").strip()
        if said and not re.match(
            r"(Exact|Assumed|Missing|Its data|LLM-jp-4's|One stage|Other than|Defects|In small"
            r"|The authors' other|Compared)\b",
            text,
        ):
            said[-1] += f" {text}"
        else:
            said.append(text)
    return said


def name_of(chosen: Chosen) -> str:
    """Return a plugin's name with its weights, and those of the plugins nested in it."""
    nested = chosen.nested().values()
    weights = getattr(chosen.config, "weights", None)
    inside = " and ".join(map(name_of, nested)) if nested else f"`{weights}`" if weights else ""
    return f"`{chosen.name}`{f': {inside}' if inside else ''}"


def trained(stage: Stage) -> str:
    """Return the parts that a stage trains, each with its learning rate."""
    parts = ", ".join(
        f"{part}{'' if train.part == 'all' else f' (`{train.part}`)'} at {train.lr:g}"
        for part, train in stage.train.items()
    )
    return parts if stage.objective.name == "ce" else f"{parts}, objective `{stage.objective.name}`"


def plugin_page(kind: str) -> str:
    """Return the contract of a kind, a package of one, and what is checked, as Markdown."""
    of, contract = registry.kind_of(kind), registry.contract_of(kind)
    scaffold = Scaffold("example", kind)
    files = scaffold.files()
    lines = ["## The contract", "", f"Entry-point group `{of.group}`.", ""]
    lines += _documented(contract, f"kikimimi.{contract.__name__}")
    for name, member in _methods(contract):
        lines += _documented(member, name + _signature(member))
    types = _given(contract)
    if types:
        lines += ["## What it is given and gives", ""]
        for name in types:
            lines += _type(name, getattr(kikimimi, name))
    command = f"kikimimi plugins new example --kind {kind}"
    lines += [
        "## A package",
        "",
        f"`{command}` writes one, with its test. Its `pyproject.toml` says",
        "",
        "```toml",
    ]
    lines += [f'[project.entry-points."{of.group}"]', f'example = "{scaffold.value}"', "```", ""]
    for place in (f"{scaffold.module}/{kind}.py", f"tests/test_{kind}.py"):
        lines += [f"`{place}`:", "", "```python", files[place].rstrip(), "```", ""]
    lines += ["It is used so:", "", scaffold.usage(), "", "## What is checked", ""]
    lines += [
        "By `kikimimi plugins example --check`, and by `parametrize_checks` in a package's own tests:",
        "",
    ]
    for check in checks_of(kind):
        lines.append(f"- `{check.__name__}`: {summary(check)}")
    return "\n".join(["", *lines, "", ""])


def _given(contract: type[Any]) -> list[str]:
    """Return the public names of what a contract's methods mention, and of what those hold, in that order."""
    members = [inspect.signature(contract), *(_signature(member) for _, member in _methods(contract))]
    found: list[str] = []
    said = [" ".join(map(str, members))]
    while said:
        for name in re.findall(r"\b[A-Z]\w+", said.pop(0)):
            if name in dir(kikimimi) and name != contract.__name__ and name not in found:
                found.append(name)
                said.append(_mentions(getattr(kikimimi, name)))
    return found


def _mentions(value: Any) -> str:
    """Return what a type says of others: its fields, and what its properties and methods take and give."""
    if not inspect.isclass(value) or inspect.isabstract(value):
        return ""
    fields = (
        _hints(value).values()
        if dataclasses.is_dataclass(value)
        else getattr(value, "__annotations__", {}).values()
    )
    return " ".join(map(str, [*fields, *(_signature(member) for _, member in _methods(value))]))


def _hints(value: type[Any]) -> dict[str, Any]:
    """Return the types of a dataclass's fields, also of those that are imported for type checkers alone."""
    return get_type_hints(value, localns={"Tensor": Tensor, "Packed": Any})


def _type(name: str, value: Any) -> Iterator[str]:
    """Yield the lines about a public type: its docstring, and what it has."""
    if not inspect.isclass(value):
        (said,) = (words[name] for _, words in NAMES["public_names"]() if name in words)
        choices = ", ".join(f"`{one}`" for one in get_args(value))
        what = f"One of {choices}" if get_origin(value) is Literal else f"`{_short(str(value))}`"
        yield from (f"### `kikimimi.{name}`", "", f"{what}: {said[0].lower()}{said[1:]}", "")
        return
    yield from _documented(value, f"kikimimi.{name}")
    if issubclass(value, Options):
        yield from table(value)
        return
    if dataclasses.is_dataclass(value):
        yield from (f"`{name}({', '.join(_fields(value))})`", "")
    for member, found in _methods(value):
        said = (inspect.getdoc(_function(found)) or "").partition("\n\n")[0]
        yield f"- `{member}{_signature(found)}`: {' '.join(said.split())}"
    if any(_methods(value)):
        yield ""


def _fields(value: type[Any]) -> Iterator[str]:
    """Yield the fields of a dataclass with their types; dots stand for a default."""
    hints = _hints(value)
    for field in dataclasses.fields(value):
        given = field.default is field.default_factory is dataclasses.MISSING
        kind = _short(inspect.formatannotation(hints[field.name]))
        yield f"{field.name}: {kind}{'' if given else ' = ...'}"


def _methods(contract: type[Any]) -> Iterator[tuple[str, Any]]:
    """Yield the documented methods and properties of a contract, those of its bases first."""
    found: dict[str, Any] = {}
    for base in reversed(contract.__mro__):
        if base.__module__.startswith("kikimimi."):
            found |= vars(base)
    for name, member in found.items():
        function = _function(member)
        public = not name.startswith("_") or name in ("__call__", "__len__")
        if public and inspect.isfunction(function) and inspect.getdoc(function):
            yield name, member


def _signature(member: Any) -> str:
    """Return arguments and result of a method, with the last names of types; of a property its type."""
    signature = inspect.signature(_function(member))
    if isinstance(member, property):
        result = signature.return_annotation
        shown = f": {getattr(result, '__name__', result)}"
    else:
        shown = re.sub(r"^\((self|cls)(, )?", "(", str(signature))
    return _short(shown)


def _short(shown: str) -> str:
    """Return what is said of types with their last names alone."""
    return re.sub(r"(?<![\w.])(?:[A-Za-z_]\w*\.)+(?=\w)", "", shown.replace("'", ""))


def _function(member: Any) -> Any:
    """Return the function of a method, a class method or a property."""
    member = member.fget if isinstance(member, property) else member
    return getattr(member, "__func__", member)


def _documented(member: Any, title: str) -> Iterator[str]:
    """Yield a heading and a docstring, as it stands in the code."""
    said = inspect.getdoc(_function(member)) or ""
    yield from (f"### `{title}`", "", "```text", said, "```", "")


PAGES = {
    "recipes.md": recipe_reference,
    "commands.md": command_reference,
    "systems.md": systems_reference,
    "data.md": layout_reference,
    "names.md": NAMES["names_reference"],
    "performance.md": runpy.run_path(str(DOCS / "performance.py"))["performance_reference"],
    **{f"plugins/{kind}.md": partial(plugin_page, kind) for kind in registry.KINDS},
}

if __name__ == "__main__":
    for name, generate in PAGES.items():
        (DOCS / name).write_text(updated(DOCS / name, generate()), encoding="utf-8")

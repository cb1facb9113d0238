"""Writes a new plugin's package: a small component that works, its test, and what pip needs."""

import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from string import Template

from kikimimi import __version__
from kikimimi.console.words import listing, nearest
from kikimimi.contracts import registry
from kikimimi.errors import RequestError
from kikimimi.files.writing import whole_folder

_TEMPLATES = Path(__file__).parent / "templates"
TEMPLATE_KINDS = {
    "encoder": "A speech encoder",
    "adapter": "An adapter",
    "llm": "An LLM",
    "objective": "A training objective",
    "task": "A task",
    "layout": "A layout of corpora",
    "voice": "A voice",
    "normaliser": "A text normaliser",
    "metric": "A metric",
    "recogniser": "A recogniser",
    "judge": "A judge of answers",
}
"""Kinds that there are templates for, and what they make."""
_IN_A_RECIPE = {
    "objective": "stages: {train: {objective: {name: $name}}}",
    "task": "stages: {train: {data: {clips: {shards: 'data/train-*.tar', task: $name}}}}",
    "normaliser": "evaluate: {test: {shards: 'data/test-*.tar', task: asr, normaliser: $name}}",
    "metric": "evaluate: {test: {shards: 'data/test-*.tar', task: asr, metric: $name}}",
    "recogniser": "evaluate:\n  test:\n    shards: 'data/test-*.tar'\n    task: asr\n"
    "    baselines: {other: {name: $name, folder: MODEL}}",
    "judge": "evaluate:\n  test:\n    shards: 'data/test-*.tar'\n    task: asr\n"
    "    metric: {name: judge, judge: {name: $name}}",
}
_ON_THE_COMMAND_LINE = {
    "layout": "kikimimi data pack CORPUS OUT --layout $name",
    "voice": "kikimimi data synth GRAMMAR --out OUT --voice $name",
}


@dataclass(frozen=True)
class Scaffold:
    """A package to write.

    Attributes:
        name: The plugin's name, as recipes spell it.
        kind: The kind's name, such as ``adapter``.

    Raises:
        RequestError: The name is none, or taken; the kind has no template.
    """

    name: str
    kind: str

    def __post_init__(self) -> None:
        if self.kind not in TEMPLATE_KINDS:
            raise RequestError(
                f"--kind: there is no template for '{self.kind}'.{nearest(self.kind, TEMPLATE_KINDS)} "
                f"Kinds: {listing(TEMPLATE_KINDS)}"
            )
        if not registry.PLUGIN_NAME.fullmatch(self.name):
            words = re.findall(r"[A-Za-z0-9]+", self.name)
            guess = "_".join(words).lstrip("0123456789_")
            if guess == self.name:
                guess = f"my_{guess}"
            raise RequestError(
                f"'{self.name}' cannot be a plugin's name: use letters and digits, with single '-' or '_' "
                "between them, and start with a letter; null, true and false are other things in YAML, and "
                f"list and new are commands.{f' For example: {guess}' if guess else ''}"
            )
        registered = {plugin.name: plugin for plugin in registry.plugins(self.kind)}
        if self.name in registered:
            raise RequestError(
                f"{registered[self.name]} is registered already: choose another name. "
                f"{self.kind}s: {listing(registered)}"
            )
        if find_spec(self.module) is not None:
            raise RequestError(
                f"the plugin's package would be called '{self.module}', and one of that name is installed: "
                f"choose another name than '{self.name}'"
            )

    @property
    def distribution(self) -> str:
        """What pip calls the package."""
        return f"kikimimi-{'-'.join(self._words)}".lower()

    @property
    def module(self) -> str:
        """What Python calls it."""
        return self.distribution.replace("-", "_")

    @property
    def class_name(self) -> str:
        """The component's class."""
        ending = registry.kind_of(self.kind).base.rpartition(":")[2]
        name = "".join(word[0].upper() + word[1:] for word in self._words)
        return name if name.lower().endswith(ending.lower()) else name + ending

    @property
    def value(self) -> str:
        """``module:Class`` of the entry point."""
        return f"{self.module}.{self.kind}:{self.class_name}"

    @property
    def _words(self) -> list[str]:
        return re.split("[-_]", self.name)

    def files(self) -> dict[str, str]:
        """Return the texts of the files by their path in the package."""
        places = {
            "common/pyproject.toml": "pyproject.toml",
            "common/README.md": "README.md",
            "common/gitignore": ".gitignore",
            "common/__init__.py": f"{self.module}/__init__.py",
            "common/py.typed": f"{self.module}/py.typed",
            f"{self.kind}/component.py": f"{self.module}/{self.kind}.py",
            f"{self.kind}/test.py": f"tests/test_{self.kind}.py",
        }
        values = {
            "name": self.name,
            "kind": self.kind,
            "group": registry.kind_of(self.kind).group,
            "distribution": self.distribution,
            "module": self.module,
            "class_name": self.class_name,
            "value": self.value,
            "summary": TEMPLATE_KINDS[self.kind],
            "usage": self.usage(),
            "contract_version": str(registry.kind_of(self.kind).contract_version),
            "kikimimi": ".".join(__version__.split(".")[:2]),
        }
        return {
            place: Template((_TEMPLATES / f"{template}.template").read_text(encoding="utf-8")).substitute(
                values
            )
            for template, place in places.items()
        }

    def usage(self) -> str:
        """Return how it is used, as Markdown."""
        if self.kind in _ON_THE_COMMAND_LINE:
            said, language = _ON_THE_COMMAND_LINE[self.kind], "sh"
        else:
            said, language = _IN_A_RECIPE.get(self.kind, "$kind: {name: $name}"), "yaml"
        return f"```{language}\n{Template(said).substitute(kind=self.kind, name=self.name)}\n```"

    def write(self, folder: Path) -> list[Path]:
        """Write the files and return their paths.

        Raises:
            RequestError: There is something at `folder` already.
        """
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise RequestError(f"{folder} exists and is not an empty folder: nothing was written")
        files = self.files()
        with whole_folder(folder) as unfinished:
            for place, text in files.items():
                path = unfinished / place
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
        return [folder / place for place in files]

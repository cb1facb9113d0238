"""The options of one plugin from the command line, read as a recipe reads them."""

from collections.abc import Sequence
from typing import Any

from kikimimi.errors import RecipeError, RequestError
from kikimimi.recipe.build import Builder
from kikimimi.recipe.merge import apply_overrides
from kikimimi.recipe.shape import Pluggable
from kikimimi.recipe.source import Entry, Problems


def read_plugin_options(kind: str, name: str, options: Sequence[str], *, place: str = "") -> Any:
    """Return the config of a plugin.

    Args:
        kind: The plugin's kind.
        name: Its registered name.
        options: ``key=value`` each, in YAML; the others keep their defaults.
        place: Where they stand, for the error (", after SOURCE and OUT").

    Raises:
        PluginError: It is not registered or cannot be loaded.
        RequestError: An option is wrong; the message holds every problem found.
    """
    if strays := [option for option in options if "=" not in option or option.startswith("name=")]:
        raise RequestError(f"'{strays[0]}': expected an option of {kind} '{name}' as KEY=VALUE{place}")
    where, shape, problems = "command line", Pluggable(kind), Problems()
    tree = Entry({"name": Entry(name, where, name)}, where)
    tree = apply_overrides(tree, options, shape, problems)
    chosen = Builder(problems).build(shape, tree, "", "")
    try:
        problems.raise_any()
    except RecipeError as error:
        lines = "\n".join(f"  {problem}" for problem in error.problems)
        raise RequestError(f"options of {kind} '{name}':\n{lines}") from error
    return chosen.config

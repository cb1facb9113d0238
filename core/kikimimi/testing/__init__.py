"""The compliance kit: the contracts of components, objectives and tasks as tests for plugin authors.

    from kikimimi.testing import parametrize_checks
    from my_package import MyAdapter

    @parametrize_checks(MyAdapter)
    def test_contract(check):
        check()

`kikimimi plugins --check` runs the same checks. `tiny_model`, `tiny_recipe` and `write_shard` make small
what a recipe puts together, for tests that train; they are imported when first used, as they need a lot more.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from kikimimi.testing.checks import Check, CheckResult, list_checks, run_checks
from kikimimi.testing.contract import ContractError
from kikimimi.testing.parametrize import parametrize_checks

if TYPE_CHECKING:
    from kikimimi.testing.shard import write_shard
    from kikimimi.testing.tiny import tiny_model, tiny_recipe

_HOME_OF = {
    "tiny_model": "kikimimi.testing.tiny",
    "tiny_recipe": "kikimimi.testing.tiny",
    "write_shard": "kikimimi.testing.shard",
}

__all__ = [
    "Check",
    "CheckResult",
    "ContractError",
    "list_checks",
    "parametrize_checks",
    "run_checks",
    "tiny_model",
    "tiny_recipe",
    "write_shard",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'kikimimi.testing' has no attribute '{name}'")
    return getattr(import_module(_HOME_OF[name]), name)

"""The checks as pytest tests. The only module of the library that needs pytest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kikimimi.testing.checks import kind_of_component, list_checks

if TYPE_CHECKING:
    import pytest


def parametrize_checks(component: type[Any], **configs: Any) -> pytest.MarkDecorator:
    """Make one pytest test for each check of a component.

        @parametrize_checks(MyAdapter)
        def test_contract(check):
            check()

    Args:
        component: An encoder, an adapter or an LLM.
        configs: Configs whose tiny variants are checked, by a name for the test ids:
            ``parametrize_checks(MyAdapter, mean=MyAdapter.Config(pool="mean"))``. Without, the defaults are.

    Raises:
        TypeError: It is no encoder, adapter or LLM.
    """
    import pytest

    kind = kind_of_component(component)
    variants = configs or {"": None}
    return pytest.mark.parametrize(
        "check",
        [
            pytest.param(check, id=f"{name}-{check.name}" if name else check.name)
            for name, config in variants.items()
            for check in list_checks(kind, component, config)
        ],
    )

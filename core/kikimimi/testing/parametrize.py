"""The checks as pytest tests. The only module of the library that needs pytest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kikimimi.console.words import listing, nearest
from kikimimi.testing.checks import kind_of_component, list_checks

if TYPE_CHECKING:
    import pytest


def parametrize_checks(
    component: type[Any], *, expected_failures: Mapping[str, str] | None = None, **configs: Any
) -> pytest.MarkDecorator:
    """Make one pytest test for each check of a component.

        @parametrize_checks(MyAdapter)
        def test_contract(check):
            check()

    Args:
        component: An encoder, an adapter, an LLM, an objective, a task or a metric.
        expected_failures: Why a check fails, by its name (in all configs) or by its test id (in one:
            ``{"mean-bf16_runs": "an operator lacks bfloat16 on the CPU"}``). Such a test is a strict
            expected failure: once it passes, it has to be taken off the list.
        configs: Configs whose tiny variants are checked (those of objectives, tasks and metrics as they are),
            by a name for the test ids: ``parametrize_checks(MyAdapter, mean=MyAdapter.Config(pool="mean"))``.
            Without, the defaults are.

    Raises:
        TypeError: It is none of these.
        ValueError: An expected failure names no check, or gives no reason.
    """
    import pytest

    kind = kind_of_component(component)
    reasons = dict(expected_failures or {})
    cases: list[Any] = []
    known: set[str] = set()
    for name, config in (configs or {"": None}).items():
        for check in list_checks(kind, component, config):
            test_id = f"{name}-{check.name}" if name else check.name
            known |= {test_id, check.name}
            reason = reasons.get(test_id, reasons.get(check.name))
            marks = () if reason is None else pytest.mark.xfail(reason=reason, strict=True)
            cases.append(pytest.param(check, id=test_id, marks=marks))
    for name, reason in reasons.items():
        if name not in known:
            raise ValueError(
                f"expected_failures: {component.__name__} has no check '{name}'.{nearest(name, known)} "
                f"Checks: {listing(known)}"
            )
        if not (isinstance(reason, str) and reason.strip()):
            raise ValueError(f"expected_failures: '{name}' needs a reason, in words")
    return pytest.mark.parametrize("check", cases)

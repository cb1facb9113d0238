from __future__ import annotations

from typing import Any

import pytest
import torch

from kikimimi.testing import CheckResult, list_checks, parametrize_checks, run_checks
from kikimimi.testing.checks import FOR_ADAPTERS, FOR_ALL, FOR_PADDED
from kikimimi_adapters.mlp import MLPAdapter


def test_results_are_in_order_and_repeatable() -> None:
    results = run_checks("adapter", MLPAdapter)
    names = [function.__name__ for function in (*FOR_ALL, *FOR_PADDED, *FOR_ADAPTERS)]
    assert results == [CheckResult(name, None) for name in names]


def test_checks_leave_the_random_generator_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    for check in list_checks("adapter", MLPAdapter):
        if check.name != "import_is_quiet":
            check()
    assert torch.equal(torch.rand(3), expected)


def test_unknown_kind() -> None:
    with pytest.raises(
        ValueError, match=r"no checks for the kind 'adaptr'. Did you mean 'adapter'\? Kinds: ad"
    ):
        run_checks("adaptr", MLPAdapter)


def test_parametrize_names_one_test_per_check() -> None:
    mark = parametrize_checks(MLPAdapter)
    assert mark.name == "parametrize"
    assert [case.id for case in mark.args[1]] == [check.name for check in list_checks("adapter", MLPAdapter)]


def test_parametrize_names_the_config() -> None:
    mark = parametrize_checks(MLPAdapter, mean=MLPAdapter.Config(pool="mean"), one=MLPAdapter.Config())
    ids = [case.id for case in mark.args[1]]
    assert ids[0] == "mean-config_is_a_frozen_dataclass"
    assert len(ids) == 2 * len(list_checks("adapter", MLPAdapter))
    configs = [case.values[0].subject.config for case in mark.args[1]]
    assert [config.pool for config in configs[:: len(ids) // 2]] == ["mean", "stack"]


@pytest.mark.parametrize("wrong", [int, "mlp", MLPAdapter.Config])
def test_only_components_can_be_checked(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"is no subclass of kikimimi\.Encoder"):
        parametrize_checks(wrong)


def test_an_expected_failure_is_strict_and_has_its_reason() -> None:
    reasons = {"bf16_runs": "no bfloat16", "one-builds_tiny": "too large"}
    configs = {"mean": MLPAdapter.Config(pool="mean"), "one": MLPAdapter.Config()}
    mark = parametrize_checks(MLPAdapter, expected_failures=reasons, **configs)
    marked = {case.id: [(m.name, dict(m.kwargs)) for m in case.marks] for case in mark.args[1] if case.marks}
    assert marked == {
        "mean-bf16_runs": [("xfail", {"reason": "no bfloat16", "strict": True})],
        "one-bf16_runs": [("xfail", {"reason": "no bfloat16", "strict": True})],
        "one-builds_tiny": [("xfail", {"reason": "too large", "strict": True})],
    }


@pytest.mark.parametrize(
    ("reasons", "message"),
    [
        (
            {"bf16_run": "why"},
            r"MLPAdapter has no check 'bf16_run'. Did you mean 'bf16_runs'\? Checks: .*bf16",
        ),
        ({"mean-bf16_runs": "why"}, r"MLPAdapter has no check 'mean-bf16_runs'"),
        ({"bf16_runs": " "}, r"expected_failures: 'bf16_runs' needs a reason"),
        ({"bf16_runs": None}, r"expected_failures: 'bf16_runs' needs a reason"),
    ],
)
def test_an_expected_failure_needs_a_check_and_a_reason(reasons: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parametrize_checks(MLPAdapter, expected_failures=reasons)

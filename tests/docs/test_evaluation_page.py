"""The metric of docs/evaluation.md keeps the contract."""

from __future__ import annotations

import re
import types
from pathlib import Path

from kikimimi.testing.checks import FOR_METRICS
from kikimimi.testing.metric_checks import MetricSubject

PAGE = Path(__file__).parents[2] / "docs" / "evaluation.md"


def test_the_metric_of_the_page() -> None:
    (source,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.S)
    module = types.ModuleType("my_package")
    exec(source, module.__dict__)  # a page of ours
    subject = MetricSubject(module.ExactMatch)
    for check in FOR_METRICS:
        if check.__module__ == "kikimimi.testing.metric_checks":
            check(subject)
    assert subject.value(["a", "b"], ["a", "c"]) == 50

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from kikimimi_label_smoothing import LabelSmoothing
from torch.nn import functional

from kikimimi.testing import Check, parametrize_checks


@parametrize_checks(LabelSmoothing, default=LabelSmoothing.Config(), none=LabelSmoothing.Config(epsilon=0))
def test_contract(check: Check) -> None:
    check()


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 1.0])
def test_it_is_that_of_torch(epsilon: float) -> None:
    logits, targets = torch.randn(5, 7), torch.tensor([0, 6, 2, 2, 5])
    step: Any = SimpleNamespace(scored=SimpleNamespace(logits=logits, targets=targets))
    found = LabelSmoothing(LabelSmoothing.Config(epsilon=epsilon)).loss(step).value
    torch.testing.assert_close(found, functional.cross_entropy(logits, targets, label_smoothing=epsilon))


def test_epsilon_is_a_fraction() -> None:
    with pytest.raises(ValueError, match=r"epsilon: must be at least 0 and at most 1, not 1\.5"):
        LabelSmoothing.Config(epsilon=1.5)

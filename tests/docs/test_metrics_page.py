"""The page of metrics and normalisers names all of them, and its figures are what they give."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kikimimi.contracts.registry import plugins
from kikimimi.evaluation.columns import read_texts
from kikimimi.evaluation.score import score

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
PUBLISHED = "cv8_ja_predictions_step110000.csv"
RATES = re.findall(r"^\| `([\w-]+)` \| ([0-9.]+) % \|$", PAGE, flags=re.MULTILINE)


def built_in(kind: str) -> set[str]:
    return {plugin.name for plugin in plugins(kind) if plugin.distribution == "kikimimi"}


def test_every_metric_and_normaliser_is_explained() -> None:
    headings = " ".join(re.findall("^###? .*", PAGE, flags=re.MULTILINE))
    assert built_in("metric") <= set(re.findall(r"`([\w-]+)`", headings))
    assert built_in("normaliser") - {"none"} <= set(re.findall(r"`([\w-]+)`", headings))
    assert {name for name, _ in RATES} == built_in("normaliser")


@pytest.mark.parametrize(("normaliser", "rate"), RATES)
def test_the_rates(normaliser: str, rate: str) -> None:
    found = sorted(ROOT.parent.glob(f"*/data/{PUBLISHED}"))
    if not found:
        pytest.skip(f"{PUBLISHED} is not beside the checkout")
    pairs = read_texts(found[0], ["reference_raw", "prediction_raw"]).values()
    assert f"{score(*pairs, metric='cer', normaliser=normaliser).value:.2f}" == rate

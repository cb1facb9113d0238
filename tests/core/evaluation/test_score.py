import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from kikimimi.contracts.metric import Score
from kikimimi.contracts.normaliser import normaliser_hash
from kikimimi.errors import PluginError, RequestError
from kikimimi.evaluation.bootstrap import add_up
from kikimimi.evaluation.error_rate import edits, error_rate
from kikimimi.evaluation.score import EDITS, score

from .tables import read_pairs

HAND_SCORED = Path(__file__).with_name("hand_scored.csv")
PUBLISHED = "cv8_ja_predictions_step110000.csv"


def numbers(result: Score) -> tuple[int, ...]:
    return (
        result.count,
        result.skipped,
        *(int(result.details[name]) for name in (*EDITS, "reference_length")),
    )


def test_hand_computed_without_normaliser() -> None:
    # Lengths 8 + 7 + 5 + 2 + 6 + 1. The full stops of the first two rows and ni are deleted, the bracketed
    # part (4) too; the full stop of the last row is substituted, with 4 more characters inserted.
    result = score(*read_pairs(HAND_SCORED, "said", "heard"), metric="cer", normaliser="none")
    assert numbers(result) == (6, 0, 1 + 1, 1 + 1 + 1 + 4, 2 + 4, 29)
    assert result.value == pytest.approx(100 * 15 / 29)
    assert result.label == replace(result, metric="kikimimi:cer").label == "CER"  # whoever's it is


def test_hand_computed_with_normaliser() -> None:
    # Lengths 7 + 6 + 5 + 2 + 2; the last row has no reference left and is not scored.
    result = score(
        *read_pairs(HAND_SCORED, "said", "heard"), metric="cer", normaliser="whisper-basic-nospace"
    )
    assert numbers(result) == (5, 1, 1, 1, 2, 22)
    assert result.value == pytest.approx(100 * 4 / 22)
    assert result.interval is not None
    assert result.interval[0] < result.value < result.interval[1]
    assert result.to_json() == {
        "normaliser_hash": normaliser_hash("whisper-basic-nospace"),
        "low": result.interval[0],
        "high": result.interval[1],
        "metric": "cer",
        "cer": 18.1818,
        "value": 100 * 4 / 22,
        "unit": "%",
        "better": "lower",
        "normaliser": "whisper-basic-nospace",
        "count": 5,
        "skipped": 1,
        "substitutions": 1,
        "deletions": 1,
        "insertions": 2,
        "reference_length": 22,
    }


@pytest.mark.parametrize(("normaliser", "rate"), [("whisper-basic-nospace", 11.8006), ("none", 18.3569)])
def test_published_predictions(normaliser: str, rate: float) -> None:
    """Common Voice 8 Japanese, test split: predictions that a published system scored itself."""
    checkout = Path(__file__).parents[3]
    found = sorted(checkout.parent.glob(f"*/data/{PUBLISHED}"))
    if not found:
        pytest.skip(f"{PUBLISHED} is not beside the checkout")
    result = score(
        *read_pairs(found[0], "reference_raw", "prediction_raw"), metric="cer", normaliser=normaliser
    )
    assert (result.count, result.skipped) == (4483, 0)
    assert result.to_json()["cer"] == rate


def test_the_rate_is_that_of_the_corpus_not_the_mean_of_the_rates() -> None:
    result = score(["ab", "abcdefgh"], ["xb", "abcdefgh"], metric="cer", normaliser="none")
    assert result.value == 10.0


def test_words_are_split_at_any_white_space() -> None:
    result = score([" a  b\tc\u3000d"], ["a b x"], metric="wer", normaliser="none")
    assert numbers(result) == (1, 0, 1, 1, 0, 4)
    assert result.to_json()["wer"] == 50.0
    assert "cer" not in result.to_json()


def test_a_reference_of_white_space_has_no_words_but_a_character() -> None:
    assert score(["a", " "], ["a", "b"], metric="wer", normaliser="none").skipped == 1
    assert score(["a", " "], ["a", "b"], metric="cer", normaliser="none").skipped == 0


def test_white_space_at_the_ends_counts_without_normaliser() -> None:
    assert score(["ab "], ["ab"], metric="cer", normaliser="none").details["deletions"] == 1


@given(
    st.lists(
        st.tuples(st.text("abか 。", max_size=8), st.text("abか 。", max_size=8)), min_size=1, max_size=5
    )
)
def test_equals_the_sum_over_the_edits_of_each_pair(pairs: list[tuple[str, str]]) -> None:
    pairs.append(("a", "b"))
    result = score([r for r, _ in pairs], [p for _, p in pairs], metric="cer", normaliser="none")
    runs = [run for r, p in pairs if r for run in edits(r, p)]
    for op, total in (
        ("substitute", result.details["substitutions"]),
        ("delete", result.details["deletions"]),
        ("insert", result.details["insertions"]),
    ):
        assert sum(run.errors for run in runs if run.op == op) == total
    assert sum(len(run.reference) for run in runs) == result.details["reference_length"]
    assert result.value == error_rate(runs)
    assert result.skipped == sum(not r for r, _ in pairs)


def test_unequal_lengths() -> None:
    with pytest.raises(
        RequestError, match="2 references but 1 predictions: each prediction needs its reference"
    ):
        score(["a", "b"], ["a"], metric="cer", normaliser="none")


def test_unknown_normaliser() -> None:
    with pytest.raises(
        PluginError, match=r"no normaliser is called 'reazon-v2'\. Did you mean 'reazon-v3'\?"
    ):
        score(["a"], ["a"], metric="cer", normaliser="reazon-v2")


def test_unknown_metric() -> None:
    with pytest.raises(
        PluginError, match=r"no metric is called 'cerr'\. Did you mean 'cer'\? Registered metrics: "
    ):
        score(["a"], ["a"], metric="cerr", normaliser="none")


@pytest.mark.parametrize("references", [[], ["", "。"]])
def test_nothing_to_score(references: list[str]) -> None:
    with pytest.raises(
        RequestError, match=f"nothing to score: all {len(references)} references are empty after"
    ):
        score(references, references, metric="cer", normaliser="whisper-basic-nospace")


def test_words_of_a_normaliser_that_joins_them() -> None:
    with pytest.raises(RequestError, match="normaliser 'whisper-basic-nospace': compares words, but"):
        score(["a b"], ["a b"], metric="wer", normaliser="whisper-basic-nospace")


def test_each_utterance_has_its_details() -> None:
    result = score(["ab", "", "abcd"], ["xb", "y", "abc"], metric="cer", normaliser="none")
    first, second, third = result.utterances
    assert first is not None
    assert third is not None
    assert second is None
    assert (first["substitutions"], third["deletions"], third["reference_length"]) == (1, 1, 4)
    assert add_up([first, third]) == result.details


def test_json_holds_the_score() -> None:
    result = score(["abc"] * 3, ["abd", "abc", "abc"], metric="cer", normaliser="none")
    assert Score.from_json({**json.loads(json.dumps(result.to_json())), "seconds": 1.5}) == result


def test_a_score_of_the_time_when_all_were_error_rates_is_read() -> None:
    old = {"metric": "cer", "cer": 18.1818, "normaliser": "whisper-basic-nospace", "count": 5, "skipped": 1}
    counts = {"substitutions": 1, "deletions": 1, "insertions": 2, "reference_length": 22}
    found = Score.from_json({**old, **counts, "seconds": 3.25})
    assert found == score(
        *read_pairs(HAND_SCORED, "said", "heard"), metric="cer", normaliser="whisper-basic-nospace"
    )
    assert (str(found), found.shown(form=".4f")) == ("CER 18.18 %", "18.1818 %")


def test_scoring_imports_no_torch() -> None:
    code = (
        "import sys; from kikimimi.evaluation.score import EDITS, add_up, score; "
        "names = 'none', 'reazon-v3', 'whisper-basic-nospace'; "
        "[score(['a'], ['a'], metric='cer', normaliser=name) for name in names]; "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_fixture_has_the_rows_that_the_tests_count() -> None:
    with HAND_SCORED.open(encoding="utf-8", newline="") as file:
        assert [row["id"] for row in csv.DictReader(file)] == [
            "same", "substituted", "deleted", "inserted", "bracketed", "silent",
        ]  # fmt: skip

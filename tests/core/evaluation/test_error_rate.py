import pytest
from hypothesis import given, strategies as st

from kikimimi.evaluation.error_rate import Edit, edits, error_rate


@pytest.mark.parametrize(
    ("reference", "prediction", "expected"),
    [
        ("私は猫", "私は犬", [("equal", "私は", "私は"), ("substitute", "猫", "犬")]),
        ("山に登る", "山登る", [("equal", "山", "山"), ("delete", "に", ""), ("equal", "登る", "登る")]),
        ("登る", "山登る", [("insert", "", "山"), ("equal", "登る", "登る")]),
        ("ab", "", [("delete", "ab", "")]),
        ("", "ab", [("insert", "", "ab")]),
        ("", "", []),
        (" a", "a", [("delete", " ", ""), ("equal", "a", "a")]),
    ],
)
def test_examples(reference: str, prediction: str, expected: list[tuple[str, str, str]]) -> None:
    assert edits(reference, prediction) == expected


@given(st.text("abcか\n ", max_size=12), st.text("abcか\n ", max_size=12))
def test_the_pieces_rebuild_both_texts(reference: str, prediction: str) -> None:
    runs = edits(reference, prediction)
    assert "".join(run.reference for run in runs) == reference
    assert "".join(run.prediction for run in runs) == prediction
    for run in runs:
        assert (run.op == "equal") == (run.reference == run.prediction)
        assert run.reference or run.prediction
        assert run.op != "substitute" or len(run.reference) == len(run.prediction)
        assert run.op != "insert" or not run.reference
        assert run.op != "delete" or not run.prediction


@given(st.text("abc", max_size=8), st.text("abc", max_size=8))
def test_no_alignment_has_fewer_edits(reference: str, prediction: str) -> None:
    row = list(range(len(prediction) + 1))  # Wagner and Fischer 1974
    for i, said in enumerate(reference, start=1):
        previous, row = row, [i]
        for j, wrote in enumerate(prediction, start=1):
            row.append(min(previous[j] + 1, row[-1] + 1, previous[j - 1] + (said != wrote)))
    assert sum(run.errors for run in edits(reference, prediction)) == row[-1]


def test_error_rate() -> None:
    assert error_rate([Edit("equal", "abc", "abc"), Edit("substitute", "d", "e")]) == 25.0
    assert error_rate([Edit("equal", "a", "a"), Edit("insert", "", "xyz")]) == 300.0
    assert error_rate([Edit("insert", "", "xyz")]) is None
    assert error_rate([]) is None

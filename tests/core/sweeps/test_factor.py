from __future__ import annotations

import pytest

from kikimimi.errors import RequestError
from kikimimi.sweeps.factor import DrawnRange, Factor, range_of, read_change, written_value


def labels(text: str) -> list[str]:
    found = read_change(text)
    assert isinstance(found, Factor)
    return [level.label for level in found.levels]


def changes(text: str) -> list[str]:
    found = read_change(text)
    assert isinstance(found, Factor)
    return [change for level in found.levels for change in level.changes]


def test_levels_stand_between_commas() -> None:
    assert labels("adapter=mlp,qformer,ctc") == ["mlp", "qformer", "ctc"]
    assert changes("seed=0,1") == ["seed=0", "seed=1"]
    assert read_change("stages.asr.steps=100") == "stages.asr.steps=100"


def test_brackets_and_quotation_marks_hold_their_commas() -> None:
    assert labels("adapter={name: mlp, downsample: 4},{name: qformer}") == ["mlp", "qformer"]
    assert read_change("encoder.layers=[2, 4]") == "encoder.layers=[2, 4]"
    assert labels("encoder.layers=[2,4],[6]") == ["[2, 4]", "[6]"]
    assert labels("x='a,b',c") == ["a,b", "c"]
    assert labels("x=it's,so") == ["it's", "so"]


def test_labels_say_what_tells_levels_of_one_component_apart() -> None:
    found = labels(
        "adapter={name: mlp, downsample: 4, hidden_dim: 8},{name: mlp, downsample: 8, hidden_dim: 8},ctc"
    )
    assert found == ["mlp downsample=4", "mlp downsample=8", "ctc"]


def test_ranges() -> None:
    assert read_change("lr=1e-4..1e-2:log") == DrawnRange("lr", 1e-4, 1e-2, log=True, whole=False)
    assert read_change("n=2..8") == DrawnRange("n", 2, 8, log=False, whole=True)
    drawn = range_of("lr", 1e-4, 1e-2, log=True).level(0.00123456789)
    assert (drawn.label, drawn.changes) == ("0.001235", ("lr=0.00123456789",))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("adapter", "expected key=value"),
        ("=1,2", "expected key=value"),
        ("seed=0,,1", "level 2 is empty"),
        ("seed=0,0", "is given twice"),
        ("lr=2..1", "the smaller end comes first"),
        ("lr=0..1:log", "begins above 0"),
    ],
)
def test_what_is_no_factor_is_told(text: str, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        read_change(text)


def test_values_are_spelled_as_a_recipe_reads_them() -> None:
    assert [written_value(value) for value in ("mlp", "1e5", "no", 3, None, ["a"], "a b")] == [
        "mlp",
        '"1e5"',
        "no",
        "3",
        "null",
        '["a"]',
        '"a b"',
    ]

from kikimimi.contracts.registry import load
from kikimimi_normalisers.none import Unchanged


def test_changes_nothing() -> None:
    text = " Ａ。（笑い）\n"
    assert Unchanged()(text) == text


def test_is_registered() -> None:
    assert load("normaliser", "none") is Unchanged

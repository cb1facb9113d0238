from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from kikimimi.evaluation.loops import LEAST_LENGTH, LEAST_TIMES, LONGEST_PIECE, has_loop


@pytest.mark.parametrize(
    ("text", "loops"),
    [
        ("の" * 20, True),
        ("の" * 19, False),  # too short together
        ("はい、" * 7, True),
        ("はい、" * 6, False),
        ("ありがとうございました。" * 4, True),
        ("ありがとうございました。" * 3, False),  # three times are said
        ("ありがとうございました。" * 3 + "ありがとう", False),
        ("それでは、" + "ご視聴ありがとうございました。" * 4 + "終わり", True),  # wherever it stands
        ("ご視聴ありがとうございました。" * 4 + "ご視聴あ", True),  # cut short
        ("ははははははは", False),  # laughter
        ("the cat sat on the mat " * 4, True),
        ("no no no no no no no", True),
        ("今日は天気がいいので、公園を散歩しました。明日も晴れたら散歩します。", False),
        ("", False),
    ],
)
def test_by_hand(text: str, loops: bool) -> None:
    assert has_loop(text) is loops


@given(st.text("あいう ", min_size=1, max_size=8), st.integers(1, 9), st.text("xyz", max_size=5))
def test_a_piece_often_enough(piece: str, times: int, around: str) -> None:
    whole = piece * times
    if times >= LEAST_TIMES and len(whole) >= LEAST_LENGTH:
        assert has_loop(around + whole + around[::-1])


@given(st.text("あい", max_size=60))
def test_a_loop_is_a_stretch_that_repeats(text: str) -> None:
    """The definition, spelled out."""
    found = any(
        len(text[start:end]) >= max(LEAST_LENGTH, LEAST_TIMES * period)
        and text[start + period : end] == text[start : end - period]
        for period in range(1, len(text) // LEAST_TIMES + 1)
        for start in range(len(text))
        for end in range(start + max(LEAST_LENGTH, LEAST_TIMES * period), len(text) + 1)
    )
    assert has_loop(text) == found


def test_longer_pieces_are_not_looked_for() -> None:
    piece = "".join(chr(0x4E00 + number) for number in range(LONGEST_PIECE))
    assert has_loop(piece * LEAST_TIMES)
    assert not has_loop((piece + "x") * LEAST_TIMES)

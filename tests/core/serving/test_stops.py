"""Texts at which an answer ends, however it is cut into pieces."""

from __future__ import annotations

from hypothesis import given, strategies as st

from kikimimi.serving.stops import StopTexts

TEXTS = st.text("ab。", max_size=12)
STOPS = st.lists(st.text("ab。", min_size=1, max_size=4), max_size=4)


@given(pieces=st.lists(TEXTS, max_size=6), stops=STOPS)
def test_it_is_the_text_before_the_stop_that_ends_first(pieces: list[str], stops: list[str]) -> None:
    text, stop = "".join(pieces), StopTexts(stops)
    passed = [stop.push(piece) for piece in pieces]
    passed.append(stop.finish())
    places = [(text.find(one) + len(one), text.find(one)) for one in stops if one in text]
    assert stop.found == bool(places)
    assert "".join(passed) == (text[: min(places)[1]] if places else text)


def test_nothing_is_held_back_without_need() -> None:
    stop = StopTexts(["END"])
    assert [stop.push(piece) for piece in ("go", "od E", "N", "D.", "more")] == ["go", "od ", "", "", ""]
    assert stop.found
    assert stop.finish() == ""
    stop = StopTexts(["aab"])
    assert [stop.push(piece) for piece in "aaab"] == ["", "", "a", ""]

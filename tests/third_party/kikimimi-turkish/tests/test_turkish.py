from __future__ import annotations

import pytest
from kikimimi_turkish import Turkish

from kikimimi.testing import Check, parametrize_checks


@parametrize_checks(Turkish)
def test_contract(check: Check) -> None:
    check()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("İSTANBUL ILIK", "istanbul ılık"),
        ("I\u0307zmir", "izmir"),  # the dot as a character of its own
        ("Ankara'da, Ali’nin evi!", "ankarada alinin evi"),
        ("'Evet' dedi.", "evet dedi"),
        ("Kâğıt,  hâlâ\nmillî", "kağıt hala milli"),
        ("", ""),
    ],
)
def test_definition(text: str, expected: str) -> None:
    assert Turkish()(text) == expected


def test_again_it_changes_nothing() -> None:
    once = Turkish()("Diyarbakır'ın IĞDIR'a uzaklığı: 480 km (yaklaşık).")
    assert Turkish()(once) == once == "diyarbakırın ığdıra uzaklığı 480 km yaklaşık"

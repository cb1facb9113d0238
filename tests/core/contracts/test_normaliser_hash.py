"""The hash by which scores know a normaliser: one that changes under its name is noticed here."""

from __future__ import annotations

from typing import Any

import pytest

from kikimimi import normaliser_hash
from kikimimi.contracts.registry import names
from kikimimi.errors import PluginError

GOLDEN = {
    "kikimimi-ja-v1": "cb8b2d40ad29",
    "none": "89928ca727e1",
    "reazon-v3": "064a27be92ea",
    "whisper-basic-nospace": "4e726e9aff5a",
    "whisper-english": "e908b9fed7cc",
}
"""Another behaviour is another name (``-v2``): scores that were written say what they were written with."""


def test_built_ins_do_what_they_did() -> None:
    assert {name: normaliser_hash(name) for name in names("normaliser")} == GOLDEN


def test_one_plugin_has_one_hash() -> None:
    assert normaliser_hash("kikimimi:none") == normaliser_hash("none")


def test_an_unknown_one() -> None:
    with pytest.raises(PluginError, match=r"no normaliser is called 'nine'. Did you mean 'none'\?"):
        normaliser_hash("nine")


BREAKS = """
from kikimimi import Normaliser

class Same(Normaliser):
    "Nothing."
    def __call__(self, text):
        return text

class Breaks(Normaliser):
    "The first letter."
    def __call__(self, text):
        return text[0]
"""


def test_behaviour_and_name_both_count(install: Any) -> None:
    entries = {"kikimimi.normalisers": {"same": "third_same:Same", "breaks": "third_same:Breaks"}}
    install("same", entries, {"third_same": BREAKS})
    assert normaliser_hash("same") != normaliser_hash("none")
    with pytest.raises(PluginError, match="'breaks' takes any text, and ended with IndexError: string index"):
        normaliser_hash("breaks")

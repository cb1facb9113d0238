from __future__ import annotations

import sys
from typing import Any

import pytest

from kikimimi.contracts import registry
from kikimimi.errors import PluginError

NORMALISERS = "kikimimi.normalisers"
LOWER = """
from kikimimi.contracts.normaliser import Normaliser

class Lower(Normaliser):
    def __call__(self, text):
        return text.lower()
"""


def test_a_plugin_is_listed_without_being_imported_and_loaded_when_named(install: Any) -> None:
    install("lower-case", {NORMALISERS: {"lower": "third_lower:Lower"}}, {"third_lower": LOWER}, "2.3")
    assert "lower" in registry.names("normaliser")
    found = registry.find("normaliser", "lower")
    assert (found.distribution, found.version, found.value) == ("lower-case", "2.3", "third_lower:Lower")
    assert found in list(registry.plugins("normaliser"))
    assert found in list(registry.plugins())
    assert str(found) == "normaliser 'lower' (lower-case 2.3, third_lower:Lower)"
    assert "third_lower" not in sys.modules
    assert registry.load("normaliser", "lower")()("ABC") == "abc"
    assert registry.load("normaliser", "lower") is registry.load("normaliser", "lower")


def test_refresh_sees_what_was_installed_meanwhile(install: Any) -> None:
    assert "lower" not in registry.names("normaliser")
    install("lower-case", {NORMALISERS: {"lower": "third_lower:Lower"}}, {"third_lower": LOWER})
    assert "lower" in registry.names("normaliser")


def test_two_distributions_with_one_name_are_both_named(install: Any) -> None:
    install("first", {NORMALISERS: {"lower": "third_a:Lower"}}, {"third_a": LOWER}, "1.0")
    install("second", {NORMALISERS: {"lower": "third_b:Lower"}}, {"third_b": LOWER}, "0.2")
    assert [plugin.distribution for plugin in registry.plugins("normaliser") if plugin.name == "lower"] == [
        "first",
        "second",
    ]
    with pytest.raises(PluginError) as raised:
        registry.load("normaliser", "lower")
    assert str(raised.value) == (
        "normaliser 'lower' is claimed by first 1.0 (third_a:Lower) and second 0.2 (third_b:Lower). "
        "Uninstall one of them."
    )


def test_a_broken_plugin_stops_nothing_until_it_is_named(install: Any) -> None:
    site = install(
        "broken",
        {NORMALISERS: {"breaks": "third_broken:Lower"}},
        {"third_broken": "import no_such_module\n"},
        "0.1",
    )
    assert registry.load("normaliser", "none")
    with pytest.raises(PluginError) as raised:
        registry.load("normaliser", "breaks")
    assert str(raised.value) == (
        "normaliser 'breaks' (broken 0.1, third_broken:Lower) is broken: ModuleNotFoundError: "
        f"No module named 'no_such_module' (raised in {site / 'third_broken.py'}:1). "
        "'kikimimi plugins --check --verbose breaks' shows the whole traceback."
    )


def test_a_class_of_another_contract_is_refused(install: Any) -> None:
    source = "class Lower:\n    pass\n\ndef function(text):\n    return text\n"
    entries = {NORMALISERS: {"lower": "third_wrong:Lower", "function": "third_wrong:function"}}
    install("wrong", entries, {"third_wrong": source})
    for name in ("lower", "function"):
        with pytest.raises(
            PluginError, match=r"is not a subclass of kikimimi.contracts.normaliser.Normaliser"
        ):
            registry.load("normaliser", name)


def test_an_unknown_name_is_answered_with_the_nearest_and_all(install: Any) -> None:
    install("lower-case", {NORMALISERS: {"lower": "third_lower:Lower"}}, {"third_lower": LOWER})
    with pytest.raises(PluginError) as raised:
        registry.find("normaliser", "lowr")
    assert str(raised.value).startswith(
        "no normaliser is called 'lowr'. Did you mean 'lower'? Registered normalisers: "
    )
    assert "lower, none" in str(raised.value)


def test_a_name_of_another_kind_is_hinted_at(install: Any) -> None:
    install("lower-case", {NORMALISERS: {"lower": "third_lower:Lower"}}, {"third_lower": LOWER})
    expected = (
        "no adapter is called 'lower'. The name belongs to another kind: normaliser. Registered adapters:"
    )
    with pytest.raises(PluginError, match=expected):
        registry.find("adapter", "lower")


def test_an_unknown_kind_is_answered_with_the_kinds() -> None:
    with pytest.raises(
        PluginError, match=r"'adaptor' is not a kind of plugin. Did you mean 'adapter'\? Kinds: adapter,"
    ):
        registry.names("adaptor")

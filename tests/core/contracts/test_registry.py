from __future__ import annotations

import os
import signal
import subprocess
import sys
from importlib.metadata import version
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
        "Say whose: 'first:lower' or 'second:lower'; uninstall one; or switch one off: "
        "KIKIMIMI_DISABLE_PLUGINS=first"
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


def two_that_claim(install: Any) -> None:
    install("First_Ears", {NORMALISERS: {"lower": "third_a:Lower"}}, {"third_a": LOWER}, "1.0")
    install("second", {NORMALISERS: {"lower": "third_b:Lower"}}, {"third_b": LOWER}, "0.2")


def test_a_name_may_say_whose_it_is(install: Any) -> None:
    two_that_claim(install)
    assert registry.find("normaliser", "second:lower").value == "third_b:Lower"
    assert (
        registry.find("normaliser", "first-ears:lower").distribution == "First_Ears"
    )  # as pip compares names
    assert registry.load("normaliser", "second:lower").__module__ == "third_b"
    with pytest.raises(PluginError, match=r"secnd registers no normaliser 'lower'\. Did you mean 's"):
        registry.find("normaliser", "secnd:lower")
    with pytest.raises(PluginError, match=r"no normaliser is called 'second:upper'"):
        registry.find("normaliser", "second:upper")


def test_what_a_run_was_made_with_is_taken(install: Any) -> None:
    two_that_claim(install)
    registry.prefer("lower", "first-ears")
    assert registry.find("normaliser", "lower").value == "third_a:Lower"
    registry.prefer("lower", "not-installed")
    assert registry.find("normaliser", "lower").value == "third_a:Lower"


def test_plugins_of_a_distribution_are_switched_off(install: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    two_that_claim(install)
    monkeypatch.setenv("KIKIMIMI_DISABLE_PLUGINS", "other, first_ears")
    registry.refresh()
    assert registry.find("normaliser", "lower").distribution == "second"


def test_another_kikimimi_than_it_asks_for_is_refused(install: Any) -> None:
    site = install("late", {NORMALISERS: {"lower": "third_lower:Lower"}}, {"third_lower": LOWER})
    metadata = site / "late-1.0.dist-info" / "METADATA"
    metadata.write_text(
        f"{metadata.read_text()}Requires-Dist: kikimimi-more>=7\nRequires-Dist: kikimimi>=99.1\n"
    )
    registry.refresh()
    with pytest.raises(PluginError) as raised:
        registry.load("normaliser", "lower")
    assert str(raised.value).startswith(
        "normaliser 'lower' (late 1.0, third_lower:Lower) needs kikimimi >=99.1, and "
        f"{version('kikimimi')} is installed. Install what fits: pip install 'kikimimi>=99.1', or "
    )


def test_not_all_built_ins_are_offered_to_be_switched_off(install: Any) -> None:
    install("own", {NORMALISERS: {"none": "third_own:Lower"}}, {})
    with pytest.raises(PluginError, match=r"'own:none'; .* switch one off: KIKIMIMI_DISABLE_PLUGINS=own$"):
        registry.find("normaliser", "none")


@pytest.mark.parametrize("number", [0, 2])
def test_another_contract_than_it_was_written_for_is_refused(install: Any, number: int) -> None:
    source = "from kikimimi import Normaliser\n\nclass Lower(Normaliser):\n    contract_version = {}\n"
    install("now", {NORMALISERS: {"now": "third_now:Lower"}}, {"third_now": source.format(1)})
    install("other", {NORMALISERS: {"other": "third_other:Lower"}}, {"third_other": source.format(number)})
    assert registry.load("normaliser", "now")
    with pytest.raises(PluginError) as raised:
        registry.load("normaliser", "other")
    assert str(raised.value) == (
        f"normaliser 'other' (other 1.0, third_other:Lower) is written for version {number} of the contract "
        f"of normalisers, and kikimimi {version('kikimimi')} has version 1. Install another version of "
        "other, or the kikimimi that it was written for"
    )


def test_a_base_of_another_package_says_nothing_of_the_contract(install: Any) -> None:
    base = "from kikimimi import Normaliser\n\nclass Base(Normaliser):\n    contract_version = 7\n"
    derived = "from third_base import Base\n\nclass Lower(Base):\n    pass\n"
    install("base", {NORMALISERS: {"base": "third_base:Base"}}, {"third_base": base})
    install("lower", {NORMALISERS: {"lower": "third_lower:Lower"}}, {"third_lower": derived})
    assert registry.load("normaliser", "lower").contract_version == 7
    with pytest.raises(PluginError, match="version 7 of the contract"):
        registry.load("normaliser", "base")


@pytest.mark.parametrize("said", ["'1'", "True", "1.0", "None"])
def test_the_version_of_a_contract_is_a_whole_number(install: Any, said: str) -> None:
    source = f"from kikimimi import Normaliser\n\nclass Lower(Normaliser):\n    contract_version = {said}\n"
    install("lower", {NORMALISERS: {"lower": "third_lower:Lower"}}, {"third_lower": source})
    with pytest.raises(PluginError) as raised:
        registry.load("normaliser", "lower")
    assert str(raised.value).endswith(f": contract_version: expected a whole number such as 1, not {said}")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "import sys\nsys.exit('no licence')\n",
            r"SystemExit: no licence \(raised in .*third_odd\.py:2\)",
        ),
        (
            "import time\ntry:\n    time.sleep(60)\nexcept Exception:\n    pass\n",
            r"importing it takes more than 0\.2 s",
        ),
        (
            "import time\nwhile True:\n try:\n  time.sleep(0.01)\n except BaseException:\n  pass\n",
            r"importing it takes more than 0\.2 s",
        ),
        (
            "class Odd(BaseException):\n    pass\nraise Odd('odd')\n",
            r"Odd: odd \(raised in .*third_odd\.py:3\)",
        ),
        ("x = 1\ndef f(:\n", r"SyntaxError: .*\(in .*third_odd\.py:2\)\. '"),
        ("import no_such\n", r"No module named 'no_such' \(raised in .*third_odd\.py:1\)"),
        ("lower = 1\n", r"names Lower, which third_odd has not\. Did you mean 'lower'"),
        ("import json\njson.loads('{')\n", r"JSONDecodeError: .* \(raised in .*third_odd\.py:2\)"),
    ],
)
def test_a_module_that_exits_or_hangs_is_its_plugins_failure(
    install: Any, monkeypatch: pytest.MonkeyPatch, source: str, message: str
) -> None:
    registry.load("normaliser", "none")  # the contract is imported
    monkeypatch.setenv("KIKIMIMI_IMPORT_SECONDS", "0.2")
    install("odd", {NORMALISERS: {"lower": "third_odd:Lower"}}, {"third_odd": source})
    with pytest.raises(PluginError, match=message):
        registry.load("normaliser", "lower")
    assert registry.load("normaliser", "none")
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("third_odd.inner:X", "names the module third_odd.inner, and there is no third_odd.inner"),
        ("no_package.inner:X", "names the module no_package.inner, and there is no no_package"),
        ("third_odd:Lower.inner", "names Lower.inner, which third_odd has not."),
        ("third_odd", "is not of the form module:Class"),
        ("third odd:X!", "is not of the form module:Class"),
    ],
)
def test_an_entry_point_that_names_nothing_says_what_is_missing(install: Any, value: str, said: str) -> None:
    install("odd", {NORMALISERS: {"lower": value}}, {"third_odd": LOWER})
    with pytest.raises(PluginError) as raised:
        registry.load("normaliser", "lower")
    plugin = f"normaliser 'lower' (odd 1.0, {value})"
    assert str(raised.value).startswith(f"{plugin} is broken: its entry point (group {NORMALISERS}) {said}")


def test_what_nothing_stops_ends_the_process_by_name(install: Any) -> None:
    source = (
        "import signal, time\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])\ntime.sleep(9)\n"
    )
    site = install("odd", {NORMALISERS: {"lower": "third_odd:Lower"}}, {"third_odd": source})
    script = "from kikimimi.contracts import plugin_import, registry\nplugin_import._GRACE_SECONDS = 0.0\n"
    script += "registry.load('normaliser', 'none')\nregistry.load('normaliser', 'lower')\n"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(site), "KIKIMIMI_IMPORT_SECONDS": "0.2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "error: normaliser 'lower' (odd 1.0, third_odd:Lower) is broken: importing it takes more than 0.2 s, "
        "and nothing stops it: the command ends. To go on without: KIKIMIMI_DISABLE_PLUGINS=DISTRIBUTION\n"
    )


def test_the_limit_on_imports_is_a_time(install: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIKIMIMI_IMPORT_SECONDS", "soon")
    registry.refresh()
    with pytest.raises(PluginError, match=r"KIKIMIMI_IMPORT_SECONDS: expected seconds above 0, not 'soon'"):
        registry.load("normaliser", "none")


def test_a_class_of_another_kind_is_told_where_it_belongs(install: Any) -> None:
    install("astray", {"kikimimi.metrics": {"lower": "third_lower:Lower"}}, {"third_lower": LOWER})
    with pytest.raises(PluginError, match=r"It is a Normaliser: register it under .* kikimimi\.normalisers"):
        registry.load("metric", "lower")


def test_what_nothing_can_be_made_of_is_pointed_out(install: Any) -> None:
    assert registry.misplaced() == []
    entries = {
        "kikimimi.normalizers": {"lower": "third_lower:Lower"},
        NORMALISERS: {"lower case": "third_lower:Lower"},
    }
    install("astray", entries, {"third_lower": LOWER})
    second, first = registry.misplaced()
    assert first == f"astray: {NORMALISERS} 'lower case': {registry.NAME_RULE}"
    assert second.startswith(
        "astray: 'kikimimi.normalizers' is no group of plugins. Did you mean 'kikimimi.normalisers'? Groups: "
    )
    assert "lower case" not in registry.names("normaliser")


@pytest.mark.parametrize(
    ("name", "usable"),
    [("null", False), ("True", False), ("list", False), ("new", False), ("nullify", True), ("no", True)],
)
def test_words_of_yaml_and_of_the_command_line_are_no_names(name: str, usable: bool) -> None:
    assert (registry.PLUGIN_NAME.fullmatch(name) is not None) is usable

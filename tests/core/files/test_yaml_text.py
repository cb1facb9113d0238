"""YAML 1.2, the same wherever YAML is read, and within limits."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import yaml

import kikimimi
from kikimimi.errors import DamagedError
from kikimimi.files.yaml_text import (
    MAX_DATA,
    Resolver,
    YamlError,
    YamlLoader,
    compose_yaml,
    parse_yaml,
    read_yaml,
)

pytestmark = pytest.mark.fault("Names: numbers and texts of YAML", "those of YAML 1.2, the same everywhere")

SCALARS: list[tuple[str, Any]] = [
    ("10", 10),
    ("010", 10),
    ("-07", -7),
    ("+1", 1),
    ("0o17", 15),
    ("0x1F", 31),
    ("0b11", "0b11"),
    ("1_000", "1_000"),
    ("1:30", "1:30"),
    ("1:30.5", "1:30.5"),
    ("190:20:30", "190:20:30"),
    (".5", 0.5),
    ("1.", 1.0),
    ("1e5", 1e5),
    ("1E-4", 1e-4),
    ("+1.5", 1.5),
    ("1.5e3", 1500.0),
    (".inf", float("inf")),
    ("-.INF", float("-inf")),
    ("inf", "inf"),
    ("nan", "nan"),
    ("true", True),
    ("False", False),
    ("TRUE", True),
    ("yes", "yes"),
    ("no", "no"),
    ("No", "No"),
    ("on", "on"),
    ("off", "off"),
    ("y", "y"),
    ("null", None),
    ("~", None),
    ("", None),
    ("none", "none"),
    ("2024-01-01", "2024-01-01"),
    ("2024-01-01 10:00:00", "2024-01-01 10:00:00"),
    ("=", "="),
    (".", "."),
    ("-", [None]),
    ("1.2.3", "1.2.3"),
    ("e5", "e5"),
    ("1e", "1e"),
    ("'010'", "010"),
]


@pytest.mark.parametrize(("written", "value"), SCALARS)
def test_scalars(written: str, value: Any) -> None:
    found = parse_yaml(f"a: {written}" if written != "-" else f"a:\n  {written}")["a"]
    assert (type(found), found) == (type(value), value)
    node = compose_yaml(written)
    if node is not None and not isinstance(
        node, yaml.SequenceNode
    ):  # as recipes and the command line read it
        assert YamlLoader("").construct_object(node) == value


def test_keys_are_what_is_spelled() -> None:
    assert parse_yaml("no: x\nyes: y\non: z") == {"no": "x", "yes": "y", "on": "z"}
    assert parse_yaml("a: &a {b: 1}\nc: {<<: *a, d: 2}") == {"a": {"b": 1}, "c": {"b": 1, "d": 2}}


def test_a_key_twice() -> None:
    with pytest.raises(YamlError, match="not YAML: 'a' is given twice"):
        parse_yaml("{a: 1, b: {c: 1}, a: 2}")


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 10)}]\n" for n in range(9)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LAUGHS, "holds more than 500,000 entries once its aliases are expanded"),
        ("[" * 100_000, "not YAML|nested deeper"),
        ("- " * 100_000, "not YAML|nested deeper"),
        ("[" * 50 + "]" * 50, "nested deeper than 40 levels"),
        ("a: " + "x" * MAX_DATA, r"is 8\.39 MB large; at most 8\.39 MB are read"),
        ("a: [", "not YAML: "),
        ("a: \x01", "not YAML: "),
        ("a: !!python/object/apply:os.system [ls]", "not YAML: could not determine a constructor"),
        ("a: " + "9" * 5000, "not YAML: Exceeds the limit"),
        ("a: &a [*a]", "not YAML: found unconstructable recursive node"),
        ("? [a, b]\n: c", "not YAML: "),
        ("a: !!float ''", "not YAML: could not convert"),
        ("a: !!float '1:30'", "not YAML: could not convert"),
        ("a: !!bool maybe", "a tag stands on a text that is no such value"),
        ("a: !!timestamp today", "a tag stands on a text that is no such value"),
        (
            "a: &a {" + ", ".join(f"k{n}: 1" for n in range(1000)) + "}\nb:\n" + "- {<<: *a}\n" * 1000,
            "'<<' makes more than 500,000 entries",
        ),
    ],
)
def test_limits(text: str, said: str) -> None:
    with pytest.raises(YamlError, match=said):
        parse_yaml(text)


def test_what_is_read_with_its_lines_is_not_read_on_for_ever() -> None:
    with pytest.raises(YamlError, match="holds more than 50,000 keys and values"):
        compose_yaml("\n".join(f"k{number}: 1" for number in range(25_001)))


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xef\xbb\xbflanguage: no\n")
    assert read_yaml(path) == {"language": "no"}
    with path.open("wb") as file:
        file.truncate(10_000_000_000)
    with pytest.raises(DamagedError, match=r"x\.yaml: is 10 GB large; at most 8\.39 MB are read"):
        read_yaml(path)
    path.write_text("[")
    with pytest.raises(DamagedError, match=r"x\.yaml: not YAML: "):
        read_yaml(path)


def test_nothing_else_reads_yaml() -> None:
    """Every YAML is read through one module, so that one spelling means one thing."""
    assert issubclass(YamlLoader, Resolver)
    core = Path(kikimimi.__file__).parent
    for path in [*core.rglob("*.py"), *(core.parents[1] / "plugins").rglob("*.py")]:
        if path.name == "yaml_text.py":
            continue
        calls = [
            node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Attribute)
        ]
        used = {node.attr for node in calls if isinstance(node.value, ast.Name) and node.value.id == "yaml"}
        assert not used & {
            "load",
            "safe_load",
            "load_all",
            "safe_load_all",
            "compose",
            "parse",
            "full_load",
        }, path


@pytest.mark.fault(
    "Rows: tabs, line feeds, carriage returns, long fields", "the row is taken, or counted as malformed"
)
@pytest.mark.parametrize("character", ["\x85", "\u2028", "\u2029"])
def test_lines_end_at_line_feeds_only(character: str) -> None:
    texts = {
        f"a: x{character}y": {"a": f"x{character}y"},
        f"a: 'x{character}y'": {"a": f"x{character}y"},
        f'a: "x{character}  y"': {"a": f"x{character}  y"},
        f"a: |\n  x{character}y\n  z\n": {"a": f"x{character}y\nz\n"},
        f"a: >\n  x{character}  y\n  z\n": {"a": f"x{character}  y z\n"},
        f"x{character}y: z": {f"x{character}y": "z"},
        f"a: b # c{character}d: 1": {"a": "b"},
        f"# c{character}d: 1\na: b": {"a": "b"},
    }
    for text, value in texts.items():
        assert parse_yaml(text) == value
        node = compose_yaml(text)
        assert isinstance(node, yaml.MappingNode)
        assert {key.value: item.value for key, item in node.value} == value
    text = f"x{character}{character} y {character}"
    for unicode in (True, False):
        assert parse_yaml(yaml.safe_dump({"a": text}, allow_unicode=unicode)) == {"a": text}

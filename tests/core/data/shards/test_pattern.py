from __future__ import annotations

import os
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kikimimi.cli import app
from kikimimi.data.shards.pattern import NoShardError, expand, patterns_of
from kikimimi.errors import RequestError
from kikimimi.recipe import load_recipe
from kikimimi.recipe.show import to_yaml
from kikimimi.testing import tiny_recipe, write_shard

ROOT = Path(__file__).parents[4]

pytestmark = pytest.mark.fault(
    "Names: brackets and braces", "a path that exists is taken as it is; too many names are an error at once"
)


@pytest.mark.parametrize("folder", ["[ja]", "{1}", "{a", "b}", "x*y", "a?", "{a,b}", "[!x]/{0..9}"])
def test_a_folder_that_exists_is_taken_literally(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir(parents=True)
    shards = [str(tmp_path / folder / f"s-{number:03d}.tar") for number in range(2)]
    for shard in shards:
        Path(shard).touch()
    assert expand(shards[0]) == [shards[0]]
    assert expand(str(tmp_path / folder / "s-*.tar")) == shards
    assert expand(str(tmp_path / folder / "s-{000..001}.tar")) == shards
    assert expand(str(tmp_path / folder / "s-00[01].tar")) == shards
    with pytest.raises(RequestError, match=r"shard .*s-002\.tar does not exist"):
        expand(str(tmp_path / folder / "s-{001..002}.tar"))


def test_a_file_that_exists_is_taken_literally(tmp_path: Path) -> None:
    for name in ("[a].tar", "a.tar", "{b,c}.tar", "b.tar", "c.tar"):
        (tmp_path / name).touch()
    for name in ("[a].tar", "{b,c}.tar"):
        assert expand(str(tmp_path / name)) == [str(tmp_path / name)]
    (tmp_path / "{b,c}.tar").unlink()
    assert expand(str(tmp_path / "{b,c}.tar")) == [str(tmp_path / "b.tar"), str(tmp_path / "c.tar")]


def test_what_braces_bring_is_taken_literally(tmp_path: Path) -> None:
    (tmp_path / "[ja]").mkdir()
    (tmp_path / "[ja]" / "a.tar").touch()
    (tmp_path / "b.tar").touch()
    found = expand(str(tmp_path / "{[ja]/*,b}.tar"))
    assert found == [str(tmp_path / "[ja]" / "a.tar"), str(tmp_path / "b.tar")]


@pytest.mark.parametrize(
    ("braces", "message"),
    [
        ("{0..1000000}", "stand for 1,000,001 names; at most 1,000,000 shards are read"),
        ("{0..99999999999999999}", "stand for 100,000,000,000,000,000 names"),
        ("{0..9999}{0..9999}", "stand for 100,000,000 names"),
        ("{a,b{0..999999}}", "stand for 2,000,000 names"),
        ("{0..9999999999999999999}", "has more than 18 digits"),
        (f"{{0..{'9' * 5000}}}", "has more than 18 digits"),
        ("{0..9}" * 5000, "stand for 10,000,000 or more names"),
        ("{a,b}" * 200_000, "stand for 1,048,576 or more names"),
    ],
)
def test_braces_are_counted_before_they_are_expanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, braces: str, message: str
) -> None:
    monkeypatch.delattr("kikimimi.data.shards.pattern._expanded")  # not come to
    with pytest.raises(RequestError, match=message):
        expand(str(tmp_path / f"x-{braces}.tar"))


def test_names_that_braces_make_of_bounds_are_counted_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kikimimi.data.shards.pattern.MAX_SHARDS", 100)
    with pytest.raises(RequestError, match="stand for more than 100 names; at most 100 shards are read"):
        expand("https://example.org/{1..1{0..99}}.tar")
    assert len(expand("https://example.org/{1..1{0..0}}.tar")) == 10


def test_says_what_a_relative_path_is_relative_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for pattern in ("data/x.tar", "data/*.tar"):
        with pytest.raises(RequestError, match=f"Relative paths begin in {tmp_path}$"):
            expand(pattern)
        with pytest.raises(RequestError) as caught:
            expand(str(tmp_path / pattern))
        assert "Relative" not in str(caught.value)


@pytest.mark.parametrize("name", ["x" * 5000, "a/" * 3000, "a\0b", "{x,y\0}", "\ud800"])
def test_a_path_that_the_system_refuses_does_not_exist(name: str) -> None:
    with pytest.raises(RequestError, match=r"does not exist|nothing matches"):
        expand(f"{name}.tar")
    with pytest.raises(RequestError, match="nothing matches"):
        expand(f"{name.replace(',', '')}*.tar" if "{" not in name else "\0*.tar")


def test_what_is_no_file_in_the_place_of_a_shard_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tar")
    (tmp_path / "b.tar").symlink_to("nowhere")
    for name, said in (("a.tar", "is not a file"), ("b.tar", "is a symbolic link that leads nowhere")):
        with pytest.raises(RequestError, match=rf"shard .*{name}: {said}$"):
            expand(str(tmp_path / name))


def test_capitals(tmp_path: Path) -> None:
    (tmp_path / "A.TAR").touch()
    assert expand(str(tmp_path / "A.TAR")) == [str(tmp_path / "A.TAR")]


@pytest.mark.fault("Names: Unicode", "NFC finds NFD, and the other way round")
@pytest.mark.parametrize(("held", "wanted"), [("NFD", "NFC"), ("NFC", "NFD")])
@pytest.mark.parametrize(
    "pattern",
    [
        "ガ/é.tar",
        "ガ/é-0.tar",
        "ガ/é-{0..1}.tar",
        "ガ/*.tar",
        "*/é-[01].tar",
        "ガ/{é-0,é}.tar",
        "{ガ,x}/a.tar",
    ],
)
def test_shards_are_found_in_another_normal_form(
    tmp_path: Path, pattern: str, held: Any, wanted: Any
) -> None:
    names = {
        "ガ/é.tar": ["ガ/é.tar"],
        "ガ/é-0.tar": ["ガ/é-0.tar"],
        "ガ/é-{0..1}.tar": ["ガ/é-0.tar", "ガ/é-1.tar"],
        "ガ/*.tar": ["ガ/a.tar", "ガ/é-0.tar", "ガ/é-1.tar", "ガ/é.tar"],
        "*/é-[01].tar": ["ガ/é-0.tar", "ガ/é-1.tar"],
        "ガ/{é-0,é}.tar": ["ガ/é-0.tar", "ガ/é.tar"],
        "{ガ,x}/a.tar": ["ガ/a.tar", "x/a.tar"],
    }
    for name in ("ガ/a.tar", "ガ/é.tar", "ガ/é-0.tar", "ガ/é-1.tar", "x/a.tar"):
        file = tmp_path / unicodedata.normalize(held, name)
        file.parent.mkdir(exist_ok=True)
        file.touch()
    found = expand(str(tmp_path / unicodedata.normalize(wanted, pattern)))
    assert sorted(found) == sorted(
        str(tmp_path / unicodedata.normalize(held, name)) for name in names[pattern]
    )


@pytest.mark.parametrize("command", ["train", "data stats"])
def test_shards_beside_the_recipe_are_pointed_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    recipe = tiny_recipe(load_recipe(ROOT / "recipes" / "quickstart.yaml"), write_shard(tmp_path / "there"))
    (name,) = {path.name for path in (tmp_path / "there").glob("*.tar")}
    file = tmp_path / "there" / "mine.yaml"
    file.write_text(to_yaml(recipe).replace(str(tmp_path / "there") + "/", ""), encoding="utf-8")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    asked = [*command.split(), "../there/mine.yaml"]
    said = str(CliRunner().invoke(app, asked).exception)
    beside = tmp_path / "there" / name
    assert (
        f"Relative paths begin in {tmp_path / 'here'}. Beside the recipe there is {beside}: start in "
        f"{beside.parent}, or write {beside} in the recipe"
    ) in said
    beside.unlink()
    said = str(CliRunner().invoke(app, asked).exception)
    assert "Relative paths begin in" in said
    assert "Beside" not in said


@pytest.mark.parametrize("pattern", ["{there}/none-*.tar", "s3://bucket/a.tar"])
def test_what_begins_nowhere_is_not_looked_for_beside_the_recipe(tmp_path: Path, pattern: str) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.touch()
    asked = pattern.format(there=tmp_path)
    with pytest.raises(NoShardError, match=r"^nothing$"), patterns_of(recipe):
        raise NoShardError(asked, "nothing")
    with pytest.raises(NoShardError, match=r"^nothing$"), patterns_of(None):
        raise NoShardError("a.tar", "nothing")

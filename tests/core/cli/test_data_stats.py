"""`kikimimi data stats`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kikimimi.recipe import load_recipe

Cli = Callable[..., Any]


def test_patterns(cli: Cli, recipe_file: Path, tmp_path: Path) -> None:
    shard = Path(load_recipe(recipe_file).stages["asr"].data["tones"].shards)
    page, figures = tmp_path / "a" / "stats.html", tmp_path / "b" / "stats.json"
    done = cli("data", "stats", shard.with_name("*.tar"), "--html", page, "--json", figures)
    assert done.code == 0
    assert "11 records, 11 clips" in done.out
    assert done.err == f"page: {page}\nfigures: {figures}\n"
    (data,) = json.loads(figures.read_text(encoding="utf-8"))
    assert (data["name"], data["records"], data["shards"]) == (str(shard.with_name("*.tar")), 11, 2)
    assert f"<title>{data['name']}</title>" in page.read_text(encoding="utf-8")


def test_datasets_of_a_recipe_and_of_a_run(cli: Cli, recipe_file: Path, trained: Path) -> None:
    for source in (recipe_file, trained):
        done = cli("data", "stats", source)
        assert (done.code, done.err) == (0, "")
        assert done.out.startswith("tones\n")
        assert "8 records, 8 clips" in done.out


def test_no_audio_is_read(cli: Cli, recipe_file: Path, tmp_path: Path) -> None:
    shard = Path(load_recipe(recipe_file).stages["asr"].data["tones"].shards)
    index = next(shard.parent.glob(f"{shard.name}.index.*"))
    (tmp_path / index.name).write_bytes(index.read_bytes())
    with (tmp_path / shard.name).open("wb") as file:
        file.truncate(shard.stat().st_size)
    done = cli("data", "stats", tmp_path / shard.name)
    assert (done.code, "8 records, 8 clips" in done.out) == (0, True)


def test_wrong_requests(cli: Cli, recipe_file: Path, tmp_path: Path) -> None:
    shard = load_recipe(recipe_file).stages["asr"].data["tones"].shards
    done = cli("data", "stats", shard, shard)
    assert (done.code, done.out) == (2, "")
    assert f"{shard}: is named twice; each shard is counted once" in done.err
    done = cli("data", "stats", recipe_file, shard)
    assert done.code == 2
    assert "name a recipe alone, or shards" in done.err
    done = cli("data", "stats", tmp_path / "none.tar")
    assert done.code == 2
    assert "none.tar does not exist" in done.err

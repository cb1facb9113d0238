"""`kikimimi data pack` as it is called; and existing tars, which are only indexed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kikimimi.cli.data import app
from kikimimi.data.packing.source import find_tars
from kikimimi.data.shards.shards import Shards
from kikimimi.errors import DataError, RequestError

Tone = Callable[..., bytes]
Shard = Callable[..., Path]


def call(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["pack", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture
def manifest(tmp_path: Path, tone: Tone) -> Path:
    for i in range(3):
        (tmp_path / f"{i}.wav").write_bytes(tone(1.0 + i))
    lines = [f"{i}.wav,文{i},ja,{'CC0-1.0' if i else 'CC-BY-4.0'}" for i in range(3)]
    path = tmp_path / "m.csv"
    path.write_text("path,sentence,language,license\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_every_option_arrives(manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ["--layout", "manifest", "--codec", "opus", "--sample-rate", "24000", "--license", "CC0-1.0"]
    options += ["--license", "MIT", "--min-seconds", "0.5", "--max-seconds", "2.5", "--workers", "1"]
    said = call(manifest, out, "text=sentence", *options, "--prefix", "train", "--records-per-shard", "2")
    assert f"1 of 3 rows, 2.0 seconds of audio, 2 shards (0 were there before): {out}/train-{{000000" in said
    assert "  dropped: 1 licence (1.0 seconds)\n" in said
    assert "  dropped: 1 too long (3.0 seconds)\n" in said
    assert "  no row has the licence MIT.\n" in said
    ledger = json.loads((out / "ledger.json").read_text(encoding="utf-8"))
    assert ledger["settings"] == {
        "sample_rate": 24_000,
        "codec": "opus",
        "min_seconds": 0.5,
        "max_seconds": 2.5,
        "licenses": ["CC0-1.0", "MIT"],
    }
    assert (ledger["options"]["text"], ledger["records_per_shard"]) == ("sentence", 2)
    record = Shards("d", str(out / "*.tar")).read(0)
    assert (record.json["text"], list(record.audio)) == ("文1", ["0.opus"])


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("--sample-rate", "16", "1000"),
        ("--sample-rate", "700000", "655350"),
        ("--records-per-shard", "0", "1"),
        ("--workers", "0", "1"),
        ("--codec", "mp3", "'flac', 'opus'"),
    ],
)
def test_bounds_are_those_of_the_types(manifest: Path, option: str, value: str, allowed: str) -> None:
    result = CliRunner().invoke(app, ["pack", str(manifest), "out", option, value], env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert allowed in result.output.partition(f"'{option}'")[2]


def test_out_must_be_given(manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"OUT must be given after .*m\.csv: the folder for the shards$"):
        call(manifest)
    with pytest.raises(RequestError, match=r"the folder for the shards, not 'text=sentence'"):
        call(manifest, "text=sentence")


def test_tars_are_only_indexed(tmp_path: Path, shard: Shard) -> None:
    shard(2, "train-000000.tar")
    shard(3, "train-000001.tar")
    pattern = str(tmp_path / "train-*.tar")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    said = call(pattern, "--workers", "2")
    assert "5 records, " in said
    assert said.endswith(" 2 shards; they stay where they are and now have their indexes\n")
    assert len(Shards("d", pattern)) == 5
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert len(list(tmp_path.iterdir())) == 4
    for source in ([tmp_path], [tmp_path / "train-000000.tar"], [tmp_path, tmp_path]):
        for index in tmp_path.glob("*.index.safetensors"):
            index.unlink()
        call(*source, "--workers", "1")
        made = len(list(tmp_path.glob("*.index.safetensors")))
        assert made == (2 if source[0] == tmp_path else 1)


def test_tars_refuse_what_is_for_packing(tmp_path: Path, shard: Shard) -> None:
    tar = shard(2, "train-000000.tar")
    with pytest.raises(RequestError, match="only indexed: leave out --codec, --license, text=a"):
        call(tar, tmp_path, "text=a", "--license", "MIT", "--codec", "flac")
    with pytest.raises(RequestError, match=r"their indexes go beside them: leave out .*elsewhere"):
        call(tar, tmp_path / "elsewhere")
    with pytest.raises(
        RequestError, match=r"b\.tar stands where OUT is expected\. A pattern of tars must be in"
    ):
        call(tar, "b.tar")
    with pytest.raises(RequestError, match=r"nothing matches"):
        call(tmp_path / "valid-*.tar")
    with pytest.raises(RequestError, match=r"a-000\.tar: an index is written beside its shard, which a URL"):
        call("https://example.org/a-{000..003}.tar")


def test_a_damaged_tar_is_an_error(tmp_path: Path, shard: Shard) -> None:
    tar = shard(3, "train-000000.tar")
    tar.write_bytes(tar.read_bytes()[:6000])
    shard(1, "train-000001.tar")
    for workers in (1, 2):
        with pytest.raises(
            DataError,
            match=r"1 of 2 shards cannot be indexed:\n.*train-000000\.tar, byte \d+.* breaks off; the sh",
        ):
            call(str(tmp_path / "*.tar"), "--workers", workers)
    assert find_tars(str(tmp_path / "nothing")) == []

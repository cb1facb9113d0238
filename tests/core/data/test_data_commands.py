from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kikimimi.cli.data import app
from kikimimi.data.shards.index import ShardIndex
from kikimimi.data.shards.shards import Shards
from kikimimi.errors import RequestError

Tone = Callable[..., bytes]
Shard = Callable[..., Path]


def test_pack_and_index(tmp_path: Path, tone: Tone) -> None:
    for i in range(3):
        (tmp_path / f"{i}.wav").write_bytes(tone(1.0))
    manifest = tmp_path / "m.csv"
    manifest.write_text(
        "path,text,language\n" + "".join(f"{i}.wav,文,ja\n" for i in range(4)), encoding="utf-8"
    )
    out = tmp_path / "out"
    done = CliRunner().invoke(
        app,
        ["pack", str(manifest), str(out), "--records-per-shard", "2", "--prefix", "train"],
        catch_exceptions=False,
    )
    assert done.exit_code == 0
    packed = "3 of 4 rows, 3.0 seconds of audio, 2 shards (0 were there before)"
    assert f"{packed}: {out}/train-{{000000..000001}}.tar" in done.stdout
    assert "dropped: 1 missing file (1 of unknown length)" in done.stdout

    for index in out.glob("*.index.safetensors"):
        index.unlink()
    done = CliRunner().invoke(app, ["index", str(out / "train-*.tar")], catch_exceptions=False)
    assert "3 records, 0:03 of audio in 2 shards" in done.stdout
    assert len(Shards("d", str(out / "*.tar"))) == 3


def test_index_of_nothing_is_a_wrong_request(tmp_path: Path, shard: Shard) -> None:
    with pytest.raises(RequestError, match="nothing matches"):
        CliRunner().invoke(app, ["index", str(tmp_path / "*.tar")], catch_exceptions=False)
    path = shard(2)
    CliRunner().invoke(app, ["index", str(path)], catch_exceptions=False)
    assert len(ShardIndex.load(path)) == 2


@pytest.mark.weights
def test_synth(tmp_path: Path) -> None:
    arguments = [
        "synth",
        "ja_small",
        "--out",
        str(tmp_path),
        "--count",
        "3",
        "--held-out",
        "1",
        "--workers",
        "1",
    ]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert "4 clips, 0:" in done.stdout
    assert f"{tmp_path}/train.csv, {tmp_path}/held_out.csv" in done.stdout
    assert "held-out characters that training lacks: " in done.stdout


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from kikimimi.cli.data import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit(bool({'torch', 'numpy', 'soundfile'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)

"""Makes what lies in `data/`, in an empty folder, with the code of an earlier commit; see README.md."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import subprocess
import sys
import wave
from array import array
from pathlib import Path
from random import Random
from typing import Any

from safetensors.numpy import load_file

DATA = Path(__file__).parent / "data"
ABOUT = {"license": "CC0-1.0", "source": "triangle waves"}
MEASURES = ("loss", "validation_loss", "gradient_norm", "reward/", "logps/")
STOP_IN_THE_FIFTH_STEP = """
import os, signal
from kikimimi.cli import main
from kikimimi.training.module import StageModule
step = StageModule.on_before_optimizer_step
def stop(module, optimizer):
    if module.stage.num_steps == 10 and module.trainer.global_step == 4:
        os.kill(os.getpid(), signal.SIGTERM)
    step(module, optimizer)
StageModule.on_before_optimizer_step = stop
main()
"""


def speak(path: Path, text: str, rng: Random) -> str:
    """Write a triangle wave for each character: whole numbers, which FLAC packs well."""
    samples = array("h")
    for character in text[:12]:
        half = 8 + ord(character) % 40
        value, slope = 0, (2000 + 400 * (ord(character) % 7)) // half // 64 * 64 or 64
        for number in range(rng.randrange(1200, 2000)):
            value += slope
            slope = -slope if number % half == 0 else slope
            samples.append(value)
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(samples.tobytes())
    return path.name


def kikimimi(*arguments: str, program: tuple[str, ...] = ("-m", "kikimimi.cli"), code: int = 0) -> None:
    assert subprocess.run([sys.executable, *program, *arguments]).returncode == code


def make_shards() -> None:
    rng, rows = Random(0), dict[str, list[dict[str, Any]]]()
    for number, row in enumerate(csv.DictReader((DATA / "texts.tsv").open(), delimiter="\t")):
        name, text, answer = row["shards"], row["text"], {"role": "assistant", "content": row["answer"]}
        clip = speak(Path("sources", name, f"{number}.wav"), text, rng)
        audio = {"role": "user", "content": [{"type": "audio", "audio": clip, "text": text}]}
        record = {
            "instructions": {"messages": [audio, answer], "meta": ABOUT},
            "preferences": {
                "messages": [audio], "chosen": row["answer"], "rejected": row["rejected"], "meta": ABOUT
            },
        }  # fmt: skip
        rows.setdefault(name, []).append(
            record.get(name, {"path": clip, "text": text, "language": "ja", **ABOUT})
        )
        if row["answer"]:
            written = {"messages": [{"role": "user", "content": text}, answer], "meta": ABOUT}
            rows.setdefault("texts", []).append(written)
    for name, found in rows.items():
        manifest = Path("sources", name, "manifest.jsonl")
        manifest.parent.mkdir(parents=True, exist_ok=True)
        manifest.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found))
        kikimimi("data", "pack", str(manifest), f"shards/{name}", "--workers", "1")


def train(recipe: Path) -> Path:
    """Train a recipe without `batch.loss`, which there was not; keep what its losses were."""
    file, run = Path(recipe.name), Path("runs", recipe.stem)
    file.write_text(recipe.read_text().replace(", loss: micro_batches", ""))
    if recipe.stem == "stopped":
        kikimimi("train", str(file), program=("-c", STOP_IN_THE_FIFTH_STEP), code=143)
        shutil.copytree(run, "stopped", ignore=shutil.ignore_patterns(".lock", "step-00000004"))
    kikimimi("train", str(file))
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    held = [
        {k: v for k, v in line.items() if k in ("stage", "step") or k.startswith(MEASURES)} for line in lines
    ]
    Path("expected", f"{recipe.stem}.jsonl").write_text(
        "".join(json.dumps(h) + "\n" for h in held if len(h) > 2)
    )
    return run


def digest(weights: Path) -> str:
    tensors = sorted(load_file(weights).items())
    return hashlib.sha256(b"".join(name.encode() + tensor.tobytes() for name, tensor in tensors)).hexdigest()


if __name__ == "__main__":
    Path("expected").mkdir()
    make_shards()
    runs = [train(recipe) for recipe in sorted((DATA / "recipes").glob("*.yaml"))]
    left = {path.stem: digest(path) for path in sorted((runs[-1] / "weights").iterdir())}
    Path("expected", "weights.json").write_text(json.dumps(left, indent=1) + "\n")

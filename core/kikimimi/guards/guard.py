"""Measuring the guards of a run: its LLM before training and as it was left, each once."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path

import torch

from kikimimi.console.terminal import say
from kikimimi.errors import DamagedError, RunError
from kikimimi.evaluation.evaluate import stage_system
from kikimimi.files.writing import check_target
from kikimimi.guards.readings import Readings, SpokenPart, WrittenPart, read_model
from kikimimi.guards.record import (
    GUARDS_FILE,
    GuardRecord,
    find_readings,
    read_guards,
    write_guards,
)
from kikimimi.guards.sets import sets_digest
from kikimimi.guards.verdict import Verdict, judge_readings
from kikimimi.inference.engine import Engine
from kikimimi.inference.load import load_model, load_untrained
from kikimimi.inference.ranks import LeadingEngine, Ranks
from kikimimi.model.speech_lm import SpeechLM
from kikimimi.model.trainable import lineage
from kikimimi.recipe import IMPORTED, Recipe
from kikimimi.recipe.show import digest, dump_plain, plain
from kikimimi.run.folder import RunFolder


@dataclass(frozen=True)
class EarlierLLM:
    """An LLM before it was trained.

    Attributes:
        stage: Stage whose number formats it has.
        file: Weights that hold it; None are its sources alone.
        words: What it is, in words; where there is none, why.
    """

    stage: str
    file: Path | None
    words: str


def stages_of_llm(recipe: Recipe, stage: str) -> list[str]:
    """Return those stages of a lineage that train the LLM."""
    return [name for name in lineage(recipe, stage) if "llm" in recipe.stages[name].train]


def is_guarded(recipe: Recipe) -> bool:
    """Tell whether guards of a run are measured: where a stage trains the LLM, or as the recipe says."""
    trains = any("llm" in stage.train for stage in recipe.stages.values())
    return recipe.guards.run == "always" or (recipe.guards.run == "auto" and trains)


def guard_run(run: RunFolder, ranks: Ranks | None = None) -> Verdict | None:
    """Measure the guards of a run as it is; what was measured before is not measured again.

    Args:
        run: The run.
        ranks: Ranks that hold the model in pieces; None is this process, which holds it whole.

    Returns:
        The verdict; None where its LLM was not trained yet, or the recipe wants no guards.

    Raises:
        RunError: Nothing was trained yet.
        DamagedError: Weights are damaged.
        WriteError: The verdict cannot be written.
    """
    stage, _ = run.newest_weights()
    if not is_guarded(run.recipe):
        return None
    if run.recipe.guards.run == "auto" and not stages_of_llm(run.recipe, stage):
        return None
    with run.evaluating():
        return _guard(run, run.recipe.name, None, ranks)


def guard_stage(run: RunFolder, stage: str, ranks: Ranks | None = None) -> Verdict:
    """Measure the guards of what a stage left, whether or not it trains the LLM; see `guard_run`."""
    with run.evaluating(wait=True):
        return _guard(run, stage_system(run, stage), stage, ranks)


def held_verdict(run: RunFolder, stage: str) -> Verdict | None:
    """Return the verdict of what a stage left, where it is of the weights that are there."""
    found = read_guards(run)["verdicts"].get(stage_system(run, stage))
    return found if found and found["weights"] == run.weights_identity(stage) else None


def _guard(run: RunFolder, system: str, wanted: str | None, ranks: Ranks | None) -> Verdict:
    check_target(run.path / GUARDS_FILE)
    stage, file = run.newest_weights(wanted)
    weights, guards = run.identity_of(file), run.recipe.guards
    record = _held(run)
    earlier = _earlier(run, stage)
    before = None
    used: list[Readings] = []
    if not isinstance(earlier, str):
        before = _read(run, record, earlier.stage, earlier.file, ranks, hears=False)
        used.append(before)
    after = _read(run, record, stage, file, ranks, hears=True)
    used.append(after)
    verdict: Verdict = {
        "weights": weights,
        "stage": stage,
        "before": earlier if isinstance(earlier, str) else earlier.words,
        "rows": judge_readings(after, before, earlier if isinstance(earlier, str) else "", guards),
    }
    record["verdicts"][system] = verdict
    kept = [one["weights"] for one in record["verdicts"].values()]
    record["readings"] = [
        one
        for one in record["readings"]
        if one in used or one["identity"]["weights"] in kept or one["identity"]["heard"] == "nothing"
    ]
    write_guards(run, record)
    return verdict


def _held(run: RunFolder) -> GuardRecord:
    try:
        return read_guards(run)
    except DamagedError as error:
        say(f"{error}, now", error=True)
        return {"verdicts": {}, "readings": []}


def _earlier(run: RunFolder, stage: str) -> EarlierLLM | str:
    """Return the LLM of weights as it was before training; or why there is none to compare with."""
    recipe = run.recipe
    trained = stages_of_llm(recipe, stage)
    if not trained:
        return "no stage has trained the LLM"
    first = trained[0]
    start = run.start_weights(first)
    if start is not None and run.finished(IMPORTED):
        return EarlierLLM(start[0], start[1], "the LLM as it was imported")
    if getattr(recipe.llm.config, "weights", "random") != "random":
        # No stage before has trained it: it is what its sources hold.
        return EarlierLLM(first, None, "the LLM as its sources have it")
    if first == stage:
        return f"the LLM is new: stage {first} is the first that trains it"
    if not run.finished(first):
        return f"the LLM is new, and what stage {first} left of it is gone"
    return EarlierLLM(first, run.weights(first), f"the LLM as stage {first} left it, which made it")


def _read(
    run: RunFolder, record: GuardRecord, stage: str, file: Path | None, ranks: Ranks | None, *, hears: bool
) -> Readings:
    """Return readings of weights, measured now where they were not before, and kept."""
    recipe, guards = run.recipe, run.recipe.guards
    spoken, written = SpokenPart.find(recipe) if hears else None, WrittenPart.find(recipe)
    first = next(iter(recipe.evaluate.values()), None)
    precision = recipe.trainer.precision if first is None else recipe.precision_of(first)
    llm = digest(dump_plain(plain(recipe.llm)))[:12]
    identity = {
        "weights": f"sources {llm}" if file is None else run.identity_of(file),
        "heard": "nothing" if not hears else "no clips" if spoken is None else spoken.identity,
        "sets": sets_digest() if written is None else f"{sets_digest()}, or {written.identity}",
        "languages": ", ".join(guards.languages),
        "generate": f"greedy, at most {guards.max_new_tokens} tokens, {precision}",
    }
    held = find_readings(record, identity)
    if held is not None:
        return held
    if file is not None and not file.exists():
        raise RunError(f"{file} is gone: the run is being trained, and has newer checkpoints. Run it again")
    words = f"what stage {stage} left" if file is not None else "the LLM before training"
    say(f"guards: asking {words}", error=True)
    model = _load(run, stage, file, ranks)
    if ranks is not None:
        engine: Engine = LeadingEngine(ranks, model, precision=precision, seed=recipe.seed)
    else:
        cpu = torch.device("cpu") if recipe.trainer.accelerator == "cpu" else None
        engine = Engine(model, cpu, precision=precision, seed=recipe.seed)
    readings = read_model(engine, guards, spoken, written, identity, hears=hears)
    record["readings"].append(readings)
    write_guards(run, record)
    return readings


def _load(run: RunFolder, stage: str, file: Path | None, ranks: Ranks | None) -> SpeechLM:
    gc.collect()  # the model that was asked before
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if ranks is not None:
        return ranks.load(stage, file)
    return load_untrained(run, stage) if file is None else load_model(run, stage, file)

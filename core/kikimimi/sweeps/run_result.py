"""What a run of a sweep has come to, read from its folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from statistics import median
from typing import Any

from kikimimi.contracts.metric import Score
from kikimimi.errors import KikimimiError
from kikimimi.evaluation.clip_details import ClipDetails, clip_details
from kikimimi.evaluation.record import as_scored, read_scorings
from kikimimi.evaluation.score import parts_of, read_scores
from kikimimi.recipe import Recipe
from kikimimi.run.folder import RunFolder
from kikimimi.run.metrics import Lines, read_metrics
from kikimimi.sweeps.sweep_folder import RunState, SweepRun

_GB = 1e9


@dataclass(frozen=True, kw_only=True)
class RunScore:
    """How a run scored on an evaluation.

    Attributes:
        score: The score.
        parts: Values of its parts, by field and group.
        clips: What it was computed from; None where that cannot be told clip by clip.
        data: Digest of the clips that were heard; empty where a version without records scored it.
    """

    score: Score
    parts: Mapping[str, Mapping[str, Mapping[str, float]]]
    clips: ClipDetails | None
    data: str = ""


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """A run with what is known of it.

    Attributes:
        run: The run.
        state: What became of it.
        recipe: Its recipe; None where there is none yet, or it cannot be read.
        scores: Scores by evaluation.
        seconds: How long it took, all attempts of all sweeps together [s]; None where that is not known.
        curve: Validation loss: (step, loss), the stages one after the other.
        speed: Median seconds of audio per second; None where none was logged.
        memory: Most memory [bytes]; None where none was logged.
        problems: What could not be read.
    """

    run: SweepRun
    state: RunState
    recipe: Recipe | None = None
    scores: Mapping[str, RunScore] = field(default_factory=dict)
    seconds: float | None = None
    curve: Sequence[tuple[float, float]] = ()
    speed: float | None = None
    memory: float | None = None
    problems: Sequence[str] = ()


def read_result(
    run: SweepRun, state: RunState, seconds: float | None, evaluations: Sequence[str]
) -> RunResult:
    """Read what a run has come to; what is damaged is said in place of an error.

    Args:
        run: The run.
        state: What became of it.
        seconds: How long it took [s], if that is known.
        evaluations: Evaluations by which settings are compared; none means all of its recipe.
    """
    problems: list[str] = []
    found: dict[str, Any] = {"seconds": seconds}
    try:
        if not (run.path / "recipe.yaml").is_file():
            return RunResult(run=run, state=state, seconds=seconds)
        folder = RunFolder(run.path, RunFolder.read_recipe(run.path))
        found["recipe"] = folder.recipe
        lines = read_metrics(folder.metrics) if folder.metrics.is_file() else []
        found |= {"curve": list(validation_curve(lines)), **_measured(lines)}
    except (KikimimiError, OSError) as error:
        return RunResult(run=run, state=state, problems=[f"{run.name}: {error}"], **found)
    if state.state == "finished":
        scores = {}
        try:
            scored = as_scored(folder)
        except (KikimimiError, OSError):
            scored = folder  # what is damaged is said of its evaluation
        for name in evaluations or scored.recipe.evaluate:
            try:
                if (score := _score(scored, name)) is not None:
                    scores[name] = score
            except (KikimimiError, OSError) as error:
                problems.append(f"{run.name}: {error}")
        found["scores"] = scores
    return RunResult(run=run, state=state, problems=problems, **found)


def validation_curve(lines: Lines, after: int = -1) -> Iterator[tuple[int, float]]:
    """Yield steps and validation losses past a step; those of a stage count on from the stage before."""
    stages: dict[str, int] = {}
    last = 0
    for line in lines:
        begin = stages.setdefault(line["stage"], last)
        step = begin + line["step"]
        last = max(last, step)
        if "validation_loss" in line and step > after:
            yield step, line["validation_loss"]


def _score(run: RunFolder, name: str) -> RunScore | None:
    if name not in run.recipe.evaluate:
        return None
    values = read_scores(run.evaluation(name) / "scores.json").get(run.recipe.name)
    if values is None:
        return None
    record = read_scorings(run.evaluation(name))
    return RunScore(
        score=Score.from_json(values),
        parts=parts_of(values),
        clips=clip_details(run, name),
        data=record[-1]["data"] if record else "",
    )


def _measured(lines: Lines) -> dict[str, float]:
    speeds, memory = (
        [line[name] for line in lines if line.get(name) and isfinite(line[name])]
        for name in ("audio_seconds_per_second", "memory_gb")
    )
    return {
        **({"speed": median(speeds)} if speeds else {}),
        **({"memory": round(max(memory) * _GB)} if memory else {}),
    }

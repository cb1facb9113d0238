"""A search: Optuna draws settings, learns from their scores, and stops runs by their validation loss.

Random draws, or the tree-structured Parzen estimator (Bergstra et al., 2011, NeurIPS; `optuna.samplers`).
A run is stopped where its validation loss is worse than the median of those that ended, at the same step
(`optuna.pruners.MedianPruner`). What was drawn and what came of it stands in the sweep's folder: a
search that goes on begins with all of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from kikimimi.console.terminal import say
from kikimimi.console.words import counted
from kikimimi.contracts.metric import Score
from kikimimi.errors import MissingExtraError, RequestError
from kikimimi.evaluation.score import read_scores
from kikimimi.recipe import Recipe, load_recipe
from kikimimi.run.folder import RunFolder
from kikimimi.run.metrics import read_metrics
from kikimimi.sweeps.check import CheckedRun, Checker
from kikimimi.sweeps.factor import SEED_OPTION, DrawnRange, Factor, Level
from kikimimi.sweeps.plan_of_runs import Levels
from kikimimi.sweeps.run_result import validation_curve
from kikimimi.sweeps.source import RunSource
from kikimimi.sweeps.sweep_folder import RunLine, SweepFolder, SweepRun, begin_run, is_finished

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

STARTUP = 4
"""Runs that end before any is stopped for its loss."""
_MOST_DRAWS = 200
"""Draws in a row that are excluded, wrong or there already, after which the search ends."""

_Setting = tuple[tuple[str, str], ...]


class Searcher(RunSource):
    """Draws settings of a sweep.

    Args:
        folder: The sweep's folder; runs are added to it as they are drawn.
        retry: Train only what has failed, and draw nothing.

    Raises:
        MissingExtraError: Optuna is missing.
        RequestError: The recipe has nothing by which settings could be told apart.
    """

    def __init__(self, folder: SweepFolder, *, retry: bool = False) -> None:
        try:
            import optuna
        except ImportError as error:
            raise MissingExtraError("a search", "optuna", "search") from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna = optuna
        self._folder, self._sweep = folder, folder.sweep
        self._checker = Checker(folder.sweep)
        self._base = base = load_recipe(self._sweep.recipe, self._sweep.changes)
        self._evaluation = _evaluation(base, self._sweep.compare)
        self._settings = [one for one in self._sweep.factors if one.name != SEED_OPTION]
        seeds = next((one for one in self._sweep.factors if one.name == SEED_OPTION), None)
        self._seeds = seeds.levels if isinstance(seeds, Factor) else ()
        self._trials: dict[_Setting, int] = {}
        self._runs: dict[_Setting, list[SweepRun]] = {}
        self._wrong: set[_Setting] = set()
        self._curves = optuna.create_study(
            direction="minimize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP, n_min_trials=2),
        )
        self._curve: dict[str, optuna.Trial] = {}
        self._reported: dict[str, int] = {}
        self._queue: deque[SweepRun] = deque()
        self._budget = 0 if retry else self._sweep.runs or 0
        self._study = optuna.create_study(
            direction=_direction(base, self._evaluation), sampler=self._sampler()
        )
        self._take_up(retry)

    def next_run(self) -> SweepRun | None:
        """Return the next run: of a setting that is begun, or of one that is drawn."""
        if not self._queue and len(self._runs) < self._budget:
            self._draw()
        return self._queue.popleft() if self._queue else None

    def is_hopeless(self, run: SweepRun) -> str:
        """Return that its validation loss is worse than the median of others at that step, if it is."""
        if run.name not in self._curve:
            self._curve[run.name] = self._curves.ask()
        trial = self._curve[run.name]
        curve = _curve_of(run, self._reported.get(run.name, -1))
        for step, loss in curve:
            trial.report(loss, step)
            first = run.name not in self._reported
            self._reported[run.name] = step
            if not first and trial.should_prune() and not self._is_trained(run):
                return f"validation loss {loss:.4g} at step {step}, worse than the median of the runs before"
        return ""

    def _is_trained(self, run: SweepRun) -> bool:
        """Whether nothing is saved by stopping a run: what is left of it is to evaluate it."""
        return all(map(RunFolder(run.path, self._base).finished, self._base.stages))

    def ended(self, run: SweepRun) -> None:
        """Learn from a run, and from its setting once all of its seeds have ended."""
        states = self._folder.states()
        self._end_curve(run, states[run.name].state)
        setting = _setting(run)
        ended = [states[one.name].state for one in self._runs.get(setting, ())]
        if setting in self._trials and not {"waiting", "running"} & set(ended):
            self._tell(self._trials.pop(setting), setting)

    @property
    def left(self) -> int:
        """How many runs it still gives, at most."""
        return len(self._queue) + max(self._budget - len(self._runs), 0) * max(len(self._seeds), 1)

    def _take_up(self, retry: bool) -> None:
        """Begin with the settings that an earlier call has drawn, as far as they are of this search."""
        drawn = {_setting(run): run for run in self._folder.runs}
        lines: list[RunLine] = []
        for run in drawn.values():
            combination = self._combination_of(run)
            checked = [] if combination is None else self._check(combination)
            if all(one.recipe for one in checked):
                lines += map(self._begin, checked)
        self._folder.write_runs(lines)
        for run in self._folder.runs:
            self._runs.setdefault(_setting(run), []).append(run)
        if left := len(drawn) - len(self._runs):
            say(f"left out  {counted(left, 'setting')} drawn before that this search has not", error=True)
        states = self._folder.states()
        for setting, runs in self._runs.items():
            self._study.add_trial(self._trial_of(runs[0]))
            self._trials[setting] = len(self._study.trials) - 1
            for run in runs:
                state = states[run.name].state
                if is_finished(run.path):
                    if state != "finished":
                        self._folder.add_event(run, "finished")
                    self._replay(run)
                elif (state == "failed") if retry else (state != "pruned"):
                    self._queue.append(run)
                    self._folder.add_event(run, "waiting")
        states = self._folder.states()
        for setting, runs in self._runs.items():
            if not any(states[run.name].state in ("waiting", "running") for run in runs):
                self._tell(self._trials.pop(setting), setting)

    def _replay(self, run: SweepRun) -> None:
        """Let the curve of a finished run stand for what others are compared with."""
        trial = self._curve[run.name] = self._curves.ask()
        for step, loss in _curve_of(run, -1):
            trial.report(loss, step)
            self._reported[run.name] = step
        self._end_curve(run, "finished")

    def _draw(self) -> None:
        """Draw a setting, and put its runs into the queue."""
        for _ in range(_MOST_DRAWS):
            trial = self._study.ask(self._distributions())
            combination = self._combination(trial.params)
            setting = tuple((name, level.label) for name, level in combination.items())
            known = setting in self._runs or setting in self._wrong or self._sweep.excludes(combination)
            checked = [] if known else self._check(combination)
            if wrong := [problem for one in checked for problem in one.problems]:
                said = ", ".join(f"{name}={label}" for name, label in setting)
                say(f"left out  {said}: {wrong[0]}", error=True)
                self._wrong.add(setting)
            if known or wrong:
                self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
                continue
            self._trials[setting] = trial.number
            for one in checked:
                run = self._folder.add_run(self._begin(one))
                self._runs.setdefault(setting, []).append(run)
                self._queue.append(run)
            return
        self._budget = len(self._runs)  # there is nothing left to draw

    def _check(self, combination: Levels) -> list[CheckedRun]:
        """Resolve a setting with each seed, and check it."""
        seeds = [{SEED_OPTION: seed} for seed in self._seeds] or [{}]
        return [self._checker.check({**combination, **seed}) for seed in seeds]

    def _begin(self, checked: CheckedRun) -> RunLine:
        """Make the folder of a run, or take up that which any sweep has made of the same recipe."""
        assert checked.recipe is not None
        recipe = checked.recipe
        return begin_run(self._folder.out, checked.line, self._base, lambda: recipe)

    def _combination(self, params: Mapping[str, Any]) -> Levels:
        found: dict[str, Level] = {}
        for factor in self._settings:
            level = factor.level(params[factor.name])
            assert level is not None
            found[factor.name] = level
        return found

    def _combination_of(self, run: SweepRun) -> Levels | None:
        """Return the setting of a run by the levels of this search; None where it has no such setting."""
        written = dict(change.split("=", 1) for change in run.changes)
        found: dict[str, Level] = {}
        for factor in self._settings:
            if isinstance(factor, DrawnRange):
                level = factor.level_of(written.get(factor.name, ""))
            else:
                level = factor.level(run.levels.get(factor.name, ""))
            if level is None:
                return None
            found[factor.name] = level
        return None if found.keys() != run.levels.keys() or self._sweep.excludes(found) else found

    def _distributions(self) -> dict[str, BaseDistribution]:
        found: dict[str, BaseDistribution] = {}
        optuna = self._optuna.distributions
        for factor in self._settings:
            if isinstance(factor, Factor):
                labels = [level.label for level in factor.levels]
                found[factor.name] = optuna.CategoricalDistribution(labels)
            elif factor.whole:
                found[factor.name] = optuna.IntDistribution(int(factor.low), int(factor.high), log=factor.log)
            else:
                found[factor.name] = optuna.FloatDistribution(factor.low, factor.high, log=factor.log)
        return found

    def _trial_of(self, run: SweepRun) -> optuna.trial.FrozenTrial:
        """Return the draw that a run came of; of a range its change holds all digits, which labels lack."""
        written = dict(change.split("=", 1) for change in run.changes)
        params: dict[str, Any] = dict(run.levels)
        for factor in self._settings:
            if isinstance(factor, DrawnRange):
                params[factor.name] = (int if factor.whole else float)(written[factor.name])
        return self._optuna.trial.create_trial(
            state=self._optuna.trial.TrialState.RUNNING,
            params=params,
            distributions=self._distributions(),
        )

    def _sampler(self) -> optuna.samplers.BaseSampler:
        # Another seed whenever it goes on, or it would draw again what is there.
        seed = len(self._folder.runs)
        if self._sweep.search == "random":
            return self._optuna.samplers.RandomSampler(seed=seed)
        return self._optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)

    def _tell(self, trial: int, setting: _Setting) -> None:
        """Tell the sampler the mean score of a setting's seeds, or that it has none."""
        states = self._folder.states()
        runs = self._runs[setting]
        values = [_value(run, self._evaluation) for run in runs if states[run.name].state == "finished"]
        known = [value for value in values if value is not None]
        trials = self._optuna.trial.TrialState
        if len(known) == len(runs):
            self._study.tell(trial, sum(known) / len(known))
        else:
            pruned = any(states[run.name].state == "pruned" for run in runs)
            self._study.tell(trial, state=trials.PRUNED if pruned else trials.FAIL)

    def _end_curve(self, run: SweepRun, state: str) -> None:
        trial = self._curve.pop(run.name, None)
        if trial is None:
            return
        trials = self._optuna.trial.TrialState
        curve = list(_curve_of(run, -1))
        if state == "finished" and curve:
            for step, loss in curve:
                if step > self._reported.get(run.name, -1):
                    trial.report(loss, step)
            self._curves.tell(trial, curve[-1][1])
        else:
            self._curves.tell(trial, state=trials.FAIL)


def _setting(run: SweepRun) -> _Setting:
    return tuple(run.levels.items())


def _evaluation(recipe: Recipe, compare: tuple[str, ...]) -> str | None:
    """Return the evaluation by which settings are told apart; None where the validation loss is."""
    names = compare or tuple(recipe.evaluate)
    if names:
        return names[0]
    if any(stage.validate and stage.validate.every for stage in recipe.stages.values()):
        return None
    raise RequestError("a search needs an evaluation, or a validation, by which it tells settings apart")


def _direction(recipe: Recipe, evaluation: str | None) -> Literal["minimize", "maximize"]:
    if evaluation is None:
        return "minimize"
    metric = recipe.evaluate[evaluation].metric
    return "minimize" if metric.component.better == "lower" else "maximize"


def _value(run: SweepRun, evaluation: str | None) -> float | None:
    """Return what a run has reached; None where it has reached nothing."""
    if evaluation is None:
        losses = [loss for _, loss in _curve_of(run, -1)]
        return losses[-1] if losses else None
    folder = RunFolder(run.path, RunFolder.read_recipe(run.path))
    held = read_scores(folder.evaluation(evaluation) / "scores.json").get(folder.recipe.name)
    return None if held is None else Score.from_json(held).value


def _curve_of(run: SweepRun, after: int) -> Iterator[tuple[int, float]]:
    """Yield steps and validation losses of a run past a step, its stages one after the other."""
    if (run.path / "metrics.jsonl").is_file():
        yield from validation_curve(read_metrics(run.path / "metrics.jsonl"), after)

"""What a sweep has shown so far: settings and their scores, what factors do, what is open, what failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class SettingScore:
    """How a setting scores on an evaluation, over its seeds.

    Attributes:
        value: Mean over seeds, in the metric's unit.
        low: Lower end of its 95 % interval over seeds and clips; None where there is none.
        high: Its upper end.
        seeds: Value of each seed.
        best: Whether no other setting is better, as far as the corrected test can tell; of none where it can
            tell no two apart.
        parts: Values by field and group, such as length, mean over seeds.
    """

    value: float
    low: float | None
    high: float | None
    seeds: Mapping[str, float]
    best: bool = False
    parts: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SettingSummary:
    """A setting: a combination of levels, with all runs of it that are finished.

    Attributes:
        name: What tables call it.
        levels: Label of each factor's level.
        scores: Score by evaluation; an evaluation that no run was scored on is missing.
        finished: How many of its runs are finished.
        runs: How many it has.
        trainable: Parameters that some stage trains; None where that is not known.
        seconds: Mean time to train and evaluate [s]; None where another sweep trained it.
        speed: Mean of the runs' median seconds of audio per second; None where none was logged.
        memory: Most memory of a run [bytes].
        curves: Validation loss of each finished seed, or of all while none is: (step, loss), the stages one
            after the other.
    """

    name: str
    levels: Mapping[str, str]
    scores: Mapping[str, SettingScore]
    finished: int
    runs: int
    trainable: int | None = None
    seconds: float | None = None
    speed: float | None = None
    memory: float | None = None
    curves: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What a level of a factor, or two levels together, add to the mean of all settings.

    Attributes:
        levels: The level of the factor, or of the two factors whose interaction it is.
        value: What is added, in the metric's unit.
        low: Lower end of its 95 % interval.
        high: Its upper end.
    """

    levels: Mapping[str, str]
    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class SettingPair:
    """A comparison of the setting with the best value with another one.

    Attributes:
        one: The setting with the best value.
        other: The other one.
        difference: Value of the one less that of the other.
        low: Lower end of the 95 % interval of the difference.
        high: Its upper end.
        p: Two-sided p of no difference, corrected by Holm over the comparisons of every two settings.
        needed: What would settle it where it is open, in words; empty where it is settled.
    """

    one: str
    other: str
    difference: float
    low: float
    high: float
    p: float
    needed: str = ""

    @property
    def settled(self) -> bool:
        """Whether the test tells them apart, at 5 %."""
        return self.p < 0.05


@dataclass(frozen=True, kw_only=True)
class EvaluationSummary:
    """An evaluation by which settings are compared.

    Attributes:
        name: Its name.
        label: What the metric is called.
        unit: Its unit; may be empty.
        better: ``lower`` or ``higher``.
        clips: How many clips all compared settings share.
        effects: Main effects, by factor.
        interactions: Two-way interactions, by the names of both factors.
        pairs: The setting with the best value against every other one.
        notes: What its intervals and tests do not cover.
    """

    name: str
    label: str
    unit: str
    better: str
    clips: int
    effects: Mapping[str, Sequence[Effect]] = field(default_factory=dict)
    interactions: Mapping[tuple[str, str], Sequence[Effect]] = field(default_factory=dict)
    pairs: Sequence[SettingPair] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class UnfinishedRun:
    """A run that has no result, or not yet.

    Attributes:
        setting: What tables call its setting.
        seed: Label of its seed.
        state: What became of it.
        cause: Why.
        log: Where what it printed stands, relative to the sweep's folder.
    """

    setting: str
    seed: str
    state: str
    cause: str
    log: str


@dataclass(frozen=True, kw_only=True)
class SweepSummary:
    """All that the report of a sweep says.

    Attributes:
        name: The sweep's name.
        recipe: The recipe's file.
        factors: Labels of the levels of each factor.
        seeds: Labels of the seeds.
        search: How combinations were chosen.
        settings: The settings, the one with the best value first.
        evaluations: What they are compared by, the first one first.
        unfinished: Runs without a result.
        states: How many runs there are in each state.
        differs: Options in which the recipes differ: by dotted name, the value of each setting by its name.
        notes: What could not be read of some runs.
        command: Command line that goes on with it.
    """

    name: str
    recipe: str
    factors: Mapping[str, Sequence[str]]
    seeds: Sequence[str]
    search: str
    settings: Sequence[SettingSummary]
    evaluations: Sequence[EvaluationSummary]
    unfinished: Sequence[UnfinishedRun]
    states: Mapping[str, int]
    differs: Mapping[str, Mapping[str, str]]
    notes: Sequence[str]
    command: str

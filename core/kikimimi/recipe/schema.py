"""What a recipe holds, option by option: the dataclasses that a YAML file is resolved to.

A field's metadata carries what its type cannot say: ``kind`` (the field names a plugin of that kind), ``key``
(how YAML spells it where Python cannot), ``noun`` (what an item of a mapping is called) and ``before`` (how a
run goes on that began before there was the option, where that is not its default).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from annotated_types import Gt, Le, MinLen

from kikimimi.contracts.generation import Generation
from kikimimi.contracts.options import (
    Distinct,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    Options,
    PositiveFloat,
    PositiveInt,
    Probability,
    Rule,
)
from kikimimi.recipe.chosen import PARTS, Chosen, Dtype, PartName

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
MAX_NAME = 150
"""Longest name of a recipe and of what it names: folders are called so, and longer [characters]."""
Name = Annotated[
    str, Rule("made of letters, digits, '.', '_' and '-', with a letter or a digit first", NAME.fullmatch)
]
Pattern = Annotated[str, MinLen(1)]
"""A pattern of names or of paths."""
_Finite = Annotated[float, Rule("finite", math.isfinite)]


def need(holds: bool, message: str) -> None:
    """Raise a ValueError with the message unless the condition holds."""
    if not holds:
        raise ValueError(message)


@dataclass(kw_only=True, frozen=True)
class Dataset(Options):
    """Shards and the task that makes conversations of their records."""

    shards: Pattern
    """Paths of the tar shards: a path, a glob, or a brace range such as ``train-{000..255}.tar``."""
    task: Chosen = field(metadata={"kind": "task"})
    """What is asked of the records."""
    weight: PositiveFloat | None = None
    """Part of the mixture, relative to the stage's other datasets; all of them have one, or none has: then
    they are read in proportion to their size."""
    max_characters: PositiveInt | None = None
    """Longest text of a record, all its turns together [characters]; longer ones are left out, counted and
    listed. None is no limit."""


@dataclass(kw_only=True, frozen=True)
class Mixture(Options):
    """How the datasets of a stage are mixed. One that is exhausted starts again in a new order."""

    by: Literal["samples", "seconds"] = "samples"
    """Whether the weights are parts of the samples or of the seconds."""
    temperature: PositiveFloat = 1.0
    """T of w^(1/T), the part of a dataset of weight w; without weights, w is its size. Above 1 the parts
    become more even."""


@dataclass(kw_only=True, frozen=True)
class Batching(Options):
    """How much goes into one step."""

    seconds: PositiveFloat | None = 60.0
    """Audio per micro-batch [s]; a text without audio counts with 0.08 s per character. Not read where tokens
    are given."""
    tokens: PositiveInt | None = None
    """Positions of the LLM per micro-batch, audio and text, in place of seconds. Audio tokens count as the
    most that the adapter may give; written text is estimated from its characters."""
    global_: PositiveInt = field(default=1, metadata={"key": "global"})
    """Micro-batches per optimiser step, over all ranks."""
    loss: Literal["tokens", "micro_batches"] = field(default="tokens", metadata={"before": "micro_batches"})
    """What a step's loss is the mean over: all target tokens of its micro-batches on all ranks (of `dpo` all
    pairs, of an adapter's own loss all clips), or the micro-batches, however much each holds. The validation
    loss is the same mean, over all held-out datasets together."""
    bucket: PositiveInt = 32
    """How many micro-batches' samples (512 at least) are sorted by length together. More means less padding
    in the encoder, and that samples of one length meet more often."""

    def __post_init__(self) -> None:
        if self.tokens is not None:
            # One of the two is the budget: a recipe that is resolved shows one.
            need(
                self.seconds is None or self.seconds == Batching.seconds,
                "tokens: stands in place of seconds: leave those out, or where another recipe gives them, "
                "set them to null",
            )
            object.__setattr__(self, "seconds", None)
        else:
            need(self.seconds is not None, "seconds: null has a meaning only where tokens are given")

    @property
    def budget(self) -> float:
        """What a micro-batch may hold [s, or positions where `tokens` is given]."""
        if self.tokens is not None:
            return self.tokens
        assert self.seconds is not None
        return self.seconds

    @property
    def unit(self) -> str:
        """What `budget` is counted in."""
        return "s" if self.tokens is None else "positions"


@dataclass(kw_only=True, frozen=True)
class Faults(Options):
    """What is done about a record that cannot be used: damaged, malformed, too long. Nothing is ever cut."""

    policy: Literal["fail", "skip"] = "fail"
    """fail: stop before the next step; skip: leave it out, count it, and list it in the run folder."""
    in_a_row: PositiveInt = 100
    """Stop when so many records one after another cannot be read by a rank, even if they may be skipped."""
    share: Annotated[float, Gt(0), Le(1)] = 0.001
    """Stop when more than this share of the records that a rank has tried cannot be read [fraction]; judged
    once it has tried as many as make one record (1 / share)."""

    def __post_init__(self) -> None:
        need(
            self.policy == "skip" or (self.in_a_row, self.share) == (Faults.in_a_row, Faults.share),
            "in_a_row and share are read only where policy is skip",
        )


@dataclass(kw_only=True, frozen=True)
class ParameterGroup(Options):
    """Parameters of a part that are trained in a way of their own."""

    part: Pattern
    """Which parameters: ``lora``, or a pattern of parameter names in fnmatch style."""
    lr: PositiveFloat | None = field(default=None, metadata={"was": 1e-4})
    """Peak learning rate; null is the part's."""
    weight_decay: NonNegativeFloat | None = field(default=None, metadata={"was": 0.0})
    """Decoupled weight decay [1 / (learning rate x step)]; null is the part's."""


@dataclass(kw_only=True, frozen=True)
class Train(Options):
    """How one part is trained in a stage."""

    lr: PositiveFloat = 1e-4
    """Peak learning rate."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay [1 / (learning rate x step)], of what decays: see
    `optimiser.decay_norm_and_bias`."""
    part: Pattern = "all"
    """Which parameters: ``all``, ``lora``, or a pattern of parameter names in fnmatch style."""
    groups: dict[str, ParameterGroup] = field(default_factory=dict, metadata={"noun": "group"})
    """Parameters that are trained in another way, by a name for the metrics, whether `part` covers them or
    not; of two groups that match a parameter, the first has it."""


@dataclass(kw_only=True, frozen=True)
class Schedule(Options):
    """Learning rate over a stage: a warm-up, a hold at the peak, then a decay."""

    name: Literal["linear", "cosine", "exponential", "constant"] = "linear"
    """Form of the decay."""
    warmup: NonNegativeInt = 0
    """Length of the warm-up [steps]; a stage that is shorter ends inside it."""
    start: Fraction = 0.1
    """Where the warm-up starts [fraction of the peak]."""
    warmup_type: Literal["linear", "log"] = "linear"
    """Form of the warm-up; `log` rises with the logarithm of the step, as DeepSpeed's does by default."""
    hold: NonNegativeInt = 0
    """How long the rate stays at its peak before the decay [steps]."""
    floor: Fraction = 0.1
    """Where the decay ends [fraction of the peak]; above 0 where it is exponential."""

    def __post_init__(self) -> None:
        need(
            self.warmup > 0 or self.start == Schedule.start,
            "start is read only by a warm-up: set warmup above 0",
        )
        need(
            self.warmup > 0 or self.warmup_type == Schedule.warmup_type,
            "warmup_type is read only by a warm-up: set warmup above 0",
        )
        need(
            self.name != "constant" or self.floor == Schedule.floor,
            "floor is read only by a decay: set name to cosine or linear",
        )
        need(
            self.name != "constant" or self.hold == 0,
            "hold is read only before a decay: set name to cosine, exponential or linear",
        )
        need(
            self.name != "exponential" or self.floor > 0,
            "floor must be above 0 where name is exponential",
        )


@dataclass(kw_only=True, frozen=True)
class Optimiser(Options):
    """AdamW (Loshchilov and Hutter, 2019, https://arxiv.org/abs/1711.05101)."""

    beta1: Probability = 0.9
    """Decay of the running mean of the gradient."""
    beta2: Probability = 0.999
    """Decay of the running mean of the squared gradient."""
    epsilon: PositiveFloat = 1e-8
    """Added to the denominator."""
    decay_norm_and_bias: bool = field(default=False, metadata={"before": True})
    """Let weight decay hold for every parameter. Otherwise it leaves out norms, biases and parameters of one
    dimension or none, such as scales; matrices decay, embeddings and low-rank updates among them."""


@dataclass(kw_only=True, frozen=True)
class Checkpoint(Options):
    """When the state of a stage is saved."""

    every: PositiveInt = 500
    """Distance between checkpoints [steps]."""
    keep: PositiveInt = 2
    """How many of the newest are kept."""
    keep_best: NonNegativeInt = 0
    """How many checkpoints are kept besides: those of the lowest validation losses. One at least, where the
    stage leaves the best."""
    leave: Literal["last", "best"] | None = field(default=None, metadata={"was": "last"})
    """Which weights the stage leaves: those of its last step, or of its lowest validation loss. Null is best
    where `early_stop` is set, else last."""


@dataclass(kw_only=True, frozen=True)
class Validate(Options):
    """Loss on held-out data during a stage."""

    every: NonNegativeInt = 0
    """Distance between validations [steps]; 0 switches them off."""
    data: dict[str, Dataset] = field(default_factory=dict)
    """Held-out datasets by name."""

    def __post_init__(self) -> None:
        need(self.every == 0 or bool(self.data), "data must hold a dataset where every is above 0")


@dataclass(kw_only=True, frozen=True)
class EarlyStop(Options):
    """Ends a stage when its validation loss no longer falls."""

    patience: PositiveInt = 3
    """Validations in a row without a new lowest loss, after which the stage ends."""
    min_delta: NonNegativeFloat = 0.0
    """How far below the lowest a loss has to be to count as lower."""


@dataclass(kw_only=True, frozen=True)
class Share(Options):
    """How many of all answers may be so."""

    max: Fraction
    """Largest share [0 to 1]."""


@dataclass(kw_only=True, frozen=True)
class Gate(Options):
    """What has to be reached for later stages to begin."""

    max: _Finite | None = None
    """Largest value of a metric of which lower is better, such as an error rate [%]."""
    min: _Finite | None = None
    """Smallest value of a metric of which higher is better, in its place."""
    truncated: Share | None = None
    """Answers that ended because no more tokens were allowed: `generate.max_new_tokens`, or the context."""
    looped: Share | None = None
    """Answers that say a piece of text over and over."""

    def __post_init__(self) -> None:
        need(self.max is None or self.min is None, "give max or min: one of the two")
        need(
            any(bound is not None for bound in (self.max, self.min, self.truncated, self.looped)),
            "give max or min: one of the two; or truncated, or looped",
        )

    @property
    def shares(self) -> dict[str, float]:
        """The largest share of answers for each count of them that is bounded."""
        given = {"truncated": self.truncated, "looped": self.looped}
        return {count: share.max for count, share in given.items() if share is not None}


@dataclass(kw_only=True, frozen=True)
class Dtypes(Options):
    """Number formats of the parts' weights in one stage; null is the part's own."""

    encoder: Dtype | None = None
    """The encoder's weights."""
    adapter: Dtype | None = None
    """The adapter's weights."""
    llm: Dtype | None = None
    """The LLM's weights."""


GuardName = Literal["forgetting", "silence", "refusals", "instructions", "repetition", "language"]
"""Guards: what is measured of every run that trained its LLM."""
GuardLanguage = Literal["ja", "en"]
"""Languages that the guards' own sets are in."""


def _guard_languages() -> list[GuardLanguage]:
    return ["ja", "en"]


@dataclass(kw_only=True, frozen=True)
class Guards(Options):
    """What training may have cost the LLM, measured by `kikimimi evaluate`, and the bounds of it."""

    run: Literal["auto", "always", "never"] = "auto"
    """When they are measured: auto is where a stage has trained the LLM; always is of any run."""
    languages: Annotated[list[GuardLanguage], Distinct, MinLen(1)] = field(default_factory=_guard_languages)
    """Languages of held-out text and questions."""
    loss: NonNegativeFloat = 0.1
    """Largest rise of the loss of held-out text [fraction of what it was before]."""
    answers: Fraction = 0.1
    """Largest fall of the share of questions that are answered right; a fall counts where its 95 % interval
    leaves out 0, too."""
    silence: Fraction = 0.05
    """Largest share of clips without speech that yield words."""
    refusals: Fraction = 0.05
    """Largest share of ordinary requests that are refused; in writing, the largest rise of it."""
    instructions: Fraction = 0.2
    """Largest share of answers to other instructions about a clip that are its transcript all the same."""
    repetition: Fraction = 0.05
    """Largest share of answers that say a piece of text over and over; in writing, the largest rise of it."""
    language: Fraction = 0.05
    """Largest share of answers in another script than their request; in writing, the largest rise of it."""
    max_new_tokens: PositiveInt = 64
    """Longest answer that is generated for them [tokens]."""


def _ce() -> Chosen:
    return Chosen.of("objective", "ce")


@dataclass(kw_only=True, frozen=True)
class Stage(Options):
    """One stage of training; it starts from where the one before it ended."""

    start_from: str | None = None
    """Stage whose result this one starts from; None is the one before it."""
    objective: Chosen = field(default_factory=_ce, metadata={"kind": "objective"})
    """What the loss is."""
    train: Annotated[dict[PartName, Train], MinLen(1)]
    """The parts that are trained; the others are frozen."""
    dtype: Dtypes = field(default_factory=Dtypes)
    """Number formats of the weights in this stage: an LLM that is frozen here may take half the memory."""
    data: Annotated[dict[str, Dataset], MinLen(1)]
    """Datasets by name."""
    mixture: Mixture = field(default_factory=Mixture)
    """How they are mixed."""
    faults: Faults = field(default_factory=Faults)
    """What is done about records that cannot be used."""
    batch: Batching = field(default_factory=Batching)
    """How much goes into one step."""
    steps: PositiveInt | None = None
    """Length of the stage [optimiser steps]."""
    epochs: PositiveInt | None = None
    """Length of the stage in passes over its data, in place of steps; with weights, a pass is as many records
    as all datasets have together. A last step that is not full takes micro-batches of a further pass."""
    optimiser: Optimiser = field(default_factory=Optimiser)
    """AdamW's constants."""
    schedule: Schedule = field(default_factory=Schedule)
    """Learning rate over the stage."""
    clip: NonNegativeFloat = 1.0
    """Largest norm of the gradient; 0 means that it is not clipped."""
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    """When the state is saved."""
    validate: Validate = field(default_factory=Validate)
    """Loss on held-out data."""
    early_stop: EarlyStop | None = None
    """Ends the stage early; null means that it runs to its end. The stage leaves its best weights, unless
    `checkpoint.leave` says otherwise."""
    evaluate: Annotated[list[str], Distinct] = field(default_factory=list)
    """Evaluations of the recipe that are scored with what the stage leaves."""
    gate: dict[str, Gate] = field(default_factory=dict)
    """What has to be reached in an evaluation with what the stage leaves; otherwise no later stage begins."""
    guards: Annotated[list[GuardName], Distinct] = field(default_factory=list)
    """Guards that what the stage leaves has to pass; otherwise no later stage begins. The recipe's section
    `guards` has their bounds."""

    def __post_init__(self) -> None:
        need(
            self.mixture == Mixture() or len(self.data) > 1,
            "mixture says how datasets are mixed, and there is only one",
        )
        need(
            self.mixture.by == "samples"
            or self.mixture.temperature != 1
            or any(source.weight is not None for source in self.data.values()),
            "mixture.by is read only where the datasets have weights or the temperature is not 1",
        )
        need(
            self.steps is None or self.epochs is None,
            "epochs: stands in place of steps: give one of the two, or where another recipe gives the other, "
            "set that to null",
        )
        need(
            self.early_stop is None or self.validate.every > 0,
            "early_stop looks at the validation loss: set validate.every and validate.data",
        )
        need(
            self.checkpoint.keep_best == 0 or self.validate.every > 0,
            "checkpoint.keep_best looks at the validation loss: set validate.every and validate.data",
        )
        need(
            self.checkpoint.leave != "best" or self.validate.every > 0,
            "checkpoint.leave: best looks at the validation loss: set validate.every and validate.data",
        )

    @property
    def scored(self) -> list[str]:
        """The evaluations that are scored at the end of the stage: those of `evaluate`, then of `gate`."""
        return list(dict.fromkeys([*self.evaluate, *self.gate]))

    @property
    def leaves_best(self) -> bool:
        """Whether it leaves the weights of its lowest validation loss, not those of its last step."""
        return (self.checkpoint.leave or ("best" if self.early_stop else "last")) == "best"

    @property
    def decays(self) -> bool:
        """Whether any of what it trains has a weight decay."""
        trained = self.train.values()
        groups = (group for train in trained for group in train.groups.values())
        return any(train.weight_decay for train in trained) or any(group.weight_decay for group in groups)

    @property
    def num_steps(self) -> int:
        """Length of the stage [optimiser steps].

        Raises:
            ValueError: It is given in epochs, which only the data can tell.
        """
        if self.steps is None:
            raise ValueError("the stage's length is given in epochs")
        return self.steps


def _cer() -> Chosen:
    return Chosen.of("metric", "cer")


@dataclass(kw_only=True, frozen=True)
class Evaluation(Options):
    """A test set, how it is scored, and what it is compared with."""

    shards: Pattern
    """Paths of the tar shards, as in a dataset."""
    task: Chosen = field(metadata={"kind": "task"})
    """What is asked of the records."""
    metric: Chosen = field(default_factory=_cer, metadata={"kind": "metric"})
    """How answers are scored."""
    normaliser: str = field(default="none", metadata={"kind": "normaliser"})
    """What is done to reference and prediction before they are compared."""
    generate: Generation = field(default_factory=Generation)
    """How text is generated."""
    precision: Dtype | None = field(default=None, metadata={"before": "fp32"})
    """Number format of computing; null is the trainer's. Baselines have their own."""
    batch_seconds: PositiveFloat = 60.0
    """Audio per batch [s]; a text without audio counts with 0.08 s per character."""
    long_clips: Literal["refuse", "cut"] = "refuse"
    """Clips that are longer than a system takes: refuse is an error, cut cuts them as `kikimimi transcribe`
    cuts files, and joins the answers."""
    baselines: dict[str, Chosen] = field(
        default_factory=dict, metadata={"kind": "recogniser", "noun": "baseline"}
    )
    """Finished systems that transcribe the same clips."""
    cascades: dict[str, Chosen] = field(
        default_factory=dict, metadata={"kind": "recogniser", "noun": "cascade"}
    )
    """Recognisers whose transcripts the run's own LLM is asked in place of the clips, in writing."""
    written: bool = False
    """Ask the run's own LLM the same in writing, too: what is lost by listening."""
    interval_by: str | None = None
    """Field of the records, such as speaker: the interval of a score draws its groups whole. Null draws
    clips."""
    groups: Annotated[list[str], Distinct] | None = None
    """Fields of the records that scores are broken down by, and length. Null: length, and speaker where
    records name one."""


@dataclass(kw_only=True, frozen=True)
class Evaluations(Options):
    """A file of evaluations alone, which `kikimimi evaluate RUN --from FILE` takes."""

    evaluate: dict[str, Evaluation]
    """Evaluations by name."""


@dataclass(kw_only=True, frozen=True)
class Trainer(Options):
    """Where and how the work runs."""

    precision: Dtype = "fp32"
    """Number format of the forward and backward pass."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """What it runs on."""
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """How ranks share the work: with ddp (auto, where there are several) each holds the whole model, with
    fsdp a piece of every parameter."""
    activation_checkpointing: bool = False
    """Compute what happens inside the blocks once more in the backward pass, instead of keeping it: less
    memory, more time, the same numbers."""
    devices: PositiveInt = 1
    """Ranks per node."""
    nodes: PositiveInt = 1
    """Nodes."""
    workers: NonNegativeInt = 0
    """Data loader processes per rank; 0 loads in the rank's own process."""
    log_every: PositiveInt = 10
    """Distance between log lines [steps]."""
    loggers: Annotated[list[Literal["tensorboard", "wandb"]], Distinct] = field(default_factory=list)
    """Loggers beside ``metrics.jsonl``: tensorboard, wandb. That one keeps its files in the run folder, and
    sends nothing unless the environment says WANDB_MODE=online."""
    cache_features: bool = True
    """Keep a frozen encoder's features on disk instead of computing them again."""
    cache_limit_gb: PositiveFloat = 20.0
    """Largest size of that cache [GB]."""

    def __post_init__(self) -> None:
        need(
            not (self.precision == "fp16" and self.accelerator == "cpu"),
            "precision fp16 needs a GPU: use bf16 or fp32",
        )
        need(
            not (self.precision == "fp16" and self.strategy == "fsdp"),
            "precision fp16 does not go with strategy fsdp: use bf16 or fp32",
        )
        need(
            self.cache_features or self.cache_limit_gb == Trainer.cache_limit_gb,
            "cache_limit_gb is read only where cache_features is true",
        )


IMPORTED = "imported"
"""What is called in the place of a stage where a published model is taken as it is, before any training."""


@dataclass(kw_only=True, frozen=True)
class Recipe(Options):
    """A whole experiment: the three parts, the stages of training, the evaluations."""

    name: Name
    """Name of the experiment, and of its run folder."""
    seed: NonNegativeInt = 0
    """Seed of every random choice."""
    encoder: Chosen = field(metadata={"kind": "encoder"})
    """Waveform to frames."""
    adapter: Chosen = field(metadata={"kind": "adapter"})
    """Frames to audio tokens."""
    llm: Chosen = field(metadata={"kind": "llm"})
    """Audio tokens and text to text."""
    stages: Annotated[dict[str, Stage], MinLen(1)]
    """Stages of training in order, by name."""
    evaluate: dict[str, Evaluation] = field(default_factory=dict)
    """Evaluations by name."""
    guards: Guards = field(default_factory=Guards)
    """What training may have cost the LLM, and the bounds of it."""
    trainer: Trainer = field(default_factory=Trainer)
    """Where and how the work runs."""

    def __post_init__(self) -> None:
        length = len(self.name)
        need(
            length <= MAX_NAME,
            f"name: has at most {MAX_NAME} characters, not {length}: folders are called so",
        )
        need(IMPORTED not in self.stages, f"stages.{IMPORTED}: is what 'kikimimi import' leaves: rename it")

    def start_of(self, stage: str) -> str | None:
        """Return the stage whose result a stage starts from, or None for one that starts from the sources."""
        if stage == IMPORTED:
            return None
        names = list(self.stages)
        place = names.index(stage)
        return self.stages[stage].start_from or (names[place - 1] if place else None)

    def precision_of(self, evaluation: Evaluation) -> Dtype:
        """Return the number format in which an evaluation is computed: its own, or the trainer's."""
        return evaluation.precision or self.trainer.precision

    def at(self, stage: str) -> Recipe:
        """Return the recipe with its parts as a stage has them: in the number formats that it sets."""
        if stage == IMPORTED:
            return self
        dtypes = self.stages[stage].dtype
        chosen = {part: getattr(self, part) for part in PARTS}
        changed = {
            part: replace(chosen[part], dtype=getattr(dtypes, part))
            for part in PARTS
            if getattr(dtypes, part) is not None
        }
        return replace(self, **changed)

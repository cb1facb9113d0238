"""What a stage reads: its datasets, how they are mixed and batched, and what is done about bad records."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from kikimimi.recipe.chosen import Chosen, need


@dataclass(kw_only=True, frozen=True)
class Dataset:
    """Shards and the task that makes conversations of their records."""

    shards: str
    """Paths of the tar shards: a path, a glob, or a brace range such as ``train-{000..255}.tar``."""
    task: Chosen = field(metadata={"kind": "task"})
    """What is asked of the records."""
    weight: float | None = None
    """Part of the mixture, relative to the stage's other datasets; all of them have one, or none has: then
    they are read in proportion to their size."""
    max_characters: int | None = None
    """Longest text of a record, all its turns together [characters]; longer ones are left out, counted and
    listed. None is no limit."""

    def __post_init__(self) -> None:
        need(bool(self.shards), "shards must name at least one file, not nothing")
        need(
            self.max_characters is None or self.max_characters >= 1,
            f"max_characters must be at least 1, not {self.max_characters}",
        )
        need(self.weight is None or self.weight > 0, f"weight must be above 0, not {self.weight}")


@dataclass(kw_only=True, frozen=True)
class Mixture:
    """How the datasets of a stage are mixed. One that is exhausted starts again in a new order."""

    by: Literal["samples", "seconds"] = "samples"
    """Whether the weights are parts of the samples or of the seconds."""
    temperature: float = 1.0
    """T of w^(1/T), the part of a dataset of weight w; without weights, w is its size. Above 1 the parts
    become more even."""

    def __post_init__(self) -> None:
        need(self.temperature > 0, f"temperature must be above 0, not {self.temperature}")


@dataclass(kw_only=True, frozen=True)
class Batch:
    """How much goes into one step."""

    seconds: float | None = 60.0
    """Audio per micro-batch [s]; a text without audio counts with 0.08 s per character. Not read where tokens
    are given."""
    tokens: int | None = None
    """Positions of the LLM per micro-batch, audio and text, in place of seconds. Audio tokens count as the
    most that the adapter may give; written text is estimated from its characters."""
    global_: int = field(default=1, metadata={"key": "global"})
    """Micro-batches per optimiser step, over all ranks."""
    bucket: int = 32
    """How many micro-batches' samples (512 at least) are sorted by length together. More means less padding
    in the encoder, and that samples of one length meet more often."""

    def __post_init__(self) -> None:
        need(self.tokens is None or self.tokens >= 1, f"tokens must be at least 1, not {self.tokens}")
        if self.tokens is not None:
            # One of the two is the budget: a recipe that is resolved shows one.
            need(
                self.seconds is None or self.seconds == Batch.seconds,
                "tokens: stands in place of seconds: leave those out, or where another recipe gives them, "
                "set them to null",
            )
            object.__setattr__(self, "seconds", None)
        else:
            need(self.seconds is not None, "seconds: null has a meaning only where tokens are given")
            need((self.seconds or 0) > 0, f"seconds must be above 0, not {self.seconds}")
        need(self.global_ >= 1, f"global must be at least 1, not {self.global_}")
        need(self.bucket >= 1, f"bucket must be at least 1, not {self.bucket}")

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
class Faults:
    """What is done about a record that cannot be used: damaged, malformed, too long. Nothing is ever cut."""

    policy: Literal["fail", "skip"] = "fail"
    """fail: stop before the next step; skip: leave it out, count it, and list it in the run folder."""
    in_a_row: int = 100
    """Stop when so many records one after another cannot be read by a rank, even if they may be skipped."""
    share: float = 0.001
    """Stop when more than this share of the records that a rank has tried cannot be read [fraction]; judged
    once it has tried as many as make one record (1 / share)."""

    def __post_init__(self) -> None:
        need(self.in_a_row >= 1, f"in_a_row must be at least 1, not {self.in_a_row}")
        need(0 < self.share <= 1, f"share must be above 0 and at most 1, not {self.share}")
        need(
            self.policy == "skip" or (self.in_a_row, self.share) == (Faults.in_a_row, Faults.share),
            "in_a_row and share are read only where policy is skip",
        )
